"""A stage's command: started, waited for, and ended with everything that it started.

``bash -o pipefail -c COMMAND``, in a process group of its own, both outputs raw into one log (or where this
process's own go). Where the
kernel can (Linux), its orphaned descendants become children of this process, so that "all of it is gone"
is something the kernel says, not something that was looked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from launcher.agent.processes import MARK, adopt_orphans, descendants, end_all, members

__all__ = ["Command", "NotStartedError"]


class NotStartedError(Exception):
    """The command could not be started; ``code`` as a shell gives it, or None where its log cannot be written."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Command:
    """One running command, whose attempt's ``lock`` (path and descriptor) it inherits.

    ``adopts``: whether the orphans of this process are all the command's; then it is the only one that ever runs here.
    Raises NotStartedError.
    """

    def __init__(
        self,
        text: str,
        *,
        cwd: str,
        environment: Mapping[str, str],
        log: Path | None,
        lock: Path,
        fd: int,
        adopts: bool = True,
    ) -> None:
        self._lock = lock
        self._adopts = adopts and adopt_orphans()
        with _opened(log) as out:
            try:
                self._bash = subprocess.Popen(
                    ["bash", "-o", "pipefail", "-c", text],
                    cwd=cwd,
                    env={**environment, MARK: str(lock)},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=None if out is None else subprocess.STDOUT,
                    pass_fds=(fd,),
                    process_group=0,
                )
            except OSError as exc:
                # As a shell says it: 127 for a program that is not there, 126 for one that cannot run.
                code = 127 if isinstance(exc, FileNotFoundError) else 126
                what = f"cannot start bash in {cwd}: {exc.strerror}"
                if out is not None:
                    out.write(f"{what}\n".encode())
                raise NotStartedError(what, code) from exc

    def has_ended(self) -> bool:
        """Whether its bash has ended; other children, adopted ones, are collected on the way."""
        while self._adopts:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            if found.si_pid == self._bash.pid:
                self._bash.poll()
            else:
                os.waitpid(found.si_pid, 0)
        return self._bash.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """Bash's, 128 + n for a signal; None while it runs."""
        code = self._bash.returncode
        return 128 - code if code is not None and code < 0 else code

    def end(self, grace_seconds: float) -> int:
        """End all that is left of it; returns bash's exit code, 128 + n for a signal.

        Its group is asked first, as Ctrl-C would; who left the group only once bash is gone, for a
        trainer may have to end its workers in order. KILL to all of them when the grace is over.
        """
        self._signal_group(signal.SIGTERM)
        self._signal_group(signal.SIGCONT)
        end_all(self._remains, grace_seconds, lambda: self._bash.returncode is not None)
        self._bash.wait()
        code = self.exit_code
        assert code is not None
        return code

    def _remains(self) -> set[int]:
        """Who is alive of it, bash included."""
        if not self._adopts:
            self.has_ended()
            return members(self._lock)
        while not (self.has_ended() and _is_childless()):
            found = descendants(os.getpid())
            if found:
                return found
        return set()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._bash.pid, number)
        except (ProcessLookupError, PermissionError):
            return


@contextmanager
def _opened(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = log.open("ab")
    except OSError as exc:
        raise NotStartedError(f"cannot write {log}: {exc.strerror}") from exc
    with out:
        yield out


def _is_childless() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False
