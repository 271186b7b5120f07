"""What a run's folder holds, as ledger and store have it: enough to rebuild it, and to tell what is safe.

Rules:

1. Every stage's manifest in order, deletions applied; for a stage that failed for good, what its result names
   and the checkpoints that were saved of it; the logs of all attempts; the tag file.
2. A path of a manifest is somebody else's word. ``place_of`` is the only way from one to a file: under the
   folder it is for, through no symlink.
3. The documents are not in here: the ledger's projections are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher.agent.saved import saved_of
from launcher.errors import IntegrityError
from launcher.executors.port import StageResult
from launcher.pipeline import log_name
from launcher.run_folders import folder_of
from launcher.storage.blobs import digest_file
from launcher.storage.manifest import Entry, Manifest
from launcher.storage.placing import place_of
from launcher.storage.port import ObjectNotFoundError, ObjectStore
from ledger import events as e
from ledger.decider import RunState, StageState
from ledger.ids import check_digest, run_stream
from ledger.stores.port import EventStore

__all__ = ["DOCUMENTS", "Contents", "Kept", "contents_of", "left_by", "place_of", "same_bytes"]

#: Written into the folder from the ledger, relative to it.
DOCUMENTS: Final = (
    "metadata.json",
    "metadata/relabel_tags.json",
    "metadata/promotion.json",
    "metadata/storage_alert.txt",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file's bytes in the store; ``time`` (RFC 3339) is when its stage ended, None where that is not known."""

    digest: str
    size_bytes: int | None
    time: str | None


@dataclass(slots=True)
class Contents:
    """``files`` by path relative to the folder, POSIX. ``tag_file``: (absolute path, what) where it lies outside."""

    files: dict[str, Kept] = field(default_factory=dict)
    tag_file: tuple[Path, Kept] | None = None


def contents_of(state: RunState, ledger: EventStore, store: ObjectStore) -> Contents:
    """All that is stored of a run that was requested. Raises IntegrityError, UnavailableError."""
    found, mentioned = Contents(), set[str]()
    for stage in state.stages.values():
        for manifest in _manifests(state, stage, store):
            for path in manifest.deleted:
                found.files.pop(path, None)
            for one in manifest.entries:
                found.files[one.path] = Kept(one.digest, one.size_bytes, stage.completed_at)
            mentioned |= {*manifest.deleted, *(one.path for one in manifest.entries)}
    for path in DOCUMENTS:
        found.files.pop(path, None)
    found.files |= _logs(state, ledger, store)
    _add_inputs(state, found, mentioned)
    _add_tags(state, found, mentioned)
    return found


def left_by(state: RunState, stage: StageState, store: ObjectStore) -> list[Entry]:
    """All that is stored of one stage's newest attempt, by path. Raises IntegrityError, UnavailableError."""
    found = {
        one.path: one for manifest in _manifests(state, stage, store) for one in manifest.entries
    }
    return [found[path] for path in sorted(found)]


def _manifests(state: RunState, stage: StageState, store: ObjectStore) -> Iterator[Manifest]:
    """What a stage left, as one manifest after the other."""
    digest = stage.manifest_digest
    if digest is None and stage.status == "failed":
        digest = _result_manifest(state, stage, store)
    if digest is not None:
        try:
            yield Manifest.from_bytes(store.read_blob(digest))
        except ValueError as exc:
            raise IntegrityError(f"blob {digest}: {exc}") from exc
    if stage.status == "failed":
        saved = saved_of(store, state.run_id, stage.plan.name, stage.attempt)
        yield Manifest(saved.checkpoints)


def _result_manifest(state: RunState, stage: StageState, store: ObjectStore) -> str | None:
    key = _key(state.run_id, stage.plan.name, stage.attempt, "result.json")
    try:
        return StageResult.parse(store.read(key), key).manifest_digest
    except ObjectNotFoundError:
        return None


def _key(run_id: str, stage: str, attempt: int, name: str) -> str:
    return f"runs/{run_id}/{stage}/{attempt}/{name}"


def _logs(state: RunState, ledger: EventStore, store: ObjectStore) -> dict[str, Kept]:
    """The logs of all attempts that ended, by path."""
    logs: dict[str, Kept] = {}
    for record in ledger.read_stream(run_stream(state.run_id)):
        data = record.data
        if not isinstance(data, e.StageSucceeded | e.StageFailed):
            continue
        digest = data.log_digest
        if digest is None:
            # Of an attempt that was closed the log may have been saved after its end was recorded.
            digest = saved_of(store, state.run_id, data.stage, data.attempt).log_digest
        if digest is not None:
            path = f"logs/{log_name(data.stage, data.attempt)}"
            blob = store.stat_blob(check_digest(digest))
            logs[path] = Kept(digest, blob.size_bytes if blob else None, record.time)
    return logs


def _add_inputs(state: RunState, found: Contents, mentioned: set[str]) -> None:
    """Inputs that were brought from the store into the folder; no stage's outputs."""
    request = state.request
    assert request is not None
    for given in request.given:
        if given.stored:
            inside = _inside(request, given.path)
            if inside is not None and inside not in mentioned:
                found.files[inside] = Kept(given.digest, given.size_bytes, state.requested_at)


def _inside(request: e.RunRequested, path: str) -> str | None:
    """A path of the request's, relative to the run's folder if it lies in it."""
    place = Path(os.path.normpath(Path(request.project_root, path)))
    folder = Path(os.path.normpath(folder_of(request)))
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else None


def _add_tags(state: RunState, found: Contents, mentioned: set[str]) -> None:
    """The tag file, where no manifest has a word about it."""
    tags, request = state.tags, state.request
    if tags is None or request is None or tags.tag_file is None or tags.digest is None:
        return
    relabel = state.stages.get("relabel")
    kept = Kept(tags.digest, None, relabel.completed_at if relabel else None)
    inside = _inside(request, tags.tag_file)
    if inside is None:
        found.tag_file = (Path(os.path.normpath(Path(request.project_root, tags.tag_file))), kept)
    elif inside not in mentioned:
        found.files[inside] = kept


def same_bytes(file: Path, kept: Kept) -> bool:
    """Whether a file holds exactly what is kept. Raises UsageError, UnavailableError where it cannot be read."""
    if kept.size_bytes is not None and file.stat().st_size != kept.size_bytes:
        return False
    return digest_file(file).digest == kept.digest
