"""A process that has read its modules and forks a supervisor for each attempt that it is given.

Reading modules takes a supervisor's start ten times as long as all else, so it is done once a run, while
the launcher is still busy. The starter itself does nothing but read, fork and collect: it has one thread and
opens nothing, so a fork of it is as clean as a new process.

On standard input: attempts, each a StageSpec as JSON behind its length (8 bytes, big-endian). At its end,
the launcher's end, the starter ends too; supervisors have sessions of their own and go on. On standard
output, a line each: ``<pid> forked``, ``<pid> look`` (from a supervisor: there is something in the store),
``<pid> ended``. What is true is in the store alone; these lines only save asking it all the time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from typing import Final

import pathspec  # noqa: F401 - collecting needs it, and imports it where it is used

from launcher.agent import supervisor
from launcher.agent.protocol import StageSpec
from launcher.errors import LauncherError
from launcher.storage.opening import warm

__all__ = ["LENGTH_BYTES", "main"]

LENGTH_BYTES: Final = 8


def main(store: str = "") -> int:
    """Fork a supervisor for each attempt on standard input, until its end. ``store``: where it will be."""
    warm(store)
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _collect()
        if 0 in ready:
            data = _read()
            if data is None:
                return 0
            _fork(data, (wake, write))


def _read() -> bytes | None:
    """The next attempt; None at the end, even in the middle of one: nobody waits for it any more."""
    head = _exactly(LENGTH_BYTES)
    return _exactly(int.from_bytes(head)) if head else None


def _exactly(size_bytes: int) -> bytes | None:
    data = b""
    while len(data) < size_bytes:
        chunk = os.read(0, size_bytes - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def _collect() -> None:
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            supervisor.say(f"{pid} ended")


def _fork(data: bytes, not_its: tuple[int, int]) -> None:
    pid = os.fork()
    if pid:
        supervisor.say(f"{pid} forked")
        return
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in not_its:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        code = supervisor.Supervisor(StageSpec.from_json(data)).run()
    except LauncherError as exc:
        code = exc.exit_code
        _last_words(f"{exc}\n")
    except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
        _last_words(traceback.format_exc())
    finally:
        os._exit(code)


def _last_words(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
