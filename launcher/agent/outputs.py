"""Collecting what a stage left, as plain values for its result."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from launcher.agent.protocol import StageSpec
from launcher.storage.manifest import CHECKPOINT_SUFFIXES, Manifest, collect, merged, select_student
from launcher.storage.port import ObjectStore

__all__ = ["collect_checkpoints", "collect_outputs"]

#: Documents that the launcher writes into a run's folder; no stage's outputs.
_DOCUMENTS: Final = frozenset(
    {
        "metadata.json",
        "metadata/relabel_tags.json",
        "metadata/promotion.json",
        "metadata/storage_alert.txt",
    }
)
#: Their temporary names, and inputs that were brought from the store.
_NOT_OUTPUTS: Final = ("/.metadata.json.*.tmp", "/metadata/.*.tmp", "/inputs/")
_STAGE_LOG = re.compile(r"logs/\d\d_[a-z_]+(\.\d+)?\.log")


def collect_outputs(spec: StageSpec, store: ObjectStore) -> dict[str, Any]:
    """The part of a result that says what the stage left.

    Raises OutputsRefusedError, UnavailableError, UsageError (a file that is still being written).
    """
    run_dir = Path(spec.run_dir)
    manifest = _manifest(spec, store)
    stored = store.ingest_bytes(manifest.to_bytes())
    checkpoints, also, refused = _checkpoints(spec, run_dir, manifest)
    metrics, ignored = _metrics(run_dir, manifest)
    return {
        "manifest_digest": stored.digest,
        "log_digest": _log_digest(spec, store),
        "checkpoints": checkpoints,
        "also_matched": also,
        "student_refused": refused,
        "metrics": metrics,
        "metrics_ignored": ignored,
        "tag_file": _tag_file(spec, store),
    }


def collect_checkpoints(spec: StageSpec, store: ObjectStore) -> dict[str, Any]:
    """What a closed attempt saved: its log, and the checkpoints that are whole enough to be read."""
    run_dir = Path(spec.run_dir)
    saved = []
    for path in sorted((run_dir / "checkpoints").rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name.endswith(CHECKPOINT_SUFFIXES):
            blob = store.ingest(path)
            saved.append(
                {
                    "path": path.relative_to(run_dir).as_posix(),
                    "digest": blob.digest,
                    "size_bytes": blob.size_bytes,
                }
            )
    return {"log_digest": _log_digest(spec, store), "checkpoints": saved}


def _manifest(spec: StageSpec, store: ObjectStore) -> Manifest:
    run_dir = Path(spec.run_dir)
    before = merged(Manifest.from_bytes(store.read_blob(d)) for d in spec.previous_manifests)
    logs = {
        name
        for entry in os.scandir(run_dir / "logs")
        if _STAGE_LOG.fullmatch(name := f"logs/{entry.name}")
    }
    return collect(
        run_dir,
        before,
        store.ingest,
        excludes=(*spec.collect_exclude, *_NOT_OUTPUTS),
        ignore=_DOCUMENTS | logs,
    )


def _log_digest(spec: StageSpec, store: ObjectStore) -> str | None:
    log = Path(spec.log_path)
    return store.ingest(log).digest if log.is_file() else None


def _checkpoints(
    spec: StageSpec, run_dir: Path, manifest: Manifest
) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """Every checkpoint among the outputs, the others that could have been the student, and why none is."""
    student, also = None, tuple[str, ...]()
    if spec.stage == "retrain":
        paths = [entry.path for entry in manifest.entries]
        student, also = select_student(paths, run_dir, spec.student_glob)
    refused = None
    found = []
    for entry in manifest.entries:
        name = entry.path.lower()
        if not (name.startswith("checkpoints/") and name.endswith(CHECKPOINT_SUFFIXES)):
            continue
        chosen = entry.path == student
        if chosen and entry.size_bytes == 0:
            chosen, refused = False, f"{entry.path} is empty"
        found.append(
            {
                "path": entry.path,
                "digest": entry.digest,
                "size_bytes": entry.size_bytes,
                "format": PurePosixPath(name).suffix.lstrip("."),
                "student": chosen,
            }
        )
    if spec.stage == "retrain" and student is None:
        refused = "the stage left no student checkpoint"
    return found, list(also), refused


def _metrics(run_dir: Path, manifest: Manifest) -> tuple[dict[str, float], list[str]]:
    """Finite numbers by name from metadata/metrics.json, if this stage wrote it; names of the rest."""
    if not any(entry.path == "metadata/metrics.json" for entry in manifest.entries):
        return {}, []
    try:
        raw = json.loads((run_dir / "metadata" / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return {}, ["metrics.json"]
    if not isinstance(raw, dict):
        return {}, ["metrics.json"]
    numbers = {
        name: float(value)
        for name, value in raw.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return numbers, sorted(raw.keys() - numbers.keys())


def _tag_file(spec: StageSpec, store: ObjectStore) -> dict[str, Any] | None:
    if spec.tag_file is None or not Path(spec.tag_file).is_file():
        return None
    blob = store.ingest(Path(spec.tag_file))
    return {"path": spec.tag_file, "digest": blob.digest, "size_bytes": blob.size_bytes}
