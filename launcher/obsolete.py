"""Visible files that nothing needs any more, each a path that a person may remove.

A file is called obsolete only if the store has its bytes under the digest that the ledger gives it, it was not
touched since, nothing that is live or open names it, and it is not a target's newest backup. A doubt keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.storage.pointer import PointerHistory
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import ObsoleteCheckpoint

__all__ = ["backups_of", "old_backups", "stored_copies"]

#: How long after a run's end its files may still have been written by it: clocks differ, times are rounded.
_END_SECONDS: Final = 2.0


def backups_of(ws: Workspace, name: str) -> list[Path]:
    target = ws.root / name
    prefix = f"{target.name}.bak."
    try:
        with os.scandir(target.parent) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.startswith(prefix) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []


def old_backups(
    ws: Workspace, backups: Mapping[str, list[Path]], blobs: Mapping[str, int]
) -> Iterator[ObsoleteCheckpoint]:
    """Backups that the ledger knows, but the newest of each target, and whose bytes the store has.

    Any other one may be the only copy of what somebody put there by hand.
    """
    for name, present in backups.items():
        known: dict[Path, str] = {}
        for _, confirmed in ws.journal.pointer(name).confirmations:
            held = confirmed.generation.previous.digest
            path = ws.root / confirmed.backup if confirmed.backup else None
            if path is not None and held is not None and path in present:
                known[path] = held
        for path, held in list(known.items())[:-1]:
            if _is_file_of(path, blobs.get(held)):
                yield _obsolete(ws, path, blobs[held], f"an earlier backup of {name}")


def stored_copies(
    ws: Workspace,
    runs: Mapping[str, RunState],
    histories: Mapping[str, PointerHistory],
    blobs: Mapping[str, int],
) -> Iterator[ObsoleteCheckpoint]:
    """Checkpoints in the folders of ended runs that are in the store, not live, and no open run's input."""
    live = {h.live.digest for h in histories.values() if h.live is not None}
    needed = {
        str(ws.root / given.path)
        for state in runs.values()
        if state.status == "open" and (request := state.request)
        for given in request.given
    }
    for state in runs.values():
        if state.status == "open" or state.request is None or state.ended_at is None:
            continue
        end = clock.parse_time(state.ended_at).timestamp() + _END_SECONDS
        root = Path(state.request.project_root)
        for checkpoint in {c.path: c for c in state.checkpoints}.values():
            path, size = root / checkpoint.path, blobs.get(checkpoint.digest)
            if checkpoint.digest in live or str(path) in needed or size != checkpoint.size_bytes:
                continue
            if _is_file_of(path, size, end):
                why = f"not live; run {state.run_id} ended and the store has it"
                yield _obsolete(ws, path, size, why)


def _is_file_of(path: Path, size: int | None, until: float | None = None) -> bool:
    """Whether a plain file has this size, and was not written after ``until``."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    plain = found.st_size == size and not path.is_symlink()
    return plain and (until is None or found.st_mtime <= until)


def _obsolete(ws: Workspace, path: Path, size: int, why: str) -> ObsoleteCheckpoint:
    shown = str(path.relative_to(ws.root)) if path.is_relative_to(ws.root) else str(path)
    return ObsoleteCheckpoint(path=shown, size_bytes=size, why=why)
