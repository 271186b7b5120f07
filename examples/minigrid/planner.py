"""Planners: from a situation to a script of subgoals. minigrid's own bot, or a chat endpoint, with a cache.

A plan says which planner made it. Where a chat planner's answer could not be had or read, the bot plans
instead, and the plan says that too: nothing pretends to be a language model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from minigrid.utils.baby_ai_bot import BabyAIBot, ExploreSubgoal, GoNextToSubgoal

from examples.minigrid.chat import (
    ChatEndpoint,
    EndpointUnavailableError,
    MalformedAnswerError,
)
from examples.minigrid.controller import OPS, Op, Subgoal
from examples.minigrid.memory import Memory
from examples.minigrid.world import Target, World

__all__ = [
    "Asked",
    "BotPlanner",
    "CachedPlanner",
    "ChatPlanner",
    "Plan",
    "Planner",
    "make_planner",
    "parse_script",
    "prompt_digest",
    "situation",
]

_SYSTEM_PROMPT: Final = """\
You plan for an agent in a grid room. It can turn left, turn right and go forward, and sees up to six cells
ahead and three to each side. Answer with one JSON object and nothing else:
{"script": [STEP, ...], "rationale": "one sentence"}
A STEP is {"op": "EXPLORE" or "GO_TO", "target": {"type": TYPE, "color": COLOR}}.
TYPE is key, ball or box; COLOR is red, green, blue, purple, yellow or grey.
EXPLORE looks around until the target is seen; GO_TO walks up to it and faces it. At most six steps."""
#: minigrid's bot carries no types.
_Bot: Final[Any] = BabyAIBot
_MAX_SCRIPT_STEPS: Final = 6
#: After so many calls in a row without an answer the endpoint is left alone for the rest of the capture.
_GIVE_UP_AFTER: Final = 5


@dataclass(frozen=True)
class Plan:
    """A script and where it comes from. ``fallback_for`` names the planner that should have made it."""

    script: tuple[Subgoal, ...]
    planner: str
    rationale: str | None = None
    fallback_for: str | None = None
    fallback_reason: str | None = None


class Planner(Protocol):
    """Plans for the situation that ``world`` and ``memory`` are in; ``text`` is that situation in words."""

    name: str

    def plan(self, world: World, memory: Memory, text: str) -> Plan: ...


def situation(mission: str, memory: Memory) -> str:
    """The mission and every object seen so far, as offsets from the agent."""
    lines = [f"Mission: {mission}", "Known objects:"]
    for target, position in memory.objects():
        ahead, right = memory.offset(position)
        lines.append(f"- {target.colour_name} {target.type_name}: ahead {ahead}, right {right}")
    if len(lines) == 2:
        lines.append("- none")
    return "\n".join([*lines[:2], *sorted(lines[2:])])


def prompt_digest(text: str) -> str:
    """SHA-256 of the whole prompt, instructions included."""
    return "sha256:" + hashlib.sha256(f"{_SYSTEM_PROMPT}\n\n{text}".encode()).hexdigest()


class BotPlanner:
    """minigrid's BabyAIBot: its stack of subgoals, read once, is the script.

    The bot reads the level from the simulator, limited to what the agent sees now. Its prompt digest is that of
    the situation in words, which it does not read.
    """

    name = "BabyAIBot"

    def plan(self, world: World, memory: Memory, text: str) -> Plan:
        bot = _Bot(world.env)
        bot.replan()
        ops: list[Op] = []
        for subgoal in reversed(bot.stack):
            if isinstance(subgoal, ExploreSubgoal):
                ops.append("EXPLORE")
            elif isinstance(subgoal, GoNextToSubgoal) and subgoal.reason != "Explore":
                ops.append("GO_TO")
        target = Target.of_mission(world.env.unwrapped.mission)
        # Already in front of it: the bot's stack is empty, and the plan is to stay there.
        return Plan(tuple(Subgoal(op, target) for op in ops or ["GO_TO"]), self.name)


class ChatPlanner:
    """An OpenAI-compatible chat endpoint, with the bot behind it. ``failures`` counts by reason."""

    def __init__(self, endpoint: ChatEndpoint, fallback: Planner) -> None:
        self.endpoint = endpoint
        self.fallback = fallback
        self.name = f"chat:{endpoint.model}"
        self.failures: Counter[str] = Counter()
        self._failed_in_a_row = 0

    def plan(self, world: World, memory: Memory, text: str) -> Plan:
        """Raises EndpointRefusedError where the endpoint refuses us: no retry and no fallback mends that."""
        if self._failed_in_a_row >= _GIVE_UP_AFTER:
            return self._fall_back(world, memory, text, "endpoint given up")
        try:
            answer = self.endpoint.complete(_SYSTEM_PROMPT, text)
            self._failed_in_a_row = 0
            script, rationale = parse_script(answer)
        except EndpointUnavailableError as exc:
            self._failed_in_a_row += 1
            return self._fall_back(world, memory, text, exc.kind)
        except MalformedAnswerError as exc:
            return self._fall_back(world, memory, text, f"malformed answer: {exc.what}")
        return Plan(script, self.name, rationale)

    def _fall_back(self, world: World, memory: Memory, text: str, reason: str) -> Plan:
        self.failures[reason.partition(":")[0]] += 1
        plan = self.fallback.plan(world, memory, text)
        return replace(plan, fallback_for=self.name, fallback_reason=reason)


def parse_script(answer: str) -> tuple[tuple[Subgoal, ...], str | None]:
    """The script and rationale of a chat answer; a code fence around the JSON is allowed.

    Raises MalformedAnswerError.
    """
    body = answer.strip()
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json")
    try:
        value = json.loads(body)
    except (json.JSONDecodeError, RecursionError) as exc:
        raise MalformedAnswerError("not JSON") from exc
    steps = value.get("script") if isinstance(value, dict) else None
    if not isinstance(steps, list) or not 1 <= len(steps) <= _MAX_SCRIPT_STEPS:
        raise MalformedAnswerError(f"no script of 1 to {_MAX_SCRIPT_STEPS} steps")
    rationale = value.get("rationale")
    return tuple(_subgoal(step) for step in steps), rationale if isinstance(
        rationale, str
    ) else None


def _subgoal(step: Any) -> Subgoal:
    try:
        op, target = step["op"], step["target"]
        if op not in OPS:
            raise MalformedAnswerError(f"unknown op {op!r:.40}")
        return Subgoal(op, Target.named(target["type"], target["color"]))
    except (TypeError, KeyError, IndexError) as exc:
        raise MalformedAnswerError("a step without op and target") from exc


@dataclass(frozen=True)
class Asked:
    """A plan, as it was got: from the cache or not, and in how many milliseconds."""

    plan: Plan
    prompt_digest: str
    cache_hit: bool
    milliseconds: float


class CachedPlanner:
    """Remembers plans by prompt digest. Fallback plans are not kept: the next time may go better."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._plans: dict[str, Plan] = {}

    def ask(self, world: World, mission: str, memory: Memory) -> Asked:
        """A plan for the present situation. Raises EndpointRefusedError."""
        began = time.perf_counter()
        text = situation(mission, memory)
        digest = prompt_digest(text)
        known = self._plans.get(digest)
        plan = known or self.planner.plan(world, memory, text)
        if plan.fallback_for is None:
            self._plans[digest] = plan
        spent = (time.perf_counter() - began) * 1000
        return Asked(plan, digest, known is not None, round(spent, 3))


def make_planner(environment: Mapping[str, str]) -> CachedPlanner:
    """The planner that the environment asks for.

    PLANNER_BASE_URL (with PLANNER_MODEL, PLANNER_API_KEY, PLANNER_TIMEOUT_SECONDS) names a chat endpoint;
    without it the bot plans. Raises SystemExit for a URL or number that cannot be used.
    """
    bot = BotPlanner()
    base_url = environment.get("PLANNER_BASE_URL")
    if not base_url:
        return CachedPlanner(bot)
    try:
        endpoint = ChatEndpoint(
            base_url,
            model=environment.get("PLANNER_MODEL") or "default",
            api_key=environment.get("PLANNER_API_KEY") or None,
            timeout_seconds=float(environment.get("PLANNER_TIMEOUT_SECONDS") or 30),
        )
    except ValueError as exc:
        raise SystemExit(f"the planner cannot be used: {exc}") from exc
    return CachedPlanner(ChatPlanner(endpoint, bot))
