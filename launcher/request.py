"""From flags and a config to a requested run: everything that can be wrong is said before anything starts.

Rules:

1. Flags beat ``--set``, ``--set`` beats the config. The environment never overrides the config.
2. Inputs are resolved, digested and stored here, once; the ledger names their digests.
3. A run id that exists is never reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.config import Config
from launcher.errors import ConflictError, UsageError
from launcher.pipeline import plan_stages
from launcher.project import pointer_name, provenance, relative_to_project
from launcher.refs import resolve_input
from launcher.storage.blobs import digest_bytes, digest_file
from launcher.storage.port import BlobInfo, ObjectStore, Progress
from launcher.tokens import substitute
from launcher.workspace import Workspace
from ledger.errors import InvalidNameError
from ledger.events import ConfigRef, InputRef, PromotionPlan, RunRequested
from ledger.ids import check_label, check_run_id

__all__ = ["Flags", "own_paths", "request_run"]

_MAX_INPUTS = 100
_FOLDERS = ("logs", "checkpoints", "artifacts", "metadata")


@dataclass(frozen=True, slots=True)
class Flags:
    """What ``submit`` was given on the command line; None where a flag was not given."""

    run_id: str
    teacher_checkpoint: str | None = None
    teacher_scorecard: str | None = None
    promotion_target: str | None = None
    promotion_record: str | None = None
    storage_alert_file: str | None = None
    output_root: str | None = None
    relabel_tag_file: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None


def own_paths(run_id: str, run_dir: Path) -> dict[str, str]:
    """Our own names that are known before a run starts, absolute."""
    return {
        "RUN_ID": run_id,
        "RUN_DIR": str(run_dir),
        "LOG_DIR": str(run_dir / "logs"),
        "CHECKPOINT_DIR": str(run_dir / "checkpoints"),
        "ARTIFACT_DIR": str(run_dir / "artifacts"),
        "METADATA_DIR": str(run_dir / "metadata"),
    }


def check(flags: Flags, config: Config) -> None:
    """Refuse bad names, and a secret's value where it would be kept, before any I/O. Raises UsageError."""
    try:
        check_run_id(flags.run_id)
        for name, value in flags.labels.items():
            check_label(name)
            check_label(value)
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc
    kept = [flags.note or "", *flags.labels.values(), flags.promotion_target or ""]
    for name in config.secret_names:
        value = config.variables.get(name, "")
        if len(value) >= 8 and any(value in text for text in kept):
            raise UsageError(f"a note, label or target contains the value of {name}")


def request_run(
    ws: Workspace, config: Config, flags: Flags, *, dry_run: bool = False
) -> RunRequested:
    """The fact that a run is wanted, complete but not yet appended. A dry run stores nothing.

    Raises UsageError (bad names, missing inputs), ConflictError (the run exists).
    """
    run_id = flags.run_id
    output_root = ws.root / flags.output_root if flags.output_root else ws.home
    run_dir = output_root / run_id
    _refuse_existing(ws, run_id, run_dir)
    own = own_paths(run_id, run_dir)

    def expand(value: str | None) -> str | None:
        return substitute(value, own) if value else None

    store = _Hashing(ws.store) if dry_run else ws.store
    stored = store.ingest_bytes(config.stored_bytes())
    stages = plan_stages(config.commands, config.timeouts, config.retries, stored.digest)
    tag_file = expand(flags.relabel_tag_file or config.relabel_tag_file)
    return RunRequested(
        run_id=run_id,
        project=ws.settings.project,
        project_root=str(ws.root),
        output_root=relative_to_project(output_root, ws.root),
        config=ConfigRef(
            path=relative_to_project(Path(config.path), ws.root),
            digest=stored.digest,
            overrides={
                name: None if name in config.secret_names else value
                for name, value in flags.overrides.items()
            },
        ),
        stages=stages,
        teacher_checkpoint=_required(
            ws,
            store,
            run_dir,
            "teacher_checkpoint",
            flags.teacher_checkpoint or expand(config.teacher_checkpoint),
        ),
        teacher_scorecard=_required(
            ws,
            store,
            run_dir,
            "teacher_scorecard",
            flags.teacher_scorecard or expand(config.teacher_scorecard),
        ),
        inputs=_globbed(ws, store, config),
        relabel_tag_file=relative_to_project(ws.root / tag_file, ws.root) if tag_file else None,
        promotion=_promotion(ws, config, flags),
        labels=dict(flags.labels),
        note=flags.note,
        infrastructure_retries=config.infrastructure_retries,
        provenance=provenance(ws.root),
    )


def make_folders(run_dir: Path) -> None:
    """The four folders that every run has."""
    for name in _FOLDERS:
        (run_dir / name).mkdir(parents=True, exist_ok=True)


def _refuse_existing(ws: Workspace, run_id: str, run_dir: Path) -> None:
    if ws.journal.run(run_id).request is not None:
        raise ConflictError(
            f"run {run_id} exists", f"launcher resume {run_id}, or submit with another --run-id"
        )
    if run_dir.exists() and any(run_dir.iterdir()):
        raise ConflictError(
            f"{run_dir} is not empty and no run of this ledger made it", "choose another --run-id"
        )


def _required(
    ws: Workspace, store: ObjectStore, run_dir: Path, label: str, ref: str | None
) -> InputRef:
    if not ref:
        flag = "--" + label.replace("_", "-")
        raise UsageError(f"no {label.replace('_', ' ')} is given", f"{flag} or {label.upper()}=")
    return resolve_input(ref, ws.root, run_dir / "inputs", label, ws.journal, store)


def _globbed(ws: Workspace, store: ObjectStore, config: Config) -> tuple[InputRef, ...]:
    found: list[InputRef] = []
    for patterns, stored in ((config.inputs, True), (config.inputs_private, False)):
        for pattern in patterns:
            paths = sorted(p for p in _glob(ws.root, pattern) if p.is_file())
            if not paths:
                raise UsageError(f"{config.path}: no file matches the input {pattern!r}")
            found += [_input(ws, store, path, pattern, stored=stored) for path in paths]
    if len(found) > _MAX_INPUTS:
        raise UsageError(
            f"{config.path}: INPUTS names {len(found)} files, at most {_MAX_INPUTS} are kept",
            "pack them into an archive",
        )
    return tuple(found)


def _glob(root: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        anchor = Path(Path(pattern).anchor)
        return list(anchor.glob(str(Path(pattern).relative_to(anchor))))
    return list(root.glob(pattern))


def _input(ws: Workspace, store: ObjectStore, path: Path, ref: str, *, stored: bool) -> InputRef:
    blob = store.ingest(path) if stored else digest_file(path)
    return InputRef(
        ref=ref,
        path=relative_to_project(path, ws.root),
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        stored=stored,
    )


class _Hashing:
    """A store for a dry run: reads go through, an ingest only hashes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        return digest_file(source)

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        return digest_bytes(data)


def _promotion(ws: Workspace, config: Config, flags: Flags) -> PromotionPlan | None:
    if flags.promotion_target is None:
        for flag, value in (
            ("--promotion-record", flags.promotion_record),
            ("--storage-alert-file", flags.storage_alert_file),
        ):
            if value is not None:
                raise UsageError(f"{flag} needs --promotion-target")
        return None
    if config.promotion_gate:
        raise UsageError(
            f"{config.path}: PROMOTION_GATE is not supported by this version ({__version__})",
            "take it out, or promote by hand with launcher promote",
        )
    return PromotionPlan(
        target=pointer_name(flags.promotion_target, ws.root),
        record=_relative(ws, flags.promotion_record),
        alert_file=_relative(ws, flags.storage_alert_file),
    )


def _relative(ws: Workspace, path: str | None) -> str | None:
    return relative_to_project(ws.root / path, ws.root) if path else None
