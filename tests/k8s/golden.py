"""The Jobs that are kept as they should be: ``python -m tests.k8s.golden`` writes tests/golden/jobs again.

Look at the difference before you commit it: each line of it is a line of somebody's cluster.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from k8s.manifest import StageJob, job_manifest
from k8s.names import Attempt
from k8s.profile_file import read_profile
from k8s.profile_text import ReadProfile
from k8s.yaml_text import to_yaml
from ledger.events import StageName

__all__ = ["CASES", "FOLDER", "document", "manifest", "profile", "stage_job"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden" / "jobs"
#: name: (profile, stage).
CASES: dict[str, tuple[str, StageName]] = {
    "cpu-relabel": ("configs/profiles/cpu.yaml", "relabel"),
    "gpu-llm_on": ("configs/profiles/gpu.yaml", "llm_on"),
    "gpu-retrain": ("configs/profiles/gpu.yaml", "retrain"),
    "gpu-llm_off": ("configs/profiles/gpu.yaml", "llm_off"),
    "kueue-retrain": ("configs/profiles/kueue.yaml", "retrain"),
    "everything-retrain": ("tests/golden/profiles/everything.yaml", "retrain"),
}
_COMMANDS: dict[StageName, str] = {
    "llm_on": 'python play.py --planner "$PLANNER_BASE_URL" --out "$ARTIFACT_DIR"',
    "relabel": "python relabel.py < \"$ARTIFACT_DIR/planlets.jsonl\" | tee \"$RELABEL_TAG_FILE\" | wc -l",
    "retrain": 'python train.py --seed $(date +%s) --out "$CHECKPOINT_DIR/student-$$.pt"\n# a $(NAME) of bash',
    "llm_off": 'python evaluate.py "$STUDENT_CHECKPOINT"',
}  # fmt: skip
_RUN = "20261125T091500Z-ab12"
_NUMBER: dict[StageName, str] = {"llm_on": "01", "relabel": "02", "retrain": "03", "llm_off": "04"}


def stage_job(stage: StageName, **more: Any) -> StageJob:
    """An attempt as the launcher would describe it."""
    folder = f"/workspace/runs/self_distill/{_RUN}"
    log = f"{folder}/logs/{_NUMBER[stage]}_{stage}.log"
    environment = {
        "RUN_ID": _RUN,
        "RUN_DIR": folder,
        "STAGE": stage,
        "ATTEMPT": "1",
        "CHECKPOINT_DIR": f"{folder}/checkpoints",
        "PLANNER_BASE_URL": "http://localhost:9999",
        "EPISODES": "50",
        "PRICE": "$(RUN_ID) costs $$5",
    }
    given: dict[str, Any] = {
        "attempt": Attempt("robots", _RUN, stage, 1, f"sha256:{'5' * 64}"),
        "command": _COMMANDS[stage],
        "log": log,
        "task": f"sha256:{'7' * 64}",
        "store": "s3://distillation/robots",
        "environment": environment,
    }
    return StageJob(**{**given, **more})


def profile(path: str) -> ReadProfile:
    """A profile of this repository."""
    return read_profile(ROOT / path)


def manifest(name: str) -> dict[str, Any]:
    """The Job of a case, made now."""
    path, stage = CASES[name]
    return job_manifest(stage_job(stage), profile(path), stage)


def document(name: str) -> str:
    """… as the file says it."""
    return to_yaml(manifest(name))


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        (FOLDER / f"{name}.yaml").write_text(document(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
