"""How a user names a checkpoint or file: a path, ``run:RUN``, ``pointer:NAME`` or ``sha256:…``.

A ref is resolved, digested and stored once, when the run is requested (or the command is given); from
then on the digest counts, whatever happens to the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from launcher.errors import IntegrityError, UsageError
from launcher.journal import Journal
from launcher.project import is_file_target, pointer_name, relative_to_project
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectStore, blob_key
from ledger.errors import InvalidNameError
from ledger.events import InputRef
from ledger.ids import check_digest

__all__ = [
    "Resolved",
    "check_input",
    "find_run",
    "matching_runs",
    "resolve_digest",
    "resolve_input",
    "short_id",
]

_SCHEMES = ("run:", "pointer:", "sha256:")

_DEFAULT_RUN_ID: Final = re.compile(r"\d{4}(\d{4})T\d{6}Z-([0-9a-f]{4})")
_DIGITS: Final = re.compile(r"[0-9a-f]+")
_MIN_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checkpoint in the store: ``suffix`` is what its producer gave it, ``shown`` is what a file of it is called.

    ``shown`` is a path for a run's or a target's checkpoint, else a bare name.
    """

    digest: str
    size_bytes: int
    suffix: str
    shown: str


def find_run(journal: Journal, text: str) -> str:
    """The run id that ``text`` names: the id, as screens shorten it, or a unique prefix or suffix of it.

    Raises UsageError for none or several.
    """
    ids = journal.run_ids()
    hits = matching_runs(ids, text)
    if len(hits) == 1:
        return hits[0]
    if not hits:
        raise UsageError(f"no run {text!r} in {journal.store.where}", "launcher list shows them")
    raise UsageError(f"{text!r} names {len(hits)} runs: {', '.join(hits[-5:])}", "say more of it")


def short_id(run_id: str) -> str:
    """``20260611T021500Z-7f3a`` -> ``0611-7f3a``; any other id as it is."""
    found = _DEFAULT_RUN_ID.fullmatch(run_id)
    return f"{found[1]}-{found[2]}" if found else run_id


def matching_runs(ids: Iterable[str], text: str) -> list[str]:
    """The ids that ``text`` may mean, in their order: the exact one alone, else every one that it is part of."""
    known = list(dict.fromkeys(ids))
    if text in known:
        return [text]
    return [
        r for r in known if text and (short_id(r) == text or r.startswith(text) or r.endswith(text))
    ]


def resolve_digest(ref: str, journal: Journal, store: ObjectStore, root: Path) -> Resolved:
    """What ``run:``, ``pointer:`` or ``sha256:`` leads to. Raises UsageError, IntegrityError."""
    kind, _, name = ref.partition(":")
    if kind == "run":
        state = journal.run(find_run(journal, name))
        if state.student is None:
            raise UsageError(f"run {state.run_id} has no student checkpoint")
        student = state.student
        return _stored(student.digest, store, PurePosixPath(student.path).suffix, student.path)
    if kind == "pointer":
        name = pointer_name(name, root)
        live = Pointers(store).history(name).live
        if live is None or live.digest is None:
            raise UsageError(f"pointer {name!r} names nothing yet", "launcher pointers")
        known = PurePosixPath(name).suffix if is_file_target(name) else ""
        suffix = known or _suffix_of(live.run_id, journal)
        return _stored(live.digest, store, suffix, name)
    digest = _whole_digest(ref, store)
    return _stored(digest, store, _suffix_of_digest(digest, journal), digest[7:19])


def resolve_input(
    ref: str, root: Path, inputs_dir: Path, label: str, journal: Journal, store: ObjectStore
) -> InputRef:
    """An input of a run, stored. A path is ingested; any other ref will be put at ``inputs_dir/label``.

    Raises UsageError if the file is missing or is not a regular one.
    """
    if not ref.startswith(_SCHEMES):
        path = _file(ref, root, label)
        blob = store.ingest(path)
        return InputRef(
            ref=ref,
            path=relative_to_project(path, root),
            digest=blob.digest,
            size_bytes=blob.size_bytes,
        )
    found = resolve_digest(ref, journal, store, root)
    if store.recover(found.digest) is None:  # the run will rely on it: out of the trash with it
        raise IntegrityError(f"{found.shown}: blob {found.digest} is not in {store.where}")
    return InputRef(
        ref=ref,
        path=relative_to_project(inputs_dir / (label + found.suffix), root),
        digest=found.digest,
        size_bytes=found.size_bytes,
    )


def _whole_digest(ref: str, store: ObjectStore) -> str:
    """The digest that ``ref`` is, or is the unique beginning of: screens show the first digits."""
    given = ref.removesuffix("…")
    digits = given.removeprefix("sha256:")
    if _DIGITS.fullmatch(digits) and _MIN_DIGITS <= len(digits) < 64:
        found = [info.key.rpartition("/")[2] for info in store.list(blob_key(given))] or [
            digest for digest in _trashed(store) if digest.startswith(digits)
        ]
        if len(found) > 1:
            raise UsageError(f"{ref} names {len(found)} blobs", "say more of it")
        if not found:
            raise UsageError(f"no blob of {store.where} begins with {given}")
        return "sha256:" + found[0]
    try:
        return check_digest(ref)
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc


def _trashed(store: ObjectStore) -> list[str]:
    """The hex digits of every blob in the trash."""
    keys = {info.key for date in store.trash_dates() for info in store.trashed(date)}
    return sorted(key.rpartition("/")[2] for key in keys)


def check_input(ref: str, root: Path, label: str, journal: Journal, store: ObjectStore) -> None:
    """See that ``resolve_input`` will find the input; nothing is read but names. Raises as it does."""
    if ref.startswith(_SCHEMES):
        resolve_digest(ref, journal, store, root)
    else:
        _file(ref, root, label)


def _file(ref: str, root: Path, label: str) -> Path:
    path = root / ref
    if not path.is_file():
        what = "not a file" if path.exists() else "not there"
        raise UsageError(f"{label} {ref} is {what}")
    return path


def _stored(digest: str, store: ObjectStore, suffix: str, shown: str) -> Resolved:
    blob = store.stat_blob(digest)
    if blob is None:
        raise IntegrityError(f"{shown}: blob {digest} is not in {store.where}")
    return Resolved(digest, blob.size_bytes, suffix, shown)


def _suffix_of_digest(digest: str, journal: Journal) -> str:
    """The suffix under which a run recorded a checkpoint of this digest; empty for any other blob."""
    for run_id in reversed(journal.run_ids()):
        for checkpoint in journal.run(run_id).checkpoints:
            if checkpoint.digest == digest:
                return PurePosixPath(checkpoint.path).suffix
    return ""


def _suffix_of(run_id: str | None, journal: Journal) -> str:
    student = journal.run(run_id).student if run_id else None
    return PurePosixPath(student.path).suffix if student else ""
