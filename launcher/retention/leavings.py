"""What killed processes left: unfinished uploads, hidden files, locks of runs that ended long ago.

A lock goes only while this process holds it: its attempt, and all that its command started, is gone.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import LauncherError
from launcher.retention.reach import DAY_SECONDS, Facts, Policy
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectInfo, ObjectStore
from launcher.storage.s3.store import S3Store
from ledger.events import STAGES

__all__ = ["Leavings", "find", "take"]

#: A launcher's lock; an attempt's lock, and its supervisor's complaints.
_OF_A_RUN: Final = re.compile(
    rf"(.+)\.(?:launcher\.lock|(?:{'|'.join(STAGES)})\.[0-9]+\.(?:lock|supervisor\.log))"
)


@dataclass(frozen=True, slots=True)
class Leavings:
    """``uploads`` and ``temporaries`` by key; ``note`` says what could not be looked at."""

    uploads: tuple[ObjectInfo, ...] = ()
    temporaries: tuple[ObjectInfo, ...] = ()
    locks: tuple[Path, ...] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(self.uploads) + len(self.temporaries) + len(self.locks)


def find(store: ObjectStore, locks: Path, facts: Facts, policy: Policy, now: float) -> Leavings:
    """What may go. Changes nothing."""
    uploads: tuple[ObjectInfo, ...] = ()
    temporaries: tuple[ObjectInfo, ...] = ()
    note = ""
    if isinstance(store, S3Store):
        try:
            uploads = tuple(store.stale_uploads(now - policy.trash_seconds))
        except LauncherError as exc:
            note = f"unfinished uploads were not looked at: {exc.message}"
    if isinstance(store, FilesystemStore):
        stale = now - DAY_SECONDS
        temporaries = tuple(o for o in store.stale_temporaries() if o.modified < stale)
    return Leavings(uploads, temporaries, tuple(_old_locks(locks, facts, policy, now)), note)


def take(store: ObjectStore, found: Leavings, policy: Policy, now: float) -> int:
    """Remove them; returns how many went."""
    gone = 0
    if found.uploads and isinstance(store, S3Store):
        gone += store.abort_stale_uploads(now - policy.trash_seconds)
    if found.temporaries and isinstance(store, FilesystemStore):
        gone += store.remove_temporaries(o.key for o in found.temporaries)
    return gone + sum(_take_lock(path) for path in found.locks)


def _old_locks(folder: Path, facts: Facts, policy: Policy, now: float) -> Iterator[Path]:
    """Files of runs that ended longer ago than the grace."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return
    for name in names:
        found = _OF_A_RUN.fullmatch(name)
        run = facts.runs.get(found[1]) if found else None
        if run is None or run.ended_at is None or now - run.ended_at < policy.trash_seconds:
            continue
        yield folder / name


def _take_lock(path: Path) -> bool:
    """Remove one, if nobody holds it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        with suppress(OSError):
            os.close(fd)
    return True
