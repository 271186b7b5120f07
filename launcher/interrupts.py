"""Ctrl-C, between the steps of a run and never in the middle of one.

The first SIGINT is noted, and ends a wait; the second leaves at once, wherever it comes. SIGTERM and
SIGHUP are not caught: the launcher ends like after a SIGKILL, the stage goes on under its supervisor, and
``resume`` goes on from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

__all__ = ["Interrupts"]

T = TypeVar("T")


class Interrupts:
    """A context manager; ``asked`` is whether the first SIGINT came. Does nothing outside the main thread.

    A SIGINT that was ignored or handled otherwise before (``nohup``, a background job) stays so.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def wait(self, call: Callable[[], T]) -> T | None:
        """What ``call`` returns, or None where the first SIGINT came; it may be broken off anywhere."""
        try:
            try:
                self._waits = True
                return None if self.asked else call()
            finally:
                self._waits = False
        except _FirstInterrupt:
            self._waits = False
            return None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again:
            raise KeyboardInterrupt
        if self._waits:
            raise _FirstInterrupt


class _FirstInterrupt(BaseException):
    """Ends a wait; never leaves ``wait``."""
