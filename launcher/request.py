"""From flags and a config to a requested run: everything that can be wrong is said before anything starts.

Rules:

1. Flags beat ``--set``, ``--set`` beats the config. The environment never overrides the config.
2. Inputs are resolved, digested and stored here, once; the ledger names their digests.
3. A run id that exists is never reused.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.config import Config
from launcher.errors import ConflictError, UsageError
from launcher.flags import Flags, check, check_names
from launcher.pipeline import plan_stages
from launcher.places import (
    check_folder,
    check_place,
    is_as_made,
    make_folders,
    make_ready,
    own_paths,
)
from launcher.project import is_file_target, pointer_name, provenance, relative_to_project
from launcher.refs import check_input, resolve_input
from launcher.storage.blobs import digest_bytes, digest_file
from launcher.storage.port import BlobInfo, ObjectStore, Progress
from launcher.tokens import substitute
from launcher.workspace import Workspace
from ledger.events import ConfigRef, InputRef, PromotionPlan, RunRequested

__all__ = [
    "Flags",
    "check",
    "check_names",
    "hashing",
    "make_folders",
    "own_paths",
    "preflight",
    "request_run",
]

_MAX_INPUTS = 100


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for, every path and glob looked at, nothing digested yet."""

    output_root: Path
    run_dir: Path
    teachers: Mapping[str, str]
    tag_file: str | None
    inputs: tuple[tuple[Path, str, bool], ...]
    promotion: PromotionPlan | None


def preflight(ws: Workspace, config: Config, flags: Flags) -> _Asked:
    """Look, without a change, at everything that can be wrong: missing inputs, an id that exists, places that
    cannot be written. A reading workspace is enough.

    Raises UsageError, ConflictError (the run exists), IntegrityError (a ref's bytes are gone).
    """
    output_root = ws.root / flags.output_root if flags.output_root else ws.home
    run_dir = output_root / flags.run_id
    for what, folder in (("the home", ws.home), ("--output-root", output_root)):
        check_folder(what, folder)
    _refuse_existing(ws, flags.run_id, run_dir)
    own: dict[str, str | None] = {**own_paths(flags.run_id, run_dir)}

    def expand(value: str | None) -> str | None:
        return substitute(value, own) if value else None

    teachers: dict[str, str] = {}
    for label in ("teacher_checkpoint", "teacher_scorecard"):
        ref = getattr(flags, label) or expand(getattr(config, label))
        if not ref:
            flag = "--" + label.replace("_", "-")
            raise UsageError(
                f"no {label.replace('_', ' ')} is given", f"{flag} or {label.upper()}="
            )
        check_input(ref, ws.root, label, ws.journal, ws.store)
        teachers[label] = ref
        own[label.upper()] = str(ws.root / ref)
    tag_file = expand(flags.relabel_tag_file or config.relabel_tag_file)
    own["RELABEL_TAG_FILE"] = str(ws.root / tag_file) if tag_file else None
    check_place(ws, "the relabel tag file", tag_file)
    return _Asked(
        output_root,
        run_dir,
        teachers,
        tag_file,
        tuple(_globbed(ws, config, own)),
        _promotion(ws, flags, own),
    )


def request_run(
    ws: Workspace, config: Config, flags: Flags, *, dry_run: bool = False
) -> RunRequested:
    """The fact that a run is wanted, complete but not yet appended; its folders and inputs are in place.

    A dry run makes and stores nothing. Raises as ``preflight`` does.
    """
    asked = preflight(ws, config, flags)
    store = _Hashing(ws.store) if dry_run else ws.store
    stored = store.ingest_bytes(config.stored_bytes())

    def given(label: str) -> InputRef:
        ref = asked.teachers[label]
        return resolve_input(ref, ws.root, asked.run_dir / "inputs", label, ws.journal, store)

    if not dry_run:
        make_ready(asked.run_dir)
    return RunRequested(
        run_id=flags.run_id,
        project=ws.settings.project,
        project_root=str(ws.root),
        output_root=relative_to_project(asked.output_root, ws.root),
        config=ConfigRef(
            path=relative_to_project(Path(config.path), ws.root),
            digest=stored.digest,
            overrides={
                name: None if name in config.secret_names else value
                for name, value in flags.overrides.items()
            },
        ),
        stages=plan_stages(config.commands, config.timeouts, config.retries, stored.digest),
        teacher_checkpoint=given("teacher_checkpoint"),
        teacher_scorecard=given("teacher_scorecard"),
        inputs=tuple(_input(ws, store, *one) for one in asked.inputs),
        relabel_tag_file=_relative(ws, asked.tag_file),
        promotion=asked.promotion,
        slot=flags.slot,
        labels=dict(flags.labels),
        note=flags.note,
        infrastructure_retries=config.infrastructure_retries,
        provenance=provenance(ws.root),
    )


def _refuse_existing(ws: Workspace, run_id: str, run_dir: Path) -> None:
    if ws.journal.run(run_id).request is not None:
        raise ConflictError(
            f"run {run_id} exists", f"launcher resume {run_id}, or submit with another --run-id"
        )
    if run_dir.is_symlink() or (run_dir.exists() and not run_dir.is_dir()):
        raise ConflictError(f"{run_dir} is no folder", "choose another --run-id")
    if run_dir.is_dir() and not is_as_made(run_dir):
        raise ConflictError(
            f"{run_dir} is not empty and no run of this ledger made it", "choose another --run-id"
        )


def _globbed(
    ws: Workspace, config: Config, own: Mapping[str, str | None]
) -> Iterator[tuple[Path, str, bool]]:
    """(path, the glob that named it, whether it is stored). A file that both keys name is private."""
    found: dict[Path, tuple[str, bool]] = {}
    keys = ("INPUTS_PRIVATE", config.inputs_private, False), ("INPUTS", config.inputs, True)
    for key, patterns, stored in keys:
        for written in patterns:
            pattern = substitute(written, own)
            names = glob.glob(pattern, root_dir=ws.root, recursive=True)
            paths = sorted(p for name in names if (p := ws.root / name).is_file())
            if not paths:
                raise UsageError(f"{config.at(key)}: no file matches {written!r} of {key}")
            for path in paths:
                found.setdefault(Path(os.path.normpath(path)), (written, stored))
    if len(found) > _MAX_INPUTS:
        raise UsageError(
            f"{config.path}: INPUTS names {len(found)} files, at most {_MAX_INPUTS} are kept",
            "pack them into an archive",
        )
    for path, (written, stored) in sorted(found.items(), key=lambda item: not item[1][1]):
        yield path, written, stored


def _input(ws: Workspace, store: ObjectStore, path: Path, ref: str, stored: bool) -> InputRef:
    blob = store.ingest(path) if stored else digest_file(path)
    return InputRef(
        ref=ref,
        path=relative_to_project(path, ws.root),
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        stored=stored,
    )


def _promotion(ws: Workspace, flags: Flags, own: Mapping[str, str | None]) -> PromotionPlan | None:
    record, alert = (
        substitute(path, own) if path else None
        for path in (flags.promotion_record, flags.storage_alert_file)
    )
    if flags.promotion_target is None:
        for flag, value in (("--promotion-record", record), ("--storage-alert-file", alert)):
            if value is not None:
                raise UsageError(f"{flag} needs --promotion-target")
        return None
    target = pointer_name(flags.promotion_target, ws.root)
    if is_file_target(target):
        check_place(ws, "the promotion target", target)
    check_place(ws, "the promotion record", record)
    check_place(ws, "the storage alert file", alert)
    places = [target, *(p for p in (_relative(ws, record), _relative(ws, alert)) if p)]
    if len(set(places)) != len(places):
        raise UsageError("target, promotion record and storage alert file are not all different")
    return PromotionPlan(
        target=target, record=_relative(ws, record), alert_file=_relative(ws, alert)
    )


def _relative(ws: Workspace, path: str | None) -> str | None:
    return relative_to_project(ws.root / path, ws.root) if path else None


def hashing(store: ObjectStore) -> ObjectStore:
    """``store`` as a dry run has it: nothing is stored in it."""
    return _Hashing(store)


class _Hashing:
    """A store for a dry run: reads go through, an ingest only hashes, nothing leaves the trash."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        return digest_file(source)

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        return digest_bytes(data)

    def recover(self, digest: str) -> BlobInfo | None:
        return self._store.stat_blob(digest)
