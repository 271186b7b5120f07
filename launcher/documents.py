"""The documents that a person reads, written from the ledger: each can be thrown away and rebuilt.

Rules:

1. A document is written beside its place, fsynced and renamed: the old one or the new one, never torn.
2. Two processes never leave the older of two states: the state is read again under a lock of the run, and
   of the place where a user's own path is shared by runs. The newest promotion owns such a path.
3. A downstream job may change ``status`` in relabel_tags.json itself; if all else is equal that is
   imported as an event (actor ``file``) before the file is written again.
4. What we wrote ourselves is no such change: the run's lock notes the digest of it, so that a file that is
   merely behind (its writer was killed, or another one is about to write) is not taken for a person's word.
5. Only what this machine keeps is written and missed (``launcher.run_folders``): nothing of a run of another
   machine, nothing in a folder that was retired.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from launcher.clock import new_id
from launcher.errors import UnavailableError
from launcher.facts import FactsOfRuns, measured_run, promoted_run
from launcher.journal import Journal
from launcher.run_folders import RunFolders, folder_of
from launcher.storage.durable import sync_folder
from launcher.target import locked
from ledger import events as e
from ledger.decider import RunState, TagState, fold
from ledger.ids import run_stream
from ledger.projections import render
from ledger.projections.metadata import metadata_document
from ledger.projections.promotion import promotion_document
from ledger.projections.relabel_tags import relabel_tags_document
from ledger.projections.storage_alert import storage_alert_text

__all__ = ["Difference", "Documents", "write_atomically"]

_TAGS: Final = "relabel_tags.json"
_NOTE_BYTES: Final = 256
_TAG_EVENTS: Final[dict[str, type[e.EventData]]] = {
    "pending": e.RelabelTagsReopened,
    "validated": e.RelabelTagsValidated,
    "rejected": e.RelabelTagsRejected,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that is not what the ledger says: ``what`` is ``missing`` or ``differs``."""

    path: Path
    what: str


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename. Raises UnavailableError; ``path`` is then as it was."""
    beside = path.with_name(f".{path.name}.{new_id()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as exc:
        raise UnavailableError(f"cannot write {path}: {exc.strerror}") from exc


class Documents:
    """The documents of runs. ``locks`` is the home's folder of locks; ``shared``: other machines' runs are here too."""

    def __init__(self, journal: Journal, locks: Path, *, shared: bool = False) -> None:
        self.journal, self.locks = journal, locks
        self.folders = RunFolders(journal.store, shared=shared)
        self._promotions = FactsOfRuns(journal.store, "pointer/", promoted_run)
        self._measurements = FactsOfRuns(journal.store, "storage", measured_run)

    def run_dir(self, request: e.RunRequested) -> Path:
        """The run's own folder, absolute."""
        return folder_of(request)

    def write(self, run_id: str) -> RunState:
        """Bring every document of a run up to date; returns the state that they show. Raises UnavailableError."""
        with self.holding(run_id) as fd:
            state = self._import_tag_status(self.journal.run(run_id), _noted(fd))
            for path, data in self.kept(state):
                if path.name == _TAGS:
                    _write_tags(fd, path, data)
                elif _same(path, data):
                    continue
                elif state.request and path.is_relative_to(self.run_dir(state.request)):
                    _write_own(path, data)
                else:
                    self._write_shared(state, path)
        return state

    def holding(self, run_id: str) -> contextlib.AbstractContextManager[int]:
        """Hold the run's lock: nobody writes its documents meanwhile. Raises UnavailableError."""
        return locked(self._lock(run_id))

    def _lock(self, run_id: str) -> Path:
        return self.locks / f"{run_id}.documents.lock"

    def _write_shared(self, state: RunState, path: Path) -> None:
        """Write a document outside the run's folder, unless another run has come to own its place."""
        place = hashlib.sha256(os.fsencode(path)).hexdigest()
        with locked(self.locks / f"{place}.document.lock"):
            data = dict(self.expected(state)).get(path)
            if data is not None:
                write_atomically(path, data)

    def expected(self, state: RunState) -> Iterator[tuple[Path, bytes]]:
        """(path, bytes) of each document that the ledger implies for a run, now."""
        yield from self._project(state, None)

    def inside(self, state: RunState) -> dict[str, bytes]:
        """Those of ``expected`` that lie in the run's own folder, by path in it (POSIX)."""
        if state.request is None:
            return {}
        folder = self.run_dir(state.request)
        return {
            path.relative_to(folder).as_posix(): data
            for path, data in self.expected(state)
            if path.is_relative_to(folder)
        }

    def kept(self, state: RunState) -> Iterator[tuple[Path, bytes]]:
        """Those of ``expected`` that belong on this machine now."""
        if state.request is None or not self.folders.is_here(state):
            return
        retired, folder = self.folders.is_retired(state), self.run_dir(state.request)
        for path, data in self.expected(state):
            if not (retired and path.is_relative_to(folder)):
                yield path, data

    def as_of(self, run_id: str, position: int) -> Iterator[tuple[Path, bytes]]:
        """As ``expected``, of the ledger as it was after ``position``."""
        stream = run_stream(run_id)
        events = self.journal.store.read_stream(stream)
        past = fold(stream, (r for r in events if r.position <= position))
        yield from self._project(past, position)

    def _project(self, state: RunState, position: int | None) -> Iterator[tuple[Path, bytes]]:
        request = state.request
        if request is None:
            return
        run_dir = self.run_dir(request)
        root = self.journal.store.root_at(state.position + 1)
        yield run_dir / "metadata.json", render(metadata_document(state, root))
        tags = relabel_tags_document(state)
        if tags is not None:
            yield run_dir / "metadata" / _TAGS, render(tags)
        if state.status == "succeeded":
            yield from self._promotion(request, position)
            yield from self._measured(request, position)

    def _promotion(
        self, request: e.RunRequested, position: int | None
    ) -> Iterator[tuple[Path, bytes]]:
        """The newest promotion of this run, whichever pointer it moved."""
        found = self._promotions.newest(request.run_id, position)
        if found is None:
            return
        mine, later = found
        place, chosen = _record_place(request), self.run_dir(request) / "metadata/promotion.json"
        if place is None or not any(
            _record_place(self.journal.run(run_id).request) == place for run_id, _ in later
        ):
            yield place or chosen, render(promotion_document(mine.data))

    def _measured(
        self, request: e.RunRequested, position: int | None
    ) -> Iterator[tuple[Path, bytes]]:
        """The newest measurement that was made for this run."""
        found = self._measurements.newest(request.run_id, position)
        if found is None:
            return
        mine, later = found
        place = _alert_place(request, mine.data)
        chosen = self.run_dir(request) / "metadata/storage_alert.txt"
        if place is None or not any(
            r.data.alert_file and _alert_place(self.journal.run(run_id).request, r.data) == place
            for run_id, r in later
        ):
            yield place or chosen, storage_alert_text(mine.data, mine.time)

    def check(self, state: RunState) -> list[Difference]:
        """Documents on disk that differ from the ledger; a tag status that a job changed is none."""
        differences = []
        for path, data in self.kept(state):
            if not path.exists():
                differences.append(Difference(path, "missing"))
            elif not _same(path, data) and not self._edited(state.run_id, path, data):
                differences.append(Difference(path, "differs"))
        return differences

    def _edited(self, run_id: str, path: Path, data: bytes) -> bool:
        try:
            fd = os.open(self._lock(run_id), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return _changed_status(path, data, ()) is not None
        try:
            return _changed_status(path, data, _noted(fd)) is not None
        finally:
            os.close(fd)

    def _import_tag_status(self, state: RunState, ours: Collection[str]) -> RunState:
        """Record a status that a downstream job wrote into relabel_tags.json itself."""
        document = relabel_tags_document(state)
        if document is None or state.request is None or state.tags is None:
            return state
        path = self.run_dir(state.request) / "metadata" / _TAGS
        status = _changed_status(path, render(document), ours)
        if status is None:
            return state
        tags = state.tags
        return self.journal.record_run(
            state.run_id,
            lambda s: [_tag_event(status, tags)] if s.tags == tags else [],
            actor="file",
        )


def _record_place(request: e.RunRequested | None) -> Path | None:
    """Where a run's promotion record goes, if that is a path of the user's own."""
    plan = request.promotion if request else None
    return Path(request.project_root, plan.record) if request and plan and plan.record else None


def _alert_place(request: e.RunRequested | None, measured: e.StorageMeasured) -> Path | None:
    """As ``_record_place``, of the storage alert."""
    alert = measured.alert_file
    return Path(request.project_root, alert) if request and alert else None


def _tag_event(status: str, tags: TagState) -> e.EventData:
    fields: dict[str, Any] = {
        "tag_file": tags.tag_file,
        "digest": tags.digest,
        "follows": tags.event_id,
    }
    if status != "pending":
        fields |= {"source": "file", "counts": dict(tags.counts)}
    return _TAG_EVENTS[status](**fields)


# --- files --------------------------------------------------------------------------------------------


def _same(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _write_own(path: Path, data: bytes) -> None:
    """Write into the run's own folder, whose lock is held: what a killed writer left there goes."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()
    try:
        write_atomically(path, data)
    except UnavailableError as exc:
        if not isinstance(exc.__cause__, FileNotFoundError):
            raise
        # A launcher with a home, and so locks, of its own took ours for what a killed writer left.
        write_atomically(path, data)


def _write_tags(fd: int, path: Path, data: bytes) -> None:
    """Write relabel_tags.json and note that it is ours: the one before too, until the new one stands."""
    new = _digest(data)
    if not _same(path, data):
        with contextlib.suppress(OSError):
            _note(fd, [_digest(path.read_bytes()), new])
        _write_own(path, data)
    if _noted(fd) != [new]:
        _note(fd, [new])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _noted(fd: int) -> list[str]:
    """The digests that the run's lock notes; [] where it notes none."""
    try:
        noted = json.loads(os.pread(fd, _NOTE_BYTES, 0))["tags"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return noted if isinstance(noted, list) else []


def _note(fd: int, digests: list[str]) -> None:
    # One write over the one before, of one length, so that a kill leaves one of the two notes.
    with contextlib.suppress(OSError):  # a full disk loses the note, not the document
        os.pwrite(fd, json.dumps({"tags": digests}).encode().ljust(_NOTE_BYTES), 0)


def _changed_status(path: Path, expected: bytes, ours: Collection[str]) -> str | None:
    """The status that somebody else wrote into a tags document which is otherwise as expected, or None."""
    if path.name != _TAGS:
        return None
    try:
        raw = path.read_bytes()
        found, wanted = json.loads(raw), json.loads(expected)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or _digest(raw) in ours:
        return None
    status = found.get("status")
    if not isinstance(status, str) or status not in _TAG_EVENTS or status == wanted["status"]:
        return None
    return status if {**found, "status": wanted["status"]} == wanted else None
