"""Stage 1, LLM on: the teacher plays held-in levels under its planner and writes planlets and telemetry.

At each step the teacher's gate says whether it wants a plan. Where it does, a planlet is asked for (or goes on) and
the controller carries it out; where it does not, the teacher's own policy acts. In some episodes plans are
used whatever the gate says, so that a good teacher still yields lessons; and some actions are replaced by random
ones, with the planned action kept beside them, so that the student sees how to recover.

Leaves ARTIFACT_DIR/planlets.jsonl and ARTIFACT_DIR/telemetry.jsonl. Levels are drawn with replacement.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from examples.minigrid.chat import EndpointRefusedError
from examples.minigrid.controller import Execution
from examples.minigrid.memory import Memory, features
from examples.minigrid.planlets import frame_id, make_planlet
from examples.minigrid.planner import Asked, CachedPlanner, ChatPlanner, make_planner
from examples.minigrid.stage import Stage, write_json_lines
from examples.minigrid.student import Student, load_student
from examples.minigrid.world import ACTIONS, HELD_IN_SEEDS, Frame, World, rows_from_view

__all__ = ["Capture", "Step", "main"]

#: Steps after which a plan is dropped and, if still wanted, a new one asked for.
HORIZON_STEPS: Final = 16


@dataclass(frozen=True)
class Step:
    """One line of telemetry. ``planned_action`` is None where no plan was active."""

    run_id: str
    episode: int
    seed: int
    step: int
    frame_id: int
    mission: str
    view: list[str]
    gate: str
    gate_open_probability: float
    plan_active: bool
    planlet_id: str | None
    op: str | None
    planned_action: str | None
    action: str
    plan_milliseconds: float
    cache_hit: bool | None
    done: bool
    success: bool


@dataclass
class _ActivePlan:
    planlet_id: str
    execution: Execution
    steps_left: int = HORIZON_STEPS


@dataclass
class Capture:
    """A capture under way: what plays, what decides, and what has been written so far."""

    run_id: str
    world: World
    teacher: Student
    planner: CachedPlanner
    rng: np.random.Generator
    noise: float
    ask_share: float
    planlets: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def play(self, episode: int, seed: int) -> bool:
        """One episode; True if it ended in success. Raises EndpointRefusedError."""
        frame, memory = self.world.reset(seed), Memory()
        always_ask = bool(self.rng.random() < self.ask_share)
        plan: _ActivePlan | None = None
        done, number = False, 0
        while not done:
            memory.see(frame.view)
            hidden = self.teacher.encode(features(frame.view, frame.target, memory))
            is_open, p_open = self.teacher.wants_plan(hidden)
            planned, asked = None, None
            if is_open or always_ask:
                plan, planned, asked = self._consult(plan, frame, memory, episode, seed, number)
            own = self.teacher.act(hidden, self.rng) if planned is None else planned[1]
            action = int(self.rng.integers(len(ACTIONS))) if self.rng.random() < self.noise else own
            memory.moved(action)
            after, done, success = self.world.step(action)
            self.steps.append(
                Step(
                    run_id=self.run_id,
                    episode=episode,
                    seed=seed,
                    step=number,
                    frame_id=frame_id(seed, number),
                    mission=frame.mission,
                    view=rows_from_view(frame.view),
                    gate="open" if is_open else "overruled" if always_ask else "closed",
                    gate_open_probability=round(p_open, 4),
                    plan_active=planned is not None,
                    planlet_id=plan.planlet_id if plan and planned else None,
                    op=planned[0] if planned else None,
                    planned_action=ACTIONS[planned[1]] if planned else None,
                    action=ACTIONS[action],
                    plan_milliseconds=asked.milliseconds if asked else 0.0,
                    cache_hit=asked.cache_hit if asked else None,
                    done=done,
                    success=success,
                )
            )
            frame, number = after, number + 1
        return success

    def _consult(
        self,
        plan: _ActivePlan | None,
        frame: Frame,
        memory: Memory,
        episode: int,
        seed: int,
        number: int,
    ) -> tuple[_ActivePlan | None, tuple[str, int] | None, Asked | None]:
        """Go on with the plan, or with a new one where it is used up; and what it cost to ask."""
        if plan is not None and plan.steps_left > 0:
            planned = plan.execution.next_action(memory)
            if planned is not None:
                plan.steps_left -= 1
                return plan, planned, None
        asked = self.planner.ask(self.world, frame.mission, memory)
        planlet = make_planlet(
            planlet_id=f"{self.run_id}-{episode:04d}-{number:02d}",
            frame=frame_id(seed, number),
            mission=frame.mission,
            asked=asked,
            horizon_steps=HORIZON_STEPS,
        )
        self.planlets.append(planlet)
        plan = _ActivePlan(planlet["planlet_id"], Execution(asked.plan.script), HORIZON_STEPS - 1)
        return plan, plan.execution.next_action(memory), asked


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises SystemExit with one line where something it needs is missing."""
    options = _options(arguments)
    stage = Stage.from_environment(os.environ)
    rng = np.random.default_rng([options.seed, 1])
    capture = Capture(
        run_id=stage.run_id,
        world=World(),
        teacher=load_student(stage.teacher_checkpoint),
        planner=make_planner(os.environ),
        rng=rng,
        noise=options.noise,
        ask_share=options.ask_share,
    )
    seeds = rng.choice(np.asarray(HELD_IN_SEEDS), size=options.episodes)
    try:
        won = sum(capture.play(episode, int(seed)) for episode, seed in enumerate(seeds))
    except EndpointRefusedError as exc:
        raise SystemExit(f"capture stopped: {exc}") from exc
    write_json_lines(stage.planlets, capture.planlets)
    write_json_lines(stage.telemetry, map(asdict, capture.steps))
    _report(capture, won, options.episodes)


def _report(capture: Capture, won: int, episodes: int) -> None:
    asked = [s for s in capture.steps if s.cache_hit is not None]
    hits = sum(bool(s.cache_hit) for s in asked)
    planned = sum(s.plan_active for s in capture.steps)
    print(
        f"{len(capture.planlets)} planlets by {capture.planner.planner.name}, {hits} from the cache"
    )
    print(
        f"{len(capture.steps)} steps in {episodes} episodes, {planned} under a plan; {won} episodes solved"
    )
    if isinstance(capture.planner.planner, ChatPlanner):
        for reason, count in sorted(capture.planner.planner.failures.items()):
            print(f"{count} plans by {capture.planner.planner.fallback.name} instead: {reason}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="capture", description="The teacher plays and plans.")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.15, help="share of random actions")
    parser.add_argument("--ask-share", type=float, default=0.5, help="episodes that always plan")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
