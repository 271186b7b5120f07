"""Makes what the first run starts from: an untrained teacher checkpoint and the teacher planner's scorecard.

The checkpoint's encoder is a random ReLU projection of hand-made features: fixed, not pretrained. Its heads
know nothing. The scorecard is measured: the bot plans, the controller acts, without noise, on levels that
serve nothing else.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from examples.minigrid.controller import Execution
from examples.minigrid.memory import Memory
from examples.minigrid.planner import BotPlanner, CachedPlanner
from examples.minigrid.play import Episode, Policy, play, summary
from examples.minigrid.stage import write_json
from examples.minigrid.student import new_student, save_student
from examples.minigrid.world import CALIBRATION_SEEDS, ENVIRONMENT, Frame, Target, World

__all__ = ["main", "measure_planner"]


def measure_planner(world: World, episodes: int) -> dict[str, Any]:
    """The scorecard: success rate with its interval and mean steps, in all and by kind of object."""
    planner = CachedPlanner(BotPlanner())
    kinds: list[str] = []
    played: list[Episode] = []
    for seed in CALIBRATION_SEEDS[:episodes]:
        kinds.append(Target.of_mission(world.reset(seed).mission).type_name)
        played += play(world, [seed], _planned_policy(world, planner))
    by_kind: dict[str, list[Episode]] = defaultdict(list)
    for kind, episode in zip(kinds, played, strict=True):
        by_kind[kind].append(episode)
    return {
        "teacher": f"{planner.planner.name} plans, controller acts",
        "environment": ENVIRONMENT,
        "level_seeds": {
            "first": CALIBRATION_SEEDS[0],
            "past_last": CALIBRATION_SEEDS[0] + episodes,
        },
        **summary(played),
        "by_object": {kind: summary(by_kind[kind]) for kind in sorted(by_kind)},
    }


def _planned_policy(world: World, planner: CachedPlanner) -> Policy:
    execution: Execution | None = None

    def policy(frame: Frame, memory: Memory) -> tuple[int, bool]:
        nonlocal execution
        planned = execution.next_action(memory) if execution else None
        if planned is None:
            execution = Execution(planner.ask(world, frame.mission, memory).plan.script)
            planned = execution.next_action(memory)
        if planned is None:
            raise RuntimeError("the bot's plan held nothing to do")
        return planned[1], True

    return policy


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _options(arguments)
    teacher = new_student(options.seed)
    save_student(options.checkpoint, teacher)
    scorecard = measure_planner(World(), options.episodes)
    write_json(options.scorecard, scorecard)
    print(f"{options.checkpoint}: encoder is a {teacher.about['encoder']}; heads untrained")
    print(
        f"{options.scorecard}: {scorecard['teacher']}: {scorecard['successes']} of"
        f" {scorecard['episodes']} levels, {scorecard['mean_steps']:.1f} steps each"
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make_teacher", description="The first teacher.")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/preplan.safetensors"))
    parser.add_argument(
        "--scorecard", type=Path, default=Path("results/calibration/teacher_scorecard.json")
    )
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
