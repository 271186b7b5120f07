"""The command that runs after each change, and never outlives what runs it.

Rules:

1. It ends with everything that it started when it fails, when its time is over, and when it is stopped. What one that
   ended with 0 left in the background, a server perhaps, is nobody's here and goes on.
2. Nobody can end it when this process is killed (SIGKILL): whoever follows the file next does so first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.agent.command import Command, NotStartedError
from launcher.agent.processes import end_all, members, send
from launcher.serving.file import FileTroubleError, ServedFile
from launcher.serving.follower import Checkpoint

__all__ = ["GRACE_SECONDS", "Ended", "OnChange", "end_left"]

#: Between SIGTERM and SIGKILL.
GRACE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """``why`` is empty where it ended with 0; ``code`` then is 0, and never else."""

    code: int
    why: str = ""


class OnChange:
    """``timeout_seconds``: how long it may take, None for ever. ``stopped``: whether it is to end now."""

    def __init__(
        self,
        text: str,
        file: ServedFile,
        *,
        timeout_seconds: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._text, self._file = text, file
        self._timeout, self._grace, self._stopped = timeout_seconds, grace_seconds, stopped
        self._mark: Path | None = None

    def run(self, checkpoint: Checkpoint) -> Ended:
        """Run it, by bash, with POINTER, GENERATION, DIGEST, RUN_ID and DEST. Raises FileTroubleError."""
        told = {
            "POINTER": checkpoint.name,
            "GENERATION": str(checkpoint.generation),
            "DIGEST": checkpoint.digest,
            "RUN_ID": checkpoint.run_id or "",
            "DEST": str(checkpoint.path),
        }
        mark = self._file.run_mark(clock.new_id())
        try:
            with mark.open("xb") as file:
                self._mark = mark
                return self._watched(mark, file.fileno(), {**os.environ, **told})
        except OSError as exc:
            raise FileTroubleError(f"cannot write {mark}: {exc.strerror}") from exc
        finally:
            self._mark = None
            mark.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it at once, from wherever; who waits for it sees it gone."""
        if self._mark is not None:
            for pid in members(self._mark):
                send(pid, signal.SIGKILL)

    def _watched(self, mark: Path, fd: int, environment: Mapping[str, str]) -> Ended:
        over = clock.deadline(self._timeout if self._timeout is not None else float("inf"))
        try:
            command = Command(
                self._text,
                cwd=str(Path.cwd()),
                environment=environment,
                log=None,
                lock=mark,
                fd=fd,
                adopts=False,
            )
        except NotStartedError as exc:
            return Ended(exc.code or 126, str(exc))
        why, pause = "", 0.005
        while not (why or command.has_ended()):
            clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            if self._stopped():
                why = "the command was ended with the watch"
            elif over():
                why = f"the command did not end within {self._timeout:g} s"
        if not why and command.exit_code == 0:
            return Ended(0)
        code = command.end(self._grace)
        return Ended(code or 124, why or f"the command ended with {code}")


def end_left(file: ServedFile, grace_seconds: float = GRACE_SECONDS) -> int:
    """End what a watch of this file that was killed left running; how many commands that were."""
    marks = file.runs()
    for mark in marks:
        end_all(partial(members, mark), grace_seconds)
        mark.unlink(missing_ok=True)
    return len(marks)
