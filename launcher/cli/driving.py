"""Whether somebody drives a run: a launcher that does holds a shared lock on ``locks/<run-id>.launcher.lock``.

It tells people where a run was left alone, and nothing else: no decision of a run depends on it (two
launchers may well drive one run). A reader changes nothing and makes no file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.workspace import Workspace

__all__ = ["driving", "is_driven"]


def _lock(ws: Workspace, run_id: str) -> Path:
    return ws.locks / f"{run_id}.launcher.lock"


@contextmanager
def driving(ws: Workspace, run_id: str) -> Iterator[None]:
    """Hold the run's lock. Where there can be none (no such locks here, a full disk) it goes on without."""
    fd = None
    with suppress(OSError):
        ws.locks.mkdir(parents=True, exist_ok=True)
        fd = os.open(_lock(ws, run_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def is_driven(ws: Workspace, run_id: str) -> bool:
    """Whether a launcher drives ``run_id`` now; False where nothing tells of one."""
    try:
        fd = os.open(_lock(ws, run_id), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A writer's lock is refused while anybody holds the readers' one. Ours lasts for no time at all.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
