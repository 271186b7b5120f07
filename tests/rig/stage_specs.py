"""A stage's spec for those who run its collection without a supervisor."""

from __future__ import annotations

from pathlib import Path

from launcher.agent.protocol import StageSpec

__all__ = ["spec_of"]


def spec_of(run_dir: Path, stage: str) -> StageSpec:
    """A first attempt at ``stage`` that left what lies in ``run_dir``; there is no log."""
    return StageSpec(
        run_id=run_dir.name,
        stage=stage,
        attempt=1,
        index=1,
        command="true",
        cwd=str(run_dir.parent),
        environment={},
        run_dir=str(run_dir),
        log_path=str(run_dir / "logs" / "no.log"),
        store="",
        home=str(run_dir.parent),
        previous_manifests=(),
        collect_exclude=(),
        student_glob=None,
        tag_file=None,
        timeout_seconds=None,
        grace_seconds=1.0,
        spec_digest="sha256:" + "0" * 64,
    )
