"""pull --watch: a file that goes where its pointer goes, and a command after each change."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Final

import click

from launcher import clock
from launcher.errors import LauncherError, UnavailableError, UsageError
from launcher.serving import Checkpoint, Follower
from launcher.storage.port import ObjectStore

__all__ = ["watch"]

_FIRST_WAIT_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 300.0


def watch(
    store: ObjectStore,
    name: str,
    dest: Path,
    *,
    command: str | None,
    interval: float,
    once: bool,
    consumer: str | None,
) -> int:
    """Follow until a signal; with ``once``, look a single time and return the exit code."""
    watcher = _Watcher(command)
    signal.signal(signal.SIGTERM, watcher.end)
    with Follower(store, name, dest, consumer) as follower:
        if once:
            return watcher.once(follower)
        while True:
            clock.sleep(watcher.look(follower, interval))


class _Watcher:
    def __init__(self, command: str | None) -> None:
        self._command = command
        self._running: subprocess.Popen[bytes] | None = None
        self._said = ""
        self._failures, self._failed_on = 0, 0

    def end(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: at once, the command with us. What was being fetched is cleared away by the next one."""
        running = self._running
        if running is not None and running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
        os._exit(128 + number)

    def once(self, follower: Follower) -> int:
        """One look; errors are the caller's."""
        checkpoint = follower.step()
        if checkpoint is None:
            if follower.live is None:
                raise UsageError(f"pointer {follower.name!r} names nothing yet")
            click.echo(f"{follower.name} g{follower.live.generation}  nothing new")
            return 0
        return self._apply(follower, checkpoint)

    def look(self, follower: Follower, interval: float) -> float:
        """One look; how long to wait until the next one."""
        try:
            checkpoint = follower.step()
            self._say("")
            if checkpoint is None or self._apply(follower, checkpoint) == 0:
                self._failures = 0
                return clock.jittered(interval)
        except UnavailableError as exc:
            self._say(f"still serving what was there: {exc}")
            return clock.jittered(interval)
        except UsageError:
            raise
        except LauncherError as exc:
            live = follower.live
            self._say(f"{follower.dest} is untouched: {exc}")
            if live is not None and live.digest is not None and self._failures == 0:
                follower.failed(live.generation, live.digest, None, str(exc))
        newest = follower.live.generation if follower.live else 0
        self._failures = self._failures + 1 if newest == self._failed_on else 1
        self._failed_on = newest
        wait = _FIRST_WAIT_SECONDS * 2.0 ** min(self._failures - 1, 16)
        return clock.jittered(min(wait, _LONGEST_WAIT_SECONDS))

    def _apply(self, follower: Follower, checkpoint: Checkpoint) -> int:
        code = self._run(checkpoint)
        at = f"{checkpoint.name} g{checkpoint.generation}  {checkpoint.digest[:19]}…"
        if code == 0:
            follower.applied(checkpoint)
            click.echo(f"{at}  applied")
        else:
            why = f"the command ended with {code}"
            follower.failed(checkpoint.generation, checkpoint.digest, code, why)
            click.echo(f"launcher: {at}  {why}", err=True)
        return code

    def _run(self, checkpoint: Checkpoint) -> int:
        if self._command is None:
            return 0
        told = {
            "POINTER": checkpoint.name,
            "GENERATION": str(checkpoint.generation),
            "DIGEST": checkpoint.digest,
            "RUN_ID": checkpoint.run_id or "",
            "DEST": str(checkpoint.path),
        }
        with subprocess.Popen(
            ["bash", "-c", self._command],
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as self._running:
            code = self._running.wait()
        self._running = None
        return code if code >= 0 else 128 - code

    def _say(self, trouble: str) -> None:
        """Once for each trouble, and once when it is over."""
        if trouble == self._said:
            return
        click.echo(f"launcher: {trouble or 'the store answers again'}", err=True)
        self._said = trouble
