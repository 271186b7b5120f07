"""Starting supervisors, by way of a starter that has read its modules already.

Nothing of a config reaches a starter's or supervisor's own environment: it comes by pipe, for the command
alone. What a supervisor says here is only that there is something to look at; what it is, the store says.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from typing import Final

from launcher.errors import UnavailableError
from launcher.executors.port import StageSpec

__all__ = ["LENGTH_BYTES", "STARTER", "Spawner"]

#: -I: neither PYTHONPATH nor the working folder decides what is imported.
STARTER: Final = (sys.executable, "-I", "-m", "launcher.agent.starter")
#: As in launcher.agent.starter, which is not imported here: it is another process's.
LENGTH_BYTES: Final = 8
#: How long a starter may take to read its modules.
_START_SECONDS: Final = 30.0


class Spawner:
    """The supervisors of one launcher. One thread uses it."""

    def __init__(self, store: str = "") -> None:
        """``store``: a bucket whose client is read ahead too."""
        self._more = (store,) if store else ()
        self._starter: subprocess.Popen[bytes] | None = None
        self._living: set[int] = set()
        self._forked: int | None = None
        self._lines = b""
        #: How many lines were heard: one more is a reason to look.
        self.heard = 0

    def prepare(self) -> None:
        """Have a starter ready. Raises UnavailableError."""
        if self._starter is not None and self._starter.poll() is None:
            return
        self.close()
        try:
            self._starter = subprocess.Popen(
                (*STARTER, *self._more),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        except OSError as exc:
            raise UnavailableError(f"cannot start a supervisor: {exc}") from exc

    def spawn(self, spec: StageSpec) -> int:
        """The process id of a supervisor that has been told what to do. Raises UnavailableError."""
        self.prepare()
        starter = self._starter
        assert starter is not None
        assert starter.stdin is not None
        data = spec.to_json()
        with contextlib.suppress(BrokenPipeError):
            starter.stdin.write(len(data).to_bytes(LENGTH_BYTES) + data)
            starter.stdin.flush()
        self._forked = None
        deadline = time.monotonic() + _START_SECONDS
        # Not whoever lives: one that finds its attempt taken may have ended by the time that it is heard of.
        while self._forked is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._hear(left):
                words = self.last_words()
                self.close()
                raise UnavailableError(f"no supervisor could be started: {words}")
        return self._forked

    def listen(self, pid: int, seconds: float) -> bool:
        """Wait until the supervisor ``pid`` says something or ends, at most ``seconds``.

        False where it is none of this launcher's, or has ended: there is nothing to wait for.
        """
        return pid in self._living and self._hear(seconds) and pid in self._living

    def last_words(self) -> str:
        """The last line that a starter or supervisor left on its standard error."""
        starter = self._starter
        if starter is None or starter.stderr is None:
            return "without a word"
        os.set_blocking(starter.stderr.fileno(), False)
        text = (starter.stderr.read() or b"").decode("utf-8", "replace")
        return (text.strip().splitlines() or ["without a word"])[-1]

    def close(self) -> None:
        """Send the starter away; supervisors go on."""
        starter, self._starter = self._starter, None
        self._living.clear()
        self._lines = b""
        if starter is None:
            return
        for pipe in (starter.stdin, starter.stdout, starter.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            starter.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            starter.kill()
            starter.wait()

    def _hear(self, seconds: float) -> bool:
        """Take in what is said within ``seconds``; False where nobody is left to say anything."""
        starter = self._starter
        if starter is None or starter.stdout is None:
            return False
        if not select.select([starter.stdout], [], [], seconds)[0]:
            return True
        said = os.read(starter.stdout.fileno(), 4096)
        *lines, self._lines = (self._lines + said).split(b"\n")
        self.heard += len(lines)
        for line in lines:
            pid, _, what = line.partition(b" ")
            if what == b"forked":
                self._forked = int(pid)
                self._living.add(self._forked)
            elif what == b"ended":
                self._living.discard(int(pid))
        return bool(said)
