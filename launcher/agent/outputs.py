"""Collecting what a stage left, as plain values for its result."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from launcher.agent.protocol import AttemptPaths, StageSpec
from launcher.agent.transfer import told
from launcher.errors import IntegrityError, UsageError
from launcher.storage.manifest import CHECKPOINT_SUFFIXES, Manifest, collect, merged, select_student
from launcher.storage.port import BlobInfo, ObjectStore

__all__ = ["Before", "checkpoints_before", "collect_checkpoints", "collect_outputs", "log_digest"]

#: What lay under checkpoints/ when an attempt began: path relative to the run's folder -> what it was.
Before = Mapping[str, tuple[int, ...]]

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
_STAGE_LOG = re.compile(r"\d\d_[a-z_]+(\.\d+)?\.log")
#: More than this is no file of metrics.
_METRICS_LIMIT_BYTES: Final = 1024 * 1024


def checkpoints_before(spec: StageSpec) -> Before:
    """What is there before an attempt's command starts; its student is none of these, unless it changes one.

    Compared with itself and never with a clock: a file may be renamed, or copied with an older time, into place.
    """
    run_dir = Path(spec.run_dir)
    found = {p: _stood(p) for p in (run_dir / "checkpoints").rglob("*")}
    return {p.relative_to(run_dir).as_posix(): was for p, was in found.items() if was}


def _stood(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    plain = stat.S_ISREG(found.st_mode)
    size, changed = found.st_size, (found.st_mtime_ns, found.st_ctime_ns)
    return (found.st_dev, found.st_ino, size, *changed) if plain else None


def collect_outputs(
    spec: StageSpec, store: ObjectStore, before: Before | None = None
) -> dict[str, Any]:
    """The part of a result that says what the stage left; ``before`` is what ``checkpoints_before`` said.

    Raises OutputsRefusedError, UnavailableError, UsageError (a file that is still being written).
    """
    run_dir = Path(spec.run_dir)
    with told(store, _paths(spec)) as ingest:
        manifest = _manifest(spec, store, ingest)
    stored = store.ingest_bytes(manifest.to_bytes())
    checkpoints, also, refused = _checkpoints(spec, run_dir, manifest, before or {})
    metrics, ignored = _metrics(run_dir, manifest)
    return {
        "manifest_digest": stored.digest,
        "log_digest": log_digest(spec, store),
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
    saved: list[dict[str, Any]] = []
    not_saved: list[str] = []
    for path in sorted((run_dir / "checkpoints").rglob("*")):
        if not (path.name.lower().endswith(CHECKPOINT_SUFFIXES) and _is_own_file(path, run_dir)):
            continue
        name = path.relative_to(run_dir).as_posix()
        try:
            blob = store.ingest(path)
        except UsageError:
            not_saved.append(_text(name))
        else:
            saved.append({"path": name, "digest": blob.digest, "size_bytes": blob.size_bytes})
    return {
        "log_digest": log_digest(spec, store),
        "checkpoints": saved,
        "not_saved": not_saved,
    }


def _is_own_file(path: Path, run_dir: Path) -> bool:
    """Whether ``path`` is a file of UTF-8 name that lies in the run's folder itself, not behind a link."""
    name = str(path.relative_to(run_dir))
    real = os.path.realpath(path) == os.path.join(os.path.realpath(run_dir), name)  # noqa: PTH118
    return real and path.is_file() and _text(name) == name


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _paths(spec: StageSpec) -> AttemptPaths:
    return AttemptPaths(Path(spec.home), spec.run_id, spec.stage, spec.attempt)


def _manifest(spec: StageSpec, store: ObjectStore, ingest: Callable[[Path], BlobInfo]) -> Manifest:
    run_dir = Path(spec.run_dir)
    before = merged(_earlier(digest, store) for digest in spec.previous_manifests)
    logs = {f"logs/{p.name}" for p in run_dir.glob("logs/*") if _STAGE_LOG.fullmatch(p.name)}
    return collect(
        run_dir,
        before,
        ingest,
        excludes=(*spec.collect_exclude, *_NOT_OUTPUTS),
        ignore=_DOCUMENTS | logs,
    )


def _earlier(digest: str, store: ObjectStore) -> Manifest:
    try:
        return Manifest.from_bytes(store.read_blob(digest))
    except ValueError as exc:
        raise IntegrityError(f"blob {digest}: {exc}") from exc


def log_digest(spec: StageSpec, store: ObjectStore) -> str | None:
    """The raw log's blob; None where the stage took it away or put a link in its place."""
    log = Path(spec.log_path)
    return store.ingest(log).digest if _is_own_file(log, Path(spec.run_dir)) else None


def _checkpoints(
    spec: StageSpec, run_dir: Path, manifest: Manifest, before: Before
) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """Every checkpoint among the outputs, the others that could have been the student, and why none is."""
    student, also, left = None, tuple[str, ...](), False
    if spec.stage == "retrain":
        # What an attempt before this one left is among its outputs, but no checkpoint that it trained.
        paths = [entry.path for entry in manifest.entries]
        own = [p for p in paths if p not in before or _stood(run_dir / p) != before[p]]
        student, also = select_student(own, run_dir, spec.student_glob)
        left = student is None and select_student(paths, run_dir, spec.student_glob)[0] is not None
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
        refused += " of its own: what is there is from an attempt before it" if left else ""
    return found, list(also), refused


def _metrics(run_dir: Path, manifest: Manifest) -> tuple[dict[str, float], list[str]]:
    """Finite numbers by name from metadata/metrics.json, if this stage wrote it; names of the rest."""
    entry = next((e for e in manifest.entries if e.path == "metadata/metrics.json"), None)
    if entry is None:
        return {}, []
    try:
        if entry.size_bytes > _METRICS_LIMIT_BYTES:
            return {}, ["metrics.json"]
        raw = json.loads((run_dir / "metadata" / "metrics.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}, ["metrics.json"]
    if not isinstance(raw, dict):
        return {}, ["metrics.json"]
    numbers = {
        name: number
        for name, value in raw.items()
        if name.isprintable() and (number := _finite(value)) is not None
    }
    ignored = sorted(raw.keys() - numbers.keys())
    return numbers, [name.encode("utf-8", "backslashreplace").decode() for name in ignored]


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _tag_file(spec: StageSpec, store: ObjectStore) -> dict[str, Any] | None:
    if spec.tag_file is None or not Path(spec.tag_file).is_file():
        return None
    blob = store.ingest(Path(spec.tag_file))
    return {"path": spec.tag_file, "digest": blob.digest, "size_bytes": blob.size_bytes}
