"""Planlets in the planlet-v0.1 form: made at capture, scored and told apart at relabelling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from examples.minigrid.controller import Subgoal
from examples.minigrid.planner import Asked

__all__ = ["content_digest", "frame_id", "make_planlet", "tagged"]

_FRAMES_PER_LEVEL: Final = 100


def frame_id(seed: int, step: int) -> int:
    """A number for the frame before ``step`` of the level ``seed``; a level has at most 64 steps."""
    return seed * _FRAMES_PER_LEVEL + step


def make_planlet(
    *, planlet_id: str, frame: int, mission: str, asked: Asked, horizon_steps: int
) -> dict[str, Any]:
    """A planlet as captured. What planlet-v0.1 has no key for lies under ``metadata``."""
    plan = asked.plan
    metadata: dict[str, Any] = {
        "planner": plan.planner,
        "prompt_digest": asked.prompt_digest,
        "cache_hit": asked.cache_hit,
        "plan_milliseconds": asked.milliseconds,
    }
    if plan.fallback_for is not None:
        metadata |= {"fallback_for": plan.fallback_for, "fallback_reason": plan.fallback_reason}
    planlet: dict[str, Any] = {
        "planlet_id": planlet_id,
        "kind": "OVERWORLD",
        "seed_frame_id": frame,
        "format": "minigrid",
        "side": "p1",
        "goal": mission,
        "script": [_step(subgoal) for subgoal in plan.script],
        "horizon_steps": horizon_steps,
        "metadata": metadata,
    }
    if plan.rationale:
        planlet["rationale"] = plan.rationale
    return planlet


def _step(subgoal: Subgoal) -> dict[str, Any]:
    target = {"type": subgoal.target.type_name, "color": subgoal.target.colour_name}
    step: dict[str, Any] = {"op": subgoal.op, "actor": "p1", "target": target}
    if subgoal.op == "GO_TO":
        step["fallback"] = {"op": "EXPLORE", "target": target}
    return step


def content_digest(planlet: Mapping[str, Any]) -> str:
    """Equal for two planlets that teach the same: same frame, same prompt, same script."""
    content = [planlet["seed_frame_id"], planlet["metadata"]["prompt_digest"], planlet["script"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tagged(
    planlet: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    *,
    solved: bool,
    steps_to_end: int,
    scorecard: Mapping[str, Any],
) -> dict[str, Any]:
    """The planlet with its tags. ``steps``: the telemetry under this planlet, at least one, in order.

    adherence      share of its steps that did what it said
    teacher_score  0 for an unsolved episode; else the teacher's measured success rate, times how quickly the
                   goal was reached from here against the teacher's mean: c * min(1, mean_steps / steps_to_end)
    """
    followed = [int(s["action"] == s["planned_action"]) for s in steps]
    pace = min(1.0, scorecard["mean_steps"] / steps_to_end)
    score = scorecard["success_rate"] * pace if solved else 0.0
    tags = {
        "step_adherence": followed,
        "adherence": round(sum(followed) / len(followed), 4),
        "solved": solved,
        "teacher_score": round(score, 4),
    }
    return {**planlet, "metadata": {**planlet["metadata"], **tags}}
