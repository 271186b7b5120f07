"""Which processes belong to an attempt, and how they are ended.

Rules:

1. Everything that a command starts ends with it, as in a container: its process group, and whoever left
   that group with ``setsid`` or was started by a process that is gone.
2. A process belongs to an attempt if it holds the attempt's lock open, carries its mark in the
   environment it was started with, or descends from one that does. Programs close what they inherited
   (Python's ``subprocess`` does) or rewrite their environment; hardly any does both and loses its parent.
3. Ids are looked up right before they are signalled and are never kept as identities.

Processes of other users are neither seen nor ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

__all__ = ["MARK", "adopt_orphans", "descendants", "end_all", "members", "send"]

#: The variable that names an attempt's lock to everything that its command starts.
MARK: Final = "DISTILL_LEDGER_ATTEMPT"
_HAS_PROC: Final = Path("/proc/self/stat").exists()
#: From <linux/prctl.h>.
_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent ends (Linux). False where that cannot be."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def members(lock: Path) -> set[int]:
    """The living processes of the attempt that ``lock`` belongs to, this one left out."""
    parents = dict(_parents())
    seeds = {pid for pid in parents if _belongs(pid, lock)}
    return _closure(seeds, parents) - {os.getpid()}


def descendants(pid: int) -> set[int]:
    """The living processes below ``pid``."""
    return _closure({pid}, dict(_parents())) - {pid}


def send(pid: int, number: signal.Signals) -> bool:
    """Signal one process; False where it is another user's. One that is gone is no matter."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def end_all(
    left: Callable[[], set[int]], grace_seconds: float, asks: Callable[[], bool] = lambda: True
) -> None:
    """Wait until ``left`` finds nobody: TERM to each once ``asks`` says so, KILL to all when the grace is over.

    Processes that are another user's by now are not waited for.
    """
    deadline = time.monotonic() + grace_seconds
    told: set[int] = set()
    not_ours: set[int] = set()
    pause = 0.001
    while found := left() - not_ours:
        if time.monotonic() >= deadline:
            not_ours |= {pid for pid in found if not send(pid, signal.SIGKILL)}
        elif asks():
            not_ours |= {pid for pid in found - told if not send(pid, signal.SIGTERM)}
            told |= found
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _closure(seeds: set[int], parents: Mapping[int, int]) -> set[int]:
    found = set(seeds)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """(pid, its parent) of every living process; zombies are not alive."""
    if not _HAS_PROC:
        yield from _parents_by_psutil()
        return
    with os.scandir("/proc") as found:
        pids = [int(entry.name) for entry in found if entry.name.isdigit()]
    for pid in pids:
        # Behind the name in parentheses, which may hold anything: state, ppid, … (proc(5)).
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields and fields[0] not in (b"Z", b"X"):
            yield pid, int(fields[1])


def _parents_by_psutil() -> Iterator[tuple[int, int]]:
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.ppid()


def _belongs(pid: int, lock: Path) -> bool:
    if not _HAS_PROC:
        return _belongs_by_psutil(pid, lock)
    mark = f"{MARK}={lock}".encode()
    return mark in _read(f"/proc/{pid}/environ").split(b"\0") or _holds(pid, lock)


def _holds(pid: int, lock: Path) -> bool:
    try:
        wanted = lock.stat()
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            return any(_is_same(entry, wanted) for entry in descriptors)
    except OSError:
        return False


def _is_same(entry: os.DirEntry[str], wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(entry.stat(), wanted)
    except OSError:
        return False


def _belongs_by_psutil(pid: int, lock: Path) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.environ().get(MARK) == str(lock):
            return True
        return any(file.path == str(lock) for file in process.open_files())
    return False


def _read(path: str) -> bytes:
    """A small file's bytes; nothing where it may not be read or is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
