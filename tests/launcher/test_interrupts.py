"""The first Ctrl-C waits for a good moment, the second one does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from launcher.interrupts import Interrupts


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_between_waits_the_first_is_only_noted() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.asked
        interrupt()
        assert interrupts.asked
        assert interrupts.wait(lambda: "waited") is None
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_first_ends_a_wait() -> None:
    with Interrupts() as interrupts:
        assert interrupts.wait(lambda: "waited") == "waited"
        timer = threading.Timer(0.1, interrupt)
        timer.start()
        began = time.monotonic()
        assert interrupts.wait(lambda: time.sleep(30)) is None
        assert time.monotonic() - began < 10
        assert interrupts.asked
        timer.join()


def test_an_error_in_a_wait_is_not_swallowed() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(ValueError, match="why"):
            interrupts.wait(lambda: int("why"))
        interrupt()
        assert interrupts.asked


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_what_was_ignored_or_handled_before_stays_so(handler: signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is handler
        interrupt()
        assert not interrupts.asked


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
