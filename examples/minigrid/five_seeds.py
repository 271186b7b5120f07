"""The whole loop for several seeds, without any launcher, and the table of what came of it.

Each seed has its own random encoder, captured levels, noise and held-out levels. The stages are the same commands,
run one after another with the environment set by hand: which also shows that they need nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from examples.minigrid.scores import wilson_interval

__all__ = ["main", "run_loop", "stage_environment"]

_PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]


def stage_environment(run_dir: Path, teacher: Path, scorecard: Path) -> dict[str, str]:
    """What a stage of the run in ``run_dir`` is given; the run's folders are made."""
    folders = {name: run_dir / name for name in ("logs", "checkpoints", "artifacts", "metadata")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "RUN_ID": run_dir.name,
        "RUN_DIR": str(run_dir),
        "ATTEMPT": "1",
        "LOG_DIR": str(folders["logs"]),
        "CHECKPOINT_DIR": str(folders["checkpoints"]),
        "ARTIFACT_DIR": str(folders["artifacts"]),
        "METADATA_DIR": str(folders["metadata"]),
        "TEACHER_CHECKPOINT": str(teacher),
        "TEACHER_SCORECARD": str(scorecard),
        "RELABEL_TAG_FILE": str(folders["artifacts"] / "planlet_tags.jsonl"),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def run_loop(
    environment: Mapping[str, str], seed: int, episodes: int, eval_episodes: int
) -> dict[str, Any]:
    """The four stages, one after another; returns eval.json. Raises CalledProcessError."""
    student = str(Path(environment["CHECKPOINT_DIR"]) / "student.safetensors")
    stages: tuple[tuple[str, list[str], dict[str, str]], ...] = (
        ("capture", ["--seed", str(seed), "--episodes", str(episodes)], {}),
        ("relabel", [], {}),
        ("retrain", ["--seed", str(seed)], {}),
        (
            "evaluate",
            ["--seed", str(seed), "--episodes", str(eval_episodes)],
            {"STUDENT_CHECKPOINT": student},
        ),
    )
    for name, flags, more in stages:
        _command(name, flags, {**environment, **more})
    text = (Path(environment["ARTIFACT_DIR"]) / "eval.json").read_text(encoding="utf-8")
    report: dict[str, Any] = json.loads(text)
    return report


def _command(name: str, flags: list[str], environment: Mapping[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", f"examples.minigrid.{name}", *flags],
        cwd=_PROJECT_ROOT,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command: prints a Markdown table."""
    parser = argparse.ArgumentParser(prog="five_seeds", description="The loop for several seeds.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--eval-episodes", type=int, default=200)
    options = parser.parse_args(arguments)
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            base = Path(folder)
            teacher, scorecard = base / f"{seed}.safetensors", base / f"{seed}.json"
            flags = ["--checkpoint", str(teacher), "--scorecard", str(scorecard)]
            _command("make_teacher", [*flags, "--seed", str(seed)], {})
            environment = stage_environment(base / f"seed-{seed}", teacher, scorecard)
            report = run_loop(environment, seed, options.episodes, options.eval_episodes)
            reports.append(report)
    _print_table(reports)


def _print_table(reports: list[dict[str, Any]]) -> None:
    names = list(reports[0]["policies"])
    print("| seed | " + " | ".join(names) + " | steps | wants plans | p |")
    print("|---" * (len(names) + 4) + "|")
    for seed, report in enumerate(reports):
        policies = report["policies"]
        rates = " | ".join(_rate(policies[n]["successes"], policies[n]["episodes"]) for n in names)
        student = policies["student"]
        print(
            f"| {seed} | {rates} | {student['mean_steps']:.1f} |"
            f" {student['reliance']:.0%} | {report['p_value']:.0e} |"
        )
    totals = " | ".join(
        _rate(
            sum(r["policies"][n]["successes"] for r in reports),
            sum(r["policies"][n]["episodes"] for r in reports),
        )
        for n in names
    )
    print(f"| all | {totals} | | | |")


def _rate(successes: int, episodes: int) -> str:
    low, high = wilson_interval(successes, episodes)
    return f"{successes / episodes:.1%} ({low:.1%} - {high:.1%})"


if __name__ == "__main__":
    main()
