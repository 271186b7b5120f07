"""Playing whole episodes with a policy alone, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.minigrid.memory import Memory, features
from examples.minigrid.scores import wilson_interval
from examples.minigrid.student import Student
from examples.minigrid.world import ACTIONS, Frame, World

__all__ = ["Episode", "Policy", "play", "random_policy", "student_policy", "summary"]

#: From a frame and the memory to an action, and whether the policy would have liked a plan.
Policy = Callable[[Frame, Memory], tuple[int, bool]]


@dataclass(frozen=True)
class Episode:
    """One level played to its end; ``plans_wanted`` counts the steps whose gate was open."""

    seed: int
    success: bool
    steps: int
    plans_wanted: int


def random_policy(rng: np.random.Generator) -> Policy:
    """Each of the three actions, equally often. It knows no gate and wants no plan."""
    return lambda frame, memory: (int(rng.integers(len(ACTIONS))), False)


def student_policy(student: Student, rng: np.random.Generator) -> Policy:
    """The student alone: the gate is asked and reported, and nobody answers."""

    def policy(frame: Frame, memory: Memory) -> tuple[int, bool]:
        hidden = student.encode(features(frame.view, frame.target, memory))
        return student.act(hidden, rng), student.wants_plan(hidden)[0]

    return policy


def play(world: World, seeds: Sequence[int], policy: Policy) -> list[Episode]:
    """One episode per seed, in order."""
    return [_episode(world, seed, policy) for seed in seeds]


def _episode(world: World, seed: int, policy: Policy) -> Episode:
    frame, memory = world.reset(seed), Memory()
    steps = wanted = 0
    done = success = False
    while not done:
        memory.see(frame.view)
        action, wants_plan = policy(frame, memory)
        memory.moved(action)
        frame, done, success = world.step(action)
        steps += 1
        wanted += wants_plan
    return Episode(seed, success, steps, wanted)


def summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Success rate with its 95 % interval, mean steps (all episodes), share of steps that wanted a plan."""
    won = sum(e.success for e in episodes)
    low, high = wilson_interval(won, len(episodes))
    steps = sum(e.steps for e in episodes)
    return {
        "episodes": len(episodes),
        "successes": won,
        "success_rate": won / len(episodes),
        "success_rate_low": low,
        "success_rate_high": high,
        "mean_steps": steps / len(episodes),
        "reliance": sum(e.plans_wanted for e in episodes) / steps,
    }
