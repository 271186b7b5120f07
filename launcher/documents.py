"""The documents that a person reads, written from the ledger: each can be thrown away and rebuilt.

Rules:

1. A document is written beside its place, fsynced and renamed: the old one or the new one, never torn.
2. Two processes never leave the older of two states: the state is read again under a lock of the run.
3. A downstream job may change ``status`` in relabel_tags.json itself; if all else is equal that is
   imported as an event (actor ``file``) before the file is written again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from launcher.clock import new_id
from launcher.errors import UnavailableError
from launcher.journal import Journal
from launcher.target import locked
from ledger import events as e
from ledger.decider import RunState, TagState, fold
from ledger.ids import run_stream
from ledger.pointers import PointerState, fold_pointer
from ledger.projections import render
from ledger.projections.metadata import metadata_document
from ledger.projections.promotion import promotion_document
from ledger.projections.relabel_tags import relabel_tags_document
from ledger.projections.storage_alert import storage_alert_text

__all__ = ["Difference", "Documents", "write_atomically"]

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
        finally:
            beside.unlink(missing_ok=True)
    except OSError as exc:
        raise UnavailableError(f"cannot write {path}: {exc.strerror}") from exc


class Documents:
    """The documents of runs. ``locks`` is the home's folder of locks."""

    def __init__(self, journal: Journal, locks: Path) -> None:
        self.journal, self.locks = journal, locks

    def run_dir(self, request: e.RunRequested) -> Path:
        """The run's own folder, absolute."""
        return Path(request.project_root, request.output_root, request.run_id)

    def write(self, run_id: str) -> RunState:
        """Bring every document of a run up to date; returns the state that they show."""
        with locked(self.locks / f"{run_id}.documents.lock"):
            state = self.import_tag_status(self.journal.run(run_id))
            for path, data in self.expected(state):
                if not _same(path, data):
                    write_atomically(path, data)
        return state

    def expected(self, state: RunState) -> Iterator[tuple[Path, bytes]]:
        """(path, bytes) of each document that the ledger implies for a run, now."""
        yield from self._project(state, None)

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
        metadata = self.run_dir(request) / "metadata"
        root = self.journal.store.root_at(state.position + 1)
        yield metadata.parent / "metadata.json", render(metadata_document(state, root))
        tags = relabel_tags_document(state)
        if tags is not None:
            yield metadata / "relabel_tags.json", render(tags)
        if state.status != "succeeded":
            return
        promotion = self._promotion(request, position)
        if promotion is not None:
            record = request.promotion.record if request.promotion else None
            place = self._place(request, record, metadata / "promotion.json")
            yield place, render(promotion)
        measured = self._measured(request.run_id, position)
        if measured is not None:
            alert = measured.data.alert_file
            place = self._place(request, alert, metadata / "storage_alert.txt")
            yield place, storage_alert_text(measured.data, measured.time)

    def _promotion(self, request: e.RunRequested, position: int | None) -> dict[str, Any] | None:
        """The newest promotion of this run, whichever pointer it moved."""
        found = [
            document
            for name in self.journal.pointer_names()
            if (document := promotion_document(self._pointer(name, position), request.run_id))
        ]
        return max(found, key=lambda d: d["timestamp"], default=None)

    def _pointer(self, name: str, position: int | None) -> PointerState:
        if position is None:
            return self.journal.pointer(name)
        events = self.journal.store.read_stream(f"pointer/{name}")
        return fold_pointer(f"pointer/{name}", (r for r in events if r.position <= position))

    def _measured(self, run_id: str, position: int | None) -> e.Recorded[e.StorageMeasured] | None:
        found = None
        for record in self.journal.store.read_stream("storage"):
            mine = isinstance(record.data, e.StorageMeasured) and record.data.run_id == run_id
            if mine and (position is None or record.position <= position):
                found = record
        return found

    def _place(self, request: e.RunRequested, chosen: str | None, default: Path) -> Path:
        return Path(request.project_root, chosen) if chosen else default

    def check(self, state: RunState) -> list[Difference]:
        """Documents on disk that differ from the ledger; a tag status that a job changed is none."""
        differences = []
        for path, data in self.expected(state):
            if not path.exists():
                differences.append(Difference(path, "missing"))
            elif not _same(path, data) and _changed_status(path, data) is None:
                differences.append(Difference(path, "differs"))
        return differences

    def import_tag_status(self, state: RunState) -> RunState:
        """Record a status that a downstream job wrote into relabel_tags.json itself."""
        document = relabel_tags_document(state)
        if document is None or state.request is None or state.tags is None:
            return state
        path = self.run_dir(state.request) / "metadata" / "relabel_tags.json"
        status = _changed_status(path, render(document))
        if status is None:
            return state
        tags = state.tags
        return self.journal.record_run(
            state.run_id,
            lambda s: [_tag_event(status, tags)] if s.tags == tags else [],
            actor="file",
        )


def _tag_event(status: str, tags: TagState) -> e.EventData:
    fields: dict[str, Any] = {
        "tag_file": tags.tag_file,
        "digest": tags.digest,
        "follows": tags.event_id,
    }
    if status != "pending":
        fields |= {"source": "file", "counts": dict(tags.counts)}
    return _TAG_EVENTS[status](**fields)


def _same(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _changed_status(path: Path, expected: bytes) -> str | None:
    """The status that stands in a tags document which is otherwise as expected, or None."""
    if path.name != "relabel_tags.json":
        return None
    try:
        found, wanted = json.loads(path.read_bytes()), json.loads(expected)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("status") not in _TAG_EVENTS:
        return None
    changed = found["status"] != wanted["status"]
    return found["status"] if changed and {**found, "status": wanted["status"]} == wanted else None
