"""What is in a follower's way: said once when it begins, and once when it is over, however often it is met between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from launcher.errors import ConflictError, IntegrityError, LauncherError, UsageError
from launcher.serving.file import FileTroubleError
from launcher.storage.port import AccessRefusedError

__all__ = ["ACKNOWLEDGEMENT", "FILE", "STORE", "Troubles", "kind_of", "passes"]

STORE: Final = "store"
FILE: Final = "file"
ACKNOWLEDGEMENT: Final = "acknowledgement"
_OVER: Final = {
    STORE: "the store answers again",
    FILE: "the file can be written again",
    ACKNOWLEDGEMENT: "acknowledgements are taken again",
}
_log = logging.getLogger("launcher.serving")


def kind_of(error: LauncherError, generation: int) -> str:
    """What an error is an instance of. Damage of another generation is another trouble."""
    if isinstance(error, IntegrityError):
        return f"damage of g{generation}"
    return FILE if isinstance(error, FileTroubleError | ConflictError) else STORE


class Troubles:
    """``says`` hears each line, default a warning of the logger ``launcher.serving``; ``hears`` each first error.

    Threads may share one.
    """

    def __init__(
        self,
        says: Callable[[str], object] = _log.warning,
        hears: Callable[[LauncherError], object] | None = None,
    ) -> None:
        self._says, self._hears = says, hears
        self._now: set[str] = set()
        self._lock = threading.Lock()

    def met(self, kind: str, error: LauncherError) -> None:
        """It is in the way; said where it was not before."""
        with self._lock:
            if kind in self._now:
                return
            self._now.add(kind)
        before = {
            STORE: "still serving what was there: ",
            ACKNOWLEDGEMENT: "served, but nobody hears of it: ",
        }.get(kind, "the file is as it was: ")
        self._says(before + str(error))
        if self._hears is not None:
            self._hears(error)

    def over(self, *kinds: str) -> None:
        """These are over; without any, everything that a look can meet is."""
        with self._lock:
            gone = (set(kinds) if kinds else self._now - {ACKNOWLEDGEMENT}) & self._now
            self._now -= gone
        for kind in sorted(gone):
            if kind in _OVER:
                self._says(_OVER[kind])


def passes(error: LauncherError, *, answered: bool) -> bool:
    """Whether a follower asks again: always once it was answered; before, not where the use is wrong."""
    return answered or not isinstance(error, UsageError) or isinstance(error, AccessRefusedError)
