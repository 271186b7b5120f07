"""How a process comes to use the cluster, and leaves it: the first starts a keeper, the last one's leaving ends it.

A user holds ``keeper.USERS`` shared; whoever wants in while a cluster is being taken away waits until it is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.rig.cluster import machine
from tests.rig.cluster.keeper import KEEPER, READY, USERS
from tests.rig.cluster.programs import programs
from tests.rig.tools import skip

__all__ = ["joined"]

_START_SECONDS = 240
_LEAVE_SECONDS = 60
_ROOT = Path(__file__).parents[3]


@contextmanager
def joined() -> Iterator[dict[str, Any]]:
    """What the keeper says of its cluster, which is there until the end of the block. Skips where none can be."""
    programs()
    machine.RUN.mkdir(parents=True, exist_ok=True)
    with USERS.open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        pid = _started()
        try:
            yield json.loads(READY.read_text())
        finally:
            users.close()
            _left(pid)


def _started() -> int | None:
    """There is a cluster when this returns; the pid of the keeper, where it was started here."""
    with (machine.RUN / "start.lock").open("w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        if not _free(KEEPER):
            if not READY.exists():
                skip(f"a keeper that has no cluster is still there; see {machine.LOGS}")
            return None
        machine.clear()
        log = machine.RUN / "keeper.log"
        pid = _spawn(log)
        end = time.monotonic() + _START_SECONDS
        while not READY.exists():
            if os.waitpid(pid, os.WNOHANG)[0]:
                skip(f"the cluster did not start: {log.read_text(errors='replace').strip()[-800:]}")
            if time.monotonic() > end:
                skip(f"the cluster did not start within {_START_SECONDS} s; see {machine.LOGS}")
            time.sleep(0.05)
        return pid


def _spawn(log: Path) -> int:
    """A process of its own session, which outlives us where others use the cluster."""
    command = [sys.executable, "-m", "tests.rig.cluster.keeper"]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        command[0],
        command,
        {**os.environ, "PYTHONPATH": str(_ROOT)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _left(pid: int | None) -> None:
    """Wait for the keeper's end, unless others use its cluster."""
    began = time.monotonic()
    while time.monotonic() < began + _LEAVE_SECONDS:
        if pid is not None and os.waitpid(pid, os.WNOHANG)[0]:
            return
        if pid is None and _free(KEEPER):
            return
        # It looks twice a second; once it has the lock, nobody can share it.
        if time.monotonic() > began + 2 and _shared(USERS):
            return
        time.sleep(0.05)


def _free(lock: Path) -> bool:
    with lock.open("w") as held:
        return _taken(held, fcntl.LOCK_EX)


def _shared(lock: Path) -> bool:
    with lock.open("w") as held:
        return _taken(held, fcntl.LOCK_SH)


def _taken(held: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
