"""Starting supervisors, and having the next one ready.

A supervisor spends most of its start on imports, so one is started ahead while a stage runs: it has read
its modules and waits on its standard input. Should the launcher go away, it reads nothing and ends.

Nothing of a config reaches a supervisor's own environment: it comes by pipe, for the command alone. A
supervisor says on its standard output when there is something to look at; what it is, the store says.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from typing import Final

from launcher.errors import UnavailableError
from launcher.executors.port import StageSpec

__all__ = ["Spawner"]

#: -I: neither PYTHONPATH nor the working folder decides what is imported.
SUPERVISOR: Final = (sys.executable, "-I", "-m", "launcher.agent.supervisor")


class Spawner:
    """Supervisors of one launcher."""

    def __init__(self) -> None:
        self._ready: subprocess.Popen[bytes] | None = None
        self._children: list[subprocess.Popen[bytes]] = []

    def prepare(self) -> None:
        """Have a supervisor ready for the next ``spawn``. Raises UnavailableError."""
        if self._ready is None:
            self._ready = self._start()

    def spawn(self, spec: StageSpec) -> subprocess.Popen[bytes]:
        """A supervisor that has been told what to do. Raises UnavailableError."""
        child, self._ready = self._ready or self._start(), None
        if child.poll() is not None:  # the one that waited was ended by somebody
            child.communicate()
            child = self._start()
        self._children.append(child)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(spec.to_json())
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        return child

    def reap(self) -> int:
        """Collect supervisors that have ended; returns how many go on."""
        for child in [child for child in self._children if child.poll() is not None]:
            self._children.remove(child)
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()
        return len(self._children)

    def listen(self, pid: int | None, seconds: float) -> bool:
        """Wait until the supervisor ``pid`` says something or ends, at most ``seconds``.

        False where it is none of this launcher's, or has ended: there is nothing to wait for.
        """
        child = next((c for c in self._children if c.pid == pid), None)
        if child is None or child.stdout is None or child.stdout.closed:
            return False
        if select.select([child.stdout], [], [], seconds)[0]:
            return bool(os.read(child.stdout.fileno(), 64))
        return True

    def close(self) -> None:
        """Send the one that waits away."""
        if self._ready is not None:
            self._ready.communicate()
            self._ready = None

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                SUPERVISOR,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        except OSError as exc:
            raise UnavailableError(f"cannot start a supervisor: {exc}") from exc


def last_words(child: subprocess.Popen[bytes]) -> str:
    """The last line that an ended supervisor wrote to its standard error, or ''."""
    text = child.stderr.read().decode("utf-8", "replace") if child.stderr else ""
    return (text.strip().splitlines() or [""])[-1]
