"""pull --watch: a file that goes where its pointer goes, and a command after each change.

It ends on SIGINT, SIGTERM and SIGHUP, with 128 and the signal's number, and no command of it is left then. The first
signal asks a command that runs to end and kills it after a grace; the second kills it at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import click

from launcher import clock
from launcher.errors import UsageError
from launcher.serving import Checkpoint, Follower
from launcher.serving.command import Ended, OnChange, end_left
from launcher.serving.file import FileTroubleError
from launcher.serving.trouble import FILE, Troubles
from launcher.storage.port import ObjectStore

__all__ = ["Wishes", "watch"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asked for. ``timeout``: seconds that the command may take, None for ever."""

    command: str | None
    interval: float
    once: bool
    consumer: str | None
    timeout: float | None
    acknowledges: bool


def watch(store: ObjectStore, name: str, dest: Path, wishes: Wishes) -> int:
    """Follow until a signal; with ``once``, look a single time. Returns the exit code."""
    follower = Follower(
        store,
        name,
        dest,
        wishes.consumer,
        acknowledges=wishes.acknowledges,
        troubles=Troubles(says=_warn),
    )
    with follower, _hearing(watcher := _Watcher(follower, wishes)):
        if end_left(follower.file):
            _warn("what a watch that was killed had left running was ended")
        return watcher.once() if wishes.once else watcher.follow()


@contextmanager
def _hearing(watcher: _Watcher) -> Iterator[None]:
    """Signals go to the watcher; one that is ignored (nohup, a job in the background) stays so."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = [number for number, how in before.items() if how is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, watcher.hear)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


class _Watcher:
    def __init__(self, follower: Follower, wishes: Wishes) -> None:
        self._follower, self._wishes = follower, wishes
        self._asked = 0
        self._at_work = False
        self._command = wishes.command and OnChange(
            wishes.command,
            follower.file,
            timeout_seconds=wishes.timeout,
            stopped=lambda: self._asked != 0,
        )

    def hear(self, number: int, frame: FrameType | None) -> None:
        """At once, where no command runs: what was being fetched is cleared away by the next one."""
        if not self._at_work:
            os._exit(128 + number)
        if self._asked and self._command:
            self._command.kill()
        self._asked = number

    def once(self) -> int:
        """One look; errors are the caller's."""
        follower = self._follower
        checkpoint = follower.step()
        if checkpoint is not None:
            return self._apply(checkpoint)
        if follower.live is None:
            raise UsageError(f"pointer {follower.name!r} names nothing yet")
        click.echo(f"{follower.name} g{follower.live.generation}  nothing new")
        return 0

    def follow(self) -> int:
        """Until a signal."""
        while True:
            checkpoint = self._follower.look()
            if checkpoint is not None:
                self._apply(checkpoint)
                if self._asked:
                    return 128 + self._asked
            clock.sleep(self._follower.pause(self._wishes.interval))

    def _apply(self, checkpoint: Checkpoint) -> int:
        follower = self._follower
        ended = self._run(checkpoint)
        at = f"{checkpoint.name} g{checkpoint.generation}  {checkpoint.digest[:19]}…"
        if ended.code == 0:
            follower.applied(checkpoint)
            click.echo(f"{at}  applied")
            return 0
        follower.failed(checkpoint.generation, checkpoint.digest, ended.code, ended.why)
        _warn(f"{at}  {ended.why}")
        return 128 + self._asked if self._asked else ended.code

    def _run(self, checkpoint: Checkpoint) -> Ended:
        if not self._command:
            return Ended(0)
        with self._follower.applying(checkpoint):
            self._at_work = True
            try:
                return self._command.run(checkpoint)
            except FileTroubleError as exc:
                self._follower.troubles.met(FILE, exc)
                return Ended(exc.exit_code, exc.message)
            finally:
                self._at_work = False


def _warn(line: str) -> None:
    click.echo(f"launcher: {line}", err=True)
