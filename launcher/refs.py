"""How a user names a checkpoint or file: a path, ``run:RUN``, ``pointer:NAME`` or ``sha256:…``.

A ref is resolved, digested and stored once, when the run is requested (or the command is given); from
then on the digest counts, whatever happens to the path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.errors import IntegrityError, UsageError
from launcher.journal import Journal
from launcher.project import relative_to_project
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectStore
from ledger.errors import InvalidNameError
from ledger.events import InputRef
from ledger.ids import check_digest

__all__ = ["Resolved", "find_run", "resolve_digest", "resolve_input"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checkpoint in the store: where the ref led, and the file suffix that its producer gave it."""

    digest: str
    size_bytes: int
    suffix: str
    shown: str


def find_run(journal: Journal, text: str) -> str:
    """The run id that ``text`` names: the id, or a unique prefix or suffix of one.

    Raises UsageError for none or several.
    """
    ids = journal.run_ids()
    if text in ids:
        return text
    hits = [r for r in ids if text and (r.startswith(text) or r.endswith(text))]
    if len(hits) == 1:
        return hits[0]
    if not hits:
        raise UsageError(f"no run {text!r} in {journal.store.where}", "launcher list shows them")
    raise UsageError(f"{text!r} names {len(hits)} runs: {', '.join(hits[-5:])}", "say more of it")


def resolve_digest(ref: str, journal: Journal, store: ObjectStore) -> Resolved:
    """What ``run:``, ``pointer:`` or ``sha256:`` leads to. Raises UsageError, IntegrityError."""
    kind, _, name = ref.partition(":")
    if kind == "run":
        state = journal.run(find_run(journal, name))
        if state.student is None:
            raise UsageError(f"run {state.run_id} has no student checkpoint")
        student = state.student
        return _stored(student.digest, store, PurePosixPath(student.path).suffix, student.path)
    if kind == "pointer":
        live = Pointers(store).history(name).live
        if live is None or live.digest is None:
            raise UsageError(f"pointer {name!r} names nothing yet", "launcher pointers")
        suffix = PurePosixPath(name).suffix or _suffix_of(live.run_id, journal)
        return _stored(live.digest, store, suffix, f"{name} g{live.generation}")
    try:
        return _stored(check_digest(ref), store, "", ref[:19] + "…")
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc


def resolve_input(
    ref: str, root: Path, inputs_dir: Path, label: str, journal: Journal, store: ObjectStore
) -> InputRef:
    """An input of a run, stored. A path is ingested; any other ref will be put at ``inputs_dir/label``.

    Raises UsageError if the file is missing or is not a regular one.
    """
    if not ref.startswith(("run:", "pointer:", "sha256:")):
        path = root / ref
        if not path.is_file():
            raise UsageError(
                f"{label} {ref} is not there"
                if not path.exists()
                else f"{label} {ref} is not a file"
            )
        blob = store.ingest(path)
        return InputRef(
            ref=ref,
            path=relative_to_project(path, root),
            digest=blob.digest,
            size_bytes=blob.size_bytes,
        )
    found = resolve_digest(ref, journal, store)
    return InputRef(
        ref=ref,
        path=relative_to_project(inputs_dir / (label + found.suffix), root),
        digest=found.digest,
        size_bytes=found.size_bytes,
    )


def _stored(digest: str, store: ObjectStore, suffix: str, shown: str) -> Resolved:
    blob = store.stat_blob(digest)
    if blob is None:
        raise IntegrityError(f"{shown}: blob {digest} is not in {store.where}")
    return Resolved(digest, blob.size_bytes, suffix, shown)


def _suffix_of(run_id: str | None, journal: Journal) -> str:
    student = journal.run(run_id).student if run_id else None
    return PurePosixPath(student.path).suffix if student else ""
