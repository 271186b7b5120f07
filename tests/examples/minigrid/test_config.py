"""The demo's config, run by the launcher itself, in a project folder whose name has a space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.minigrid import make_teacher
from launcher.config import load

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "configs/self_distill/minigrid.env"
TARGET = "checkpoints/stable/student_latest.safetensors"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what the demo needs of this one, and a teacher."""
    root = tmp_path / "my project"
    root.mkdir()
    (root / ".venv").symlink_to(sys.prefix)
    (root / "examples").symlink_to(ROOT / "examples")
    (root / "configs").symlink_to(ROOT / "configs")
    make_teacher.main(
        [
            *("--checkpoint", str(root / "checkpoints/preplan.safetensors")),
            *("--scorecard", str(root / "results/calibration/teacher_scorecard.json")),
            *("--episodes", "5"),
        ]
    )
    return root


def test_the_config_is_read_without_a_warning() -> None:
    config = load(ROOT / CONFIG)
    assert config.warnings == ()
    assert all(config.commands.values())


def test_the_launcher_runs_it_to_a_promoted_student(project: Path) -> None:
    small = [f"--set={name}" for name in ("EPISODES=30", "EVAL_EPISODES=10", "SEED=2")]
    launched = subprocess.run(
        [
            *(project / ".venv/bin/launcher", "submit"),
            *("--config", CONFIG, "--promotion-target", TARGET, "--run-id", "one", *small),
        ],
        cwd=project,
        env=_without_ours(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    run_dir = project / "runs/self_distill/one"
    metadata = json.loads((run_dir / "metadata.json").read_text())
    assert [s["status"] for s in metadata["stages"]] == ["completed"] * 4
    assert metadata["metrics"]["eval_episodes"] == 10
    tags = json.loads((run_dir / "metadata/relabel_tags.json").read_text())
    assert tags["planlet_tag_file"] == "runs/self_distill/one/artifacts/planlet_tags.jsonl"
    student = (run_dir / "checkpoints/student.safetensors").read_bytes()
    assert (project / TARGET).read_bytes() == student


def _without_ours() -> dict[str, str]:
    return {n: v for n, v in os.environ.items() if not n.startswith(("LAUNCHER_", "PLANNER_"))}
