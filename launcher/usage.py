"""What is stored, by class, in bytes; what nothing needs any more. Real numbers, from the store and the disk.

Rules:

1. Bytes are those that files have (``st_size``). A symlink is no bytes; a file with several names in run
   folders and beside targets counts once.
2. What vanishes while it is counted is not counted; what may not be read is said (``unreadable``).
3. A file is called obsolete only if the store has its bytes under the digest that the ledger gives it, it was
   not touched since, nothing that is live or open names it, and it is not a target's newest backup. A doubt
   keeps it.

Classes: students, other checkpoints, teachers and inputs, logs, other outputs (every further blob), results
(small objects), trash (``launcher gc`` empties it), run folders, backups (beside targets), ledger (its journal and
write-ahead log too).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.errors import IntegrityError
from launcher.project import is_file_target
from launcher.storage.pointer import PointerHistory
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import ObsoleteCheckpoint, StorageMeasured
from ledger.projections.runs import fold_runs

__all__ = ["PointerUsage", "RunUsage", "Usage", "measure", "store_classes", "survey"]

#: So many obsolete files are named in a document; all are counted.
_NAMED: Final = 20
#: How long after a run's end its files may still have been written by it: clocks differ, times are rounded.
_END_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class RunUsage:
    """``folder_bytes`` on disk; ``stored_bytes`` of its checkpoints, tags and logs in the store, shared or not."""

    run_id: str
    status: str
    folder_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class PointerUsage:
    """``kept_bytes``: the different checkpoints that its generations name; ``backup_bytes`` beside the target."""

    name: str
    generations: int
    kept_bytes: int
    backup_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """All of a workspace. ``obsolete`` largest first; ``unreadable`` are folders that could not be looked into."""

    store: str
    classes: Mapping[str, int]
    free_bytes: int | None
    runs: tuple[RunUsage, ...]
    pointers: tuple[PointerUsage, ...]
    obsolete: tuple[ObsoleteCheckpoint, ...]
    unreadable: tuple[str, ...] = ()


def measure(
    ws: Workspace, *, run_id: str | None = None, alert_file: str | None = None
) -> StorageMeasured:
    """A measurement of this workspace, now, as the fact that is to be appended."""
    usage = survey(ws)
    return StorageMeasured(
        store=usage.store,
        bytes_by_class=dict(usage.classes),
        free_bytes=usage.free_bytes,
        obsolete=usage.obsolete[:_NAMED],
        obsolete_count=len(usage.obsolete),
        obsolete_bytes=sum(item.size_bytes for item in usage.obsolete),
        run_id=run_id,
        alert_file=alert_file,
    )


def survey(ws: Workspace) -> Usage:
    """Count everything. Reads the ledger, lists the store and the run folders; writes nothing."""
    runs = fold_runs(ws.ledger.read_all())
    blobs = {"sha256:" + o.key.rpartition("/")[2]: o.size_bytes for o in ws.store.list("blobs/")}
    disk = _Disk()
    histories, whole = _histories(ws)
    folders = {
        run: disk.tree(ws.documents.run_dir(s.request)) for run, s in runs.items() if s.request
    }
    backups = {name: _backups_of(ws, name) for name in histories if is_file_target(name)}
    backup_bytes = {name: disk.files(paths) for name, paths in backups.items()}
    classes = store_classes(runs, blobs)
    classes["results"] = sum(o.size_bytes for p in ("runs/", "pointers/") for o in ws.store.list(p))
    classes["trash"] = sum(o.size_bytes for o in ws.store.list("trash/"))
    classes["run folders"] = sum(folders.values())
    classes["backups"] = sum(backup_bytes.values())
    classes["ledger"] = disk.files(
        ws.home / f"ledger.db{suffix}" for suffix in ("", "-journal", "-wal", "-shm")
    )
    found = [*_old_backups(ws, backups, blobs), *_stored_copies(ws, runs, histories, blobs)]
    return Usage(
        store=ws.store.where,
        classes=classes,
        free_bytes=ws.store.free_bytes(),
        runs=tuple(
            RunUsage(run, state.status, folders.get(run, 0), _stored(state, blobs))
            for run, state in runs.items()
        ),
        pointers=tuple(
            PointerUsage(name, h.latest, _kept(h, blobs), backup_bytes.get(name, 0))
            for name, h in histories.items()
        ),
        # Where a pointer cannot be read, nobody knows what it needs.
        obsolete=tuple(sorted(found, key=lambda i: (-i.size_bytes, i.path))) if whole else (),
        unreadable=tuple(disk.unreadable),
    )


def _histories(ws: Workspace) -> tuple[dict[str, PointerHistory], bool]:
    """Every pointer's generations, and whether all of them could be read."""
    found, whole = {}, True
    for name in ws.promoter.pointers.names():
        try:
            found[name] = ws.promoter.history(name)
        except IntegrityError:
            whole = False
    return found, whole


# --- by class -----------------------------------------------------------------------------------------


def store_classes(runs: Mapping[str, RunState], blobs: Mapping[str, int]) -> dict[str, int]:
    """A blob that is several things is the first of: student, other checkpoint, input, log."""
    class_of: dict[str, str] = {}
    for state in runs.values():
        for digest in _logs(state):
            class_of[digest] = "logs"
    for state in runs.values():
        if (request := state.request) is not None:
            given = (request.teacher_checkpoint, request.teacher_scorecard, *request.inputs)
            class_of |= {g.digest: "teachers and inputs" for g in given if g is not None}
    for student in (False, True):
        for state in runs.values():
            for checkpoint in state.checkpoints:
                if checkpoint.student is student:
                    class_of[checkpoint.digest] = "students" if student else "other checkpoints"
    order = ("students", "other checkpoints", "teachers and inputs", "logs", "other outputs")
    classes = dict.fromkeys(order, 0)
    for digest, size in blobs.items():
        classes[class_of.get(digest, "other outputs")] += size
    return classes


def _logs(state: RunState) -> Iterator[str]:
    return (s.log_digest for s in state.stages.values() if s.log_digest)


def _stored(state: RunState, blobs: Mapping[str, int]) -> int:
    digests = {c.digest for c in state.checkpoints} | set(_logs(state))
    if state.tags is not None and state.tags.digest:
        digests.add(state.tags.digest)
    return sum(blobs.get(digest, 0) for digest in digests)


def _kept(history: PointerHistory, blobs: Mapping[str, int]) -> int:
    digests = {body.digest for body in history.generations if body.digest is not None}
    return sum(blobs.get(digest, 0) for digest in digests)


@dataclass
class _Disk:
    """Counts visible files; one that has several names is counted under the first."""

    unreadable: list[str] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def tree(self, folder: Path) -> int:
        """The bytes under ``folder`` (itself perhaps a link); 0 where it is not there."""
        total, todo = 0, [str(folder)]
        while todo:
            place = todo.pop()
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            total += self._bytes(entry)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                self.unreadable.append(place)
        return total

    def files(self, paths: Iterable[Path]) -> int:
        """The bytes of these files, where they are there."""
        return sum(self._bytes(path) for path in paths)

    def _bytes(self, file: os.DirEntry[str] | Path) -> int:
        try:
            found = file.stat(follow_symlinks=False)
        except OSError:
            return 0
        if found.st_nlink > 1:
            key = (found.st_dev, found.st_ino)
            if key in self._seen:
                return 0
            self._seen.add(key)
        return found.st_size


# --- obsolete -----------------------------------------------------------------------------------------


def _backups_of(ws: Workspace, name: str) -> list[Path]:
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


def _old_backups(
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


def _stored_copies(
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
        for given in (request.teacher_checkpoint, request.teacher_scorecard, *request.inputs)
        if given is not None
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
