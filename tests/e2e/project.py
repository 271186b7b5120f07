"""A project of a user's own, outside this repository, in a folder whose name has a space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig.stores import project_store

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "self_distill.sh"
LAUNCHER = Path(sys.executable).with_name("launcher")
CONFIG = "configs/self_distill/pyboy.env"
TEACHER = "checkpoints/preplan.pt"
SCORECARD = "results/calibration/teacher_scorecard.json"
TARGET = "checkpoints/stable/student_latest.pt"

#: Quotes, pipes, &&, $VARS, {RUN_ID}, values over several lines, a line with `export`.
PYBOY = r"""# a config as a user writes one
export GREETING="it's a 'teacher'"
PLANNER=bot   # a comment behind a value
LLM_ON_CMD='echo "$GREETING" | tee "$ARTIFACT_DIR/planlets.txt" &&
  echo "${RUN_ID:-none} {RUN_ID} $(basename "$RUN_DIR")" && cat "$TEACHER_CHECKPOINT"'
RELABEL_CMD='for i in 1 2 3; do
  printf "{\"planlet_id\": \"p%d\", \"planner\": \"%s\"}\n" "$i" "$PLANNER"
done > "$RELABEL_TAG_FILE"'
RETRAIN_CMD="cat \"$TEACHER_CHECKPOINT\" > \"$CHECKPOINT_DIR/student.pt\"
echo ${EPOCHS:-1} $RUN_ID >> \"$CHECKPOINT_DIR/student.pt\""
LLM_OFF_CMD='grep -q "$RUN_ID" "$STUDENT_CHECKPOINT" && echo "{\"success_rate\": 0.75}" > "$METADATA_DIR/metrics.json"'
RELABEL_TAG_FILE={ARTIFACT_DIR}/tags.jsonl
TEACHER_SCORECARD=results/calibration/teacher_scorecard.json
"""


@dataclass
class Done:
    """What a command printed and left."""

    code: int
    out: str
    err: str


@dataclass
class Project:
    """``root`` has a config, a teacher checkpoint and a scorecard."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def _run(self, command: list[str], cwd: Path | None = None) -> Done:
        env = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env={**env, **project_store(self.root), **self.environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def script(self, *options: str, **kwargs: Any) -> Done:
        """``bash scripts/self_distill.sh …`` with the contract's three options first."""
        given = ["--config", CONFIG, "--teacher-checkpoint", TEACHER]
        return self.bare("bash", str(SCRIPT), *given, "--teacher-scorecard", SCORECARD, *options)

    def launcher(self, *arguments: str) -> Done:
        """``launcher …``."""
        return self._run([str(LAUNCHER), *arguments])

    def bare(self, *command: str, cwd: Path | None = None) -> Done:
        """Any command in the project's root."""
        return self._run(list(command), cwd)

    def run_dir(self, run_id: str) -> Path:
        return self.root / "runs" / "self_distill" / run_id

    def metadata(self, run_id: str) -> dict[str, Any]:
        return self.json(f"runs/self_distill/{run_id}/metadata.json")

    def json(self, path: str) -> dict[str, Any]:
        value = json.loads((self.root / path).read_text())
        assert isinstance(value, dict)
        return value

    def files(self, folder: str = ".") -> set[str]:
        """Every file under ``folder``, relative to it; the store and the locks left out."""
        top = self.root / folder
        inner = {"runs/self_distill/objects", "runs/self_distill/locks"}
        return {
            str(path.relative_to(top))
            for path in top.rglob("*")
            if path.is_file()
            and not any(str(path.relative_to(self.root)).startswith(f"{i}/") for i in inner)
        }


def make_project(root: Path, config: str = PYBOY) -> Project:
    """A fresh project under ``root``."""
    for path, text in (
        (CONFIG, config),
        (TEACHER, "teacher\n"),
        (SCORECARD, '{"success_rate": 0.9}\n'),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Project(root)
