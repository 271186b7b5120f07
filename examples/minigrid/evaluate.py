"""Stage 4, LLM off: the student alone on held-out levels, against its teacher checkpoint and a random policy.

All three play the same levels. Leaves ARTIFACT_DIR/eval.json and ARTIFACT_DIR/comparison.png, and adds to
METADATA_DIR/metrics.json.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np

from examples.minigrid.picture import draw
from examples.minigrid.play import Episode, Policy, play, random_policy, student_policy, summary
from examples.minigrid.scores import paired_p_value
from examples.minigrid.stage import Stage, merge_metrics, write_json
from examples.minigrid.student import load_student
from examples.minigrid.world import ENVIRONMENT, HELD_OUT_SEEDS, World

__all__ = ["held_out", "main", "table"]


def held_out(seed: int, episodes: int) -> range:
    """The levels of evaluation ``seed``: disjoint from those of any other seed and from everything captured."""
    if not 0 < episodes <= 1_000 or not 0 <= seed < len(HELD_OUT_SEEDS) // 1_000:
        raise SystemExit("--episodes must be 1 to 1000 and --seed 0 to 999")
    return HELD_OUT_SEEDS[seed * 1_000 : seed * 1_000 + episodes]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _options(arguments)
    stage = Stage.from_environment(os.environ)
    if stage.student_checkpoint is None:
        raise SystemExit("STUDENT_CHECKPOINT is not set; there is no student to evaluate")
    student, teacher = (
        load_student(stage.student_checkpoint),
        load_student(stage.teacher_checkpoint),
    )
    teacher_name = "teacher, alone" if teacher.about["trained"] else "untrained teacher"
    levels = held_out(options.seed, options.episodes)

    def rng(k: int) -> np.random.Generator:
        return np.random.default_rng([options.seed, 4, k])

    policies: dict[str, Policy] = {
        "random": random_policy(rng(0)),
        teacher_name: student_policy(teacher, rng(1)),
        "student": student_policy(student, rng(2)),
    }
    world = World()
    played = {name: play(world, levels, policy) for name, policy in policies.items()}
    report = _report(played, teacher_name, (levels.start, levels.stop))
    write_json(stage.artifact_dir / "eval.json", report)
    results = report["policies"]
    merge_metrics(stage.metrics, _metrics(report, teacher_name))
    scorecard = json.loads(stage.teacher_scorecard.read_text(encoding="utf-8"))
    draw(stage.artifact_dir / "comparison.png", played, results, scorecard)
    print(table(results))
    print(f"student against {teacher_name}: p = {report['p_value']:.1e} (McNemar, exact)")


def _report(
    played: dict[str, list[Episode]], teacher_name: str, levels: tuple[int, int]
) -> dict[str, Any]:
    won = {name: [e.success for e in episodes] for name, episodes in played.items()}
    return {
        "environment": ENVIRONMENT,
        "level_seeds": {"first": levels[0], "past_last": levels[1]},
        "policies": {name: summary(episodes) for name, episodes in played.items()},
        "compared_with": teacher_name,
        "p_value": paired_p_value(won["student"], won[teacher_name]),
        "test": "McNemar's exact test, two-sided, on the same levels",
    }


def _metrics(report: dict[str, Any], teacher_name: str) -> dict[str, float]:
    student, teacher = report["policies"]["student"], report["policies"][teacher_name]
    names = ("success_rate", "success_rate_low", "success_rate_high", "mean_steps", "reliance")
    return {
        **{name: student[name] for name in names},
        "teacher_alone_success_rate": teacher["success_rate"],
        "random_success_rate": report["policies"]["random"]["success_rate"],
        "eval_episodes": student["episodes"],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The comparison in plain text, one policy a line."""
    lines = [f"{'':18} {'success':>8}  {'95 % interval':15} {'mean steps':>10} {'wants plans':>12}"]
    for name, r in results.items():
        interval = f"{r['success_rate_low']:.1%} - {r['success_rate_high']:.1%}"
        wants = "-" if name == "random" else f"{r['reliance']:.0%}"
        lines.append(
            f"{name:18} {r['success_rate']:>8.1%}  {interval:15} {r['mean_steps']:>10.1f} {wants:>12}"
        )
    return "\n".join(lines)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate", description="The student plays alone.")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
