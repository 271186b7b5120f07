"""What a stage is given: its folders and inputs, from the environment; and how it leaves files behind.

Files are written beside their place and renamed, so that nobody ever sees half a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Stage", "merge_metrics", "read_json_lines", "write_json", "write_json_lines"]


@dataclass(frozen=True)
class Stage:
    """The environment of one stage, absolute paths. ``student_checkpoint`` is None before the retrain."""

    run_id: str
    artifact_dir: Path
    checkpoint_dir: Path
    metadata_dir: Path
    teacher_checkpoint: Path
    teacher_scorecard: Path
    relabel_tag_file: Path
    student_checkpoint: Path | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Stage:
        """Raises SystemExit, naming the variable, where one is missing."""

        def path(name: str) -> Path:
            return Path(_required(environment, name))

        student = environment.get("STUDENT_CHECKPOINT")
        return cls(
            run_id=_required(environment, "RUN_ID"),
            artifact_dir=path("ARTIFACT_DIR"),
            checkpoint_dir=path("CHECKPOINT_DIR"),
            metadata_dir=path("METADATA_DIR"),
            teacher_checkpoint=path("TEACHER_CHECKPOINT"),
            teacher_scorecard=path("TEACHER_SCORECARD"),
            relabel_tag_file=path("RELABEL_TAG_FILE"),
            student_checkpoint=Path(student) if student else None,
        )

    @property
    def planlets(self) -> Path:
        """The planlets as captured, JSON Lines."""
        return self.artifact_dir / "planlets.jsonl"

    @property
    def telemetry(self) -> Path:
        """One line per step played, in order."""
        return self.artifact_dir / "telemetry.jsonl"

    @property
    def metrics(self) -> Path:
        """Flat numbers by name."""
        return self.metadata_dir / "metrics.json"


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SystemExit(f"{name} is not set; this command runs as a stage of a run")
    return value


def replace_bytes(path: Path, data: bytes) -> None:
    """Write beside ``path``, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; a NaN is an error."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    replace_bytes(path, f"{text}\n".encode())


def write_json_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(v, allow_nan=False, ensure_ascii=False) + "\n" for v in values)
    replace_bytes(path, "".join(lines).encode())


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, in order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def merge_metrics(path: Path, numbers: Mapping[str, float]) -> None:
    """Add ``numbers`` to the metrics that an earlier stage left."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**known, **numbers})
