"""What is stored, by class, in bytes; what nothing needs any more. Real numbers, from the store and the disk.

Rules:

1. Bytes are those that files have (``st_size``). A symlink is no bytes; a file with several names in run
   folders and beside targets counts once.
2. What vanishes while it is counted is not counted; what may not be read is said (``unreadable``).
3. What is called obsolete is ``launcher.obsolete``'s to say.
4. A bucket is listed once, by what lies in it: about as many requests as it has thousands of objects.

Classes: students, other checkpoints, teachers and inputs, logs, other outputs (every further blob), results
(small objects), trash (``launcher gc`` empties it), run folders, backups (beside targets), ledger (in the home with
its journal and write-ahead log, or the segments in the store).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from launcher.errors import IntegrityError
from launcher.obsolete import backups_of, old_backups, stored_copies
from launcher.project import is_file_target
from launcher.storage.bucket_url import is_bucket
from launcher.storage.pointer import PointerHistory
from launcher.storage.port import AccessRefusedError
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import ObsoleteCheckpoint, StorageMeasured
from ledger.projections.runs import fold_runs

__all__ = ["PointerUsage", "RunUsage", "Uploads", "Usage", "measure", "store_classes", "survey"]

#: So many obsolete files are named in a document; all are counted.
_NAMED: Final = 20
#: Under what the small objects lie that are no blobs: results, generations, followers' notes.
_RESULTS: Final = ("runs/", "pointers/", "consumers/")


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
class Uploads:
    """Uploads that were begun and not ended; ``since`` (RFC 3339) is when the oldest was, None where there are none."""

    count: int
    since: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """All of a workspace. ``obsolete`` largest first; ``unreadable`` are folders that could not be looked into.

    ``stored_bytes`` of the classes lie in the store, and count against ``quota_bytes`` (LAUNCHER_QUOTA_BYTES).
    ``uploads`` is None where the store has no such thing, or they were not looked for.
    """

    store: str
    classes: Mapping[str, int]
    stored_bytes: int
    free_bytes: int | None
    quota_bytes: int | None
    runs: tuple[RunUsage, ...]
    pointers: tuple[PointerUsage, ...]
    obsolete: tuple[ObsoleteCheckpoint, ...]
    unreadable: tuple[str, ...] = ()
    uploads: Uploads | None = None


def measure(
    ws: Workspace, *, run_id: str | None = None, alert_file: str | None = None
) -> StorageMeasured:
    """A measurement of this workspace, now, as the fact that is to be appended."""
    usage = survey(ws)
    return StorageMeasured(
        store=usage.store,
        bytes_by_class=dict(usage.classes),
        free_bytes=usage.free_bytes,
        quota_bytes=usage.quota_bytes,
        obsolete=usage.obsolete[:_NAMED],
        obsolete_count=len(usage.obsolete),
        obsolete_bytes=sum(item.size_bytes for item in usage.obsolete),
        run_id=run_id,
        alert_file=alert_file,
    )


def survey(ws: Workspace, *, uploads: bool = False) -> Usage:
    """Count everything. Reads the ledger, lists the store and the run folders; writes nothing.

    ``uploads``: look for unfinished ones too.
    """
    runs = fold_runs(ws.ledger.read_all())
    blobs = {"sha256:" + o.key.rpartition("/")[2]: o.size_bytes for o in ws.store.list("blobs/")}
    disk = _Disk()
    histories, whole = _histories(ws)
    folders = {
        run: disk.tree(ws.documents.run_dir(s.request)) for run, s in runs.items() if s.request
    }
    backups = {name: backups_of(ws, name) for name in histories if is_file_target(name)}
    backup_bytes = {name: disk.files(paths) for name, paths in backups.items()}
    classes = store_classes(runs, blobs)
    classes["results"] = sum(_listed(ws, prefix) for prefix in _RESULTS)
    classes["trash"] = _listed(ws, "trash/")
    segments = _listed(ws, "ledger/")
    stored = sum(classes.values()) + segments
    classes["run folders"] = sum(folders.values())
    classes["backups"] = sum(backup_bytes.values())
    classes["ledger"] = segments + disk.files(
        ws.home / f"ledger.db{suffix}" for suffix in ("", "-journal", "-wal", "-shm")
    )
    found = [*old_backups(ws, backups, blobs), *stored_copies(ws, runs, histories, blobs)]
    return Usage(
        store=ws.store.where,
        classes=classes,
        stored_bytes=stored,
        free_bytes=ws.store.free_bytes(),
        quota_bytes=ws.settings.quota_bytes,
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
        uploads=_unfinished(ws) if uploads else None,
    )


def _listed(ws: Workspace, prefix: str) -> int:
    return sum(info.size_bytes for info in ws.store.list(prefix))


def _unfinished(ws: Workspace) -> Uploads | None:
    """What uploads hold is stored and paid for, and shows in no listing."""
    if not is_bucket(ws.store.where):
        return None
    from launcher.storage.s3 import S3Store  # here: it is not needed for a folder

    if not isinstance(ws.store, S3Store):
        return None
    try:
        begun = [info.modified for info in ws.store.stale_uploads(math.inf)]
    except AccessRefusedError:
        return None  # who may read need not be let see them
    since = _time(min(begun)) if begun else None
    return Uploads(len(begun), since)


def _time(epoch_seconds: float) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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
            class_of |= {one.digest: "teachers and inputs" for one in request.given}
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
