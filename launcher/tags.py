"""The downstream check of a run's relabel tags: from ``pending`` to ``validated`` or ``rejected``.

Rules:

1. What is judged are the bytes that the relabel stage left: the ledger names their digest, the store has
   them. The visible file is never touched; where it is another one by now, or gone, that is said, and the
   verdict is still about what the stage left.
2. A verdict is a fact about (bytes, schema). Reached again, it is said again and adds nothing to the
   ledger; after another verdict, or a status that a job wrote into the document, it is a new fact.
3. A relabel stage that was to leave a tag file and left none has its tags rejected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from launcher import clock
from launcher.errors import ConflictError, LauncherError, UsageError
from launcher.planlets.check import Checked, check, nothing_written
from launcher.planlets.schema import Schema
from launcher.storage.blobs import digest_file
from launcher.workspace import Workspace
from ledger.decider import RunState, TagState
from ledger.events import EventData, RelabelTagsRejected, RelabelTagsValidated

__all__ = ["Verdict", "Visible", "validate"]

#: How the file in its place compares with what the stage left; ``absent``: there was and is none.
Visible = Literal["same", "changed", "missing", "absent", "unreadable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was checked and what came of it. ``digest`` and ``size_bytes`` None: the stage left no file."""

    run_id: str
    tag_file: str
    digest: str | None
    size_bytes: int | None
    visible: Visible
    schema: Schema | None
    checked: Checked

    @property
    def status(self) -> Literal["validated", "rejected"]:
        """As the document has it."""
        return "validated" if self.checked.accepted else "rejected"


def validate(ws: Workspace, run_id: str, schema: Schema | None) -> Verdict:
    """Check a run's tags, record the verdict and write it into the document.

    Raises ConflictError (the relabel stage has not ended yet), UsageError (the run has no tags, or the schema
    cannot be applied), BlobMissingError, BlobDamagedError, UnavailableError; then nothing is recorded.
    """
    # A status that a job wrote into the document came first, and is recorded first.
    state = ws.documents.write(run_id)
    tags = _tags_of(state)
    assert tags.tag_file is not None
    assert state.request is not None
    place = Path(state.request.project_root, tags.tag_file)
    size: int | None = None
    checked = nothing_written()
    if tags.digest is not None:
        with _bytes_of(ws, tags.digest) as file:
            checked = check(file, schema)
            size = file.seek(0, os.SEEK_END)
    visible = _visible(place, tags.digest, size)
    verdict = Verdict(run_id, tags.tag_file, tags.digest, size, visible, schema, checked)
    if schema is not None:
        ws.store.ingest_bytes(schema.raw)
    ws.journal.record_run(run_id, lambda now: _facts(now, verdict))
    ws.documents.write(run_id)
    return verdict


def _tags_of(state: RunState) -> TagState:
    """The tags of a run whose relabel stage left some, or should have."""
    tags, relabel = state.tags, state.stages.get("relabel")
    if tags is None and state.status == "open":
        raise ConflictError(
            f"the relabel stage of run {state.run_id} has not ended yet",
            f"launcher status {state.run_id}",
        )
    if tags is None:
        why = relabel.status if relabel is not None else "not planned"
        reason = f": {relabel.reason}" if relabel is not None and relabel.reason else ""
        raise UsageError(
            f"run {state.run_id} has no relabel tags: its relabel stage is {why}{reason}",
            f"launcher status {state.run_id}",
        )
    if tags.tag_file is None:
        raise UsageError(
            f"run {state.run_id} has no tag file: RELABEL_TAG_FILE was not set",
            "set it in the config, or submit with --relabel-tag-file",
        )
    return tags


@contextmanager
def _bytes_of(ws: Workspace, digest: str) -> Iterator[BinaryIO]:
    """A blob, verified, to be read from its start. It has no name meanwhile, so nothing of it stays behind."""
    place = ws.locks / f"tags.{clock.new_id()}.tmp"
    try:
        ws.store.fetch_blob(digest, place)
        file = place.open("rb")
    finally:
        place.unlink(missing_ok=True)
    with file:
        yield file


def _visible(place: Path, digest: str | None, size_bytes: int | None) -> Visible:
    if not place.is_file():
        return "missing" if digest else "absent"
    try:
        if place.stat().st_size != size_bytes:
            return "changed"
        return "same" if digest_file(place).digest == digest else "changed"
    except (OSError, LauncherError):
        return "unreadable"


def _facts(now: RunState, verdict: Verdict) -> Sequence[EventData]:
    """What the ledger should say: the verdict, unless it is what was said last."""
    assert now.tags is not None
    schema_digest = verdict.schema.digest if verdict.schema else None
    last = now.tags.said
    if (
        isinstance(last, RelabelTagsValidated | RelabelTagsRejected)
        and now.tags.status == verdict.status
        and last.source == "launcher"
        and last.schema_digest == schema_digest
        and last.counts == verdict.checked.counts()
    ):
        return []
    common = {
        "tag_file": now.tags.tag_file,
        "digest": now.tags.digest,
        "schema_digest": schema_digest,
        "counts": verdict.checked.counts(),
        "follows": now.tags.event_id,
    }
    if verdict.status == "validated":
        return [RelabelTagsValidated.model_validate(common)]
    errors = tuple(map(str, verdict.checked.problems))
    return [RelabelTagsRejected.model_validate({**common, "errors": errors})]
