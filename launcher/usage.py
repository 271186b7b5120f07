"""What is stored, by class, in bytes; what nothing needs any more. Real numbers, from the store and the disk.

Classes: students, other checkpoints, teachers and inputs, logs, other outputs (every further blob), results
(small objects), run folders, backups (beside targets), ledger.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from launcher.project import is_file_target
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import ObsoleteCheckpoint, StorageMeasured
from ledger.projections.runs import fold_runs

__all__ = ["measure", "obsolete_checkpoints"]

#: So many obsolete files are named in a document; all are counted.
_NAMED: Final = 20


def measure(
    ws: Workspace, *, run_id: str | None = None, alert_file: str | None = None
) -> StorageMeasured:
    """A measurement of this workspace, now. Reads every stream and lists the store."""
    runs = fold_runs(ws.ledger.read_all())
    classes = _store_classes(ws, runs)
    classes["run folders"] = sum(
        _tree_bytes(ws.documents.run_dir(s.request)) for s in runs.values() if s.request
    )
    classes["backups"] = sum(path.stat().st_size for path in _backups(ws))
    ledger_file = ws.home / "ledger.db"
    classes["ledger"] = ledger_file.stat().st_size if ledger_file.exists() else 0
    obsolete = obsolete_checkpoints(ws, runs)
    return StorageMeasured(
        store=ws.store.where,
        bytes_by_class=classes,
        free_bytes=ws.store.free_bytes(),
        obsolete=tuple(obsolete[:_NAMED]),
        obsolete_count=len(obsolete),
        obsolete_bytes=sum(item.size_bytes for item in obsolete),
        run_id=run_id,
        alert_file=alert_file,
    )


def obsolete_checkpoints(ws: Workspace, runs: dict[str, RunState]) -> list[ObsoleteCheckpoint]:
    """Files that may go, largest first: superseded backups, and checkpoints of ended runs that are in the store.

    The newest backup of each target and every live checkpoint's own file stay.
    """
    found = [*_old_backups(ws), *_stored_copies(ws, runs)]
    return sorted(found, key=lambda item: (-item.size_bytes, item.path))


def _old_backups(ws: Workspace) -> list[ObsoleteCheckpoint]:
    found = []
    for name in _file_pointers(ws):
        backups = sorted(_backups_of(ws, name), key=lambda p: (p.stat().st_mtime_ns, p.name))
        for path in backups[:-1]:
            found.append(_obsolete(ws, path, f"an earlier backup of {name}"))
    return found


def _stored_copies(ws: Workspace, runs: dict[str, RunState]) -> list[ObsoleteCheckpoint]:
    live = {
        body.digest
        for name in ws.promoter.pointers.names()
        if (body := ws.promoter.history(name).live) is not None
    }
    found = []
    for state in runs.values():
        if state.status == "open":
            continue
        for checkpoint in state.checkpoints:
            path = ws.root / checkpoint.path
            if checkpoint.digest in live or not path.is_file():
                continue
            if path.stat().st_size == checkpoint.size_bytes:
                why = f"not live; run {state.run_id} ended and the store has it"
                found.append(_obsolete(ws, path, why))
    return found


def _obsolete(ws: Workspace, path: Path, why: str) -> ObsoleteCheckpoint:
    shown = str(path.relative_to(ws.root)) if path.is_relative_to(ws.root) else str(path)
    return ObsoleteCheckpoint(path=shown, size_bytes=path.stat().st_size, why=why)


def _store_classes(ws: Workspace, runs: dict[str, RunState]) -> dict[str, int]:
    class_of: dict[str, str] = {}
    for state in runs.values():
        request = state.request
        for stage in state.stages.values():
            if stage.log_digest:
                class_of[stage.log_digest] = "logs"
        if request is not None:
            given = (request.teacher_checkpoint, request.teacher_scorecard, *request.inputs)
            class_of |= {g.digest: "teachers and inputs" for g in given if g is not None}
    for state in runs.values():
        for checkpoint in state.checkpoints:
            class_of[checkpoint.digest] = "students" if checkpoint.student else "other checkpoints"
    order = ("students", "other checkpoints", "teachers and inputs", "logs", "other outputs")
    classes = dict.fromkeys(order, 0)
    for blob in ws.store.list("blobs/"):
        digest = "sha256:" + blob.key.rpartition("/")[2]
        classes[class_of.get(digest, "other outputs")] += blob.size_bytes
    classes["results"] = sum(o.size_bytes for p in ("runs/", "pointers/") for o in ws.store.list(p))
    return classes


def _file_pointers(ws: Workspace) -> list[str]:
    return [name for name in ws.promoter.pointers.names() if is_file_target(name)]


def _backups(ws: Workspace) -> list[Path]:
    return [path for name in _file_pointers(ws) for path in _backups_of(ws, name)]


def _backups_of(ws: Workspace, name: str) -> list[Path]:
    target = ws.root / name
    if not target.parent.is_dir():
        return []
    prefix = f"{target.name}.bak."
    return [p for p in target.parent.iterdir() if p.name.startswith(prefix) and p.is_file()]


def _tree_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if not path.is_symlink():
                total += path.stat().st_size
    return total
