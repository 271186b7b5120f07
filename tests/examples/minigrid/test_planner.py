"""Planners say who planned; a chat planner's failures are counted and stand in the plan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.minigrid.chat import ChatEndpoint, EndpointRefusedError, MalformedAnswerError
from examples.minigrid.controller import Execution, Subgoal
from examples.minigrid.memory import Memory
from examples.minigrid.planner import (
    BotPlanner,
    CachedPlanner,
    ChatPlanner,
    make_planner,
    parse_script,
    situation,
)
from examples.minigrid.world import Target, World
from tests.examples.minigrid.chat_server import ChatServer, fails, says

GO_TO_RED_KEY = {"op": "GO_TO", "target": {"type": "key", "color": "red"}}


def first_look(world: World, seed: int) -> tuple[str, Memory]:
    frame, memory = world.reset(seed), Memory()
    memory.see(frame.view)
    return frame.mission, memory


def chat(server: ChatServer) -> ChatPlanner:
    endpoint = ChatEndpoint(
        server.base_url, model="small", attempts=2, wait=lambda seconds: None, timeout_seconds=5
    )
    return ChatPlanner(endpoint, BotPlanner())


def ask(planner: CachedPlanner, world: World, seed: int) -> Any:
    mission, memory = first_look(world, seed)
    return planner.ask(world, mission, memory)


def test_the_bot_explores_exactly_where_the_target_is_out_of_sight(world: World) -> None:
    ops = set()
    for seed in range(20):
        mission, memory = first_look(world, seed)
        plan = BotPlanner().plan(world, memory, "")
        target = Target.of_mission(mission)
        seen = bool(memory.find(target))
        assert (plan.script[0].op == "EXPLORE") is not seen
        assert plan.script[-1] == Subgoal("GO_TO", target)
        ops.add(plan.script[0].op)
    assert ops == {"EXPLORE", "GO_TO"}


def test_equal_situations_are_planned_once(world: World) -> None:
    planner = CachedPlanner(BotPlanner())
    first, again, other = (ask(planner, world, seed) for seed in (3, 3, 4))
    assert [a.cache_hit for a in (first, again, other)] == [False, True, False]
    assert first.plan is again.plan
    assert first.prompt_digest == again.prompt_digest != other.prompt_digest


def test_the_situation_names_what_is_seen_and_where(world: World) -> None:
    mission, memory = first_look(world, 3)
    lines = situation(mission, memory).splitlines()
    assert lines[0] == f"Mission: {mission}"
    assert len(lines) - 2 == len(memory.objects()) > 0
    target, position = memory.objects()[0]
    ahead, right = memory.offset(position)
    line = f"- {target.colour_name} {target.type_name}: ahead {ahead}, right {right}"
    assert line in lines


def test_a_chat_plan_is_carried_out_and_named(chat_server: ChatServer, world: World) -> None:
    answer = {"script": [GO_TO_RED_KEY], "rationale": "it is near"}
    chat_server.script = [says(json.dumps(answer))]
    asked = ask(CachedPlanner(chat(chat_server)), world, 3)
    assert asked.plan.planner == "chat:small"
    assert asked.plan.script == (Subgoal("GO_TO", Target.named("key", "red")),)
    assert asked.plan.rationale == "it is near"
    assert asked.plan.fallback_for is None
    assert asked.milliseconds > 0
    _, _, body = chat_server.requests[0]
    assert body["messages"][1]["content"].startswith("Mission: go to ")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(says("I would go left."), "malformed answer: not JSON"), (fails(503), "status 503")],
)
def test_the_bot_stands_in_and_the_plan_says_so(
    chat_server: ChatServer, world: World, reply: Any, reason: str
) -> None:
    chat_server.script = [reply]
    planner = chat(chat_server)
    cached = CachedPlanner(planner)
    asked = ask(cached, world, 3)
    assert asked.plan.planner == "BabyAIBot"
    assert asked.plan.fallback_for == "chat:small"
    assert asked.plan.fallback_reason == reason
    assert planner.failures == {reason.partition(":")[0]: 1}
    chat_server.script = [says(json.dumps({"script": [GO_TO_RED_KEY]}))]
    assert ask(cached, world, 3).plan.planner == "chat:small", "a fallback is not cached"


def test_an_endpoint_that_stays_away_is_given_up(chat_server: ChatServer, world: World) -> None:
    chat_server.script = [fails(500)]
    planner = chat(chat_server)
    for seed in range(8):
        ask(CachedPlanner(planner), world, seed)
    assert planner.failures == {"status 500": 5, "endpoint given up": 3}
    assert len(chat_server.requests) == 5 * 2


def test_a_refusal_is_not_papered_over(chat_server: ChatServer, world: World) -> None:
    chat_server.script = [fails(401)]
    with pytest.raises(EndpointRefusedError):
        ask(CachedPlanner(chat(chat_server)), world, 3)


def test_a_code_fence_is_read() -> None:
    script, rationale = parse_script(f"```json\n{json.dumps({'script': [GO_TO_RED_KEY]})}\n```")
    assert script == (Subgoal("GO_TO", Target.named("key", "red")),)
    assert rationale is None


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"script": []},
        {"script": [GO_TO_RED_KEY] * 7},
        {"script": ["GO_TO"]},
        {"script": [{"op": "FLY", "target": {"type": "key", "color": "red"}}]},
        {"script": [{"op": ["GO_TO"], "target": {"type": "key", "color": "red"}}]},
        {"script": [{"op": "GO_TO", "target": {"type": "dragon", "color": "red"}}]},
        {"script": [{"op": "GO_TO", "target": {"type": [], "color": "red"}}]},
        {"script": [{"op": "GO_TO"}]},
    ],
)
def test_a_script_that_cannot_be_carried_out_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedAnswerError):
        parse_script(json.dumps(value))


def test_a_wrong_plan_ends_without_harm(world: World) -> None:
    """A plan for something that is not there explores the room, then has nothing left to say."""
    frame, memory = world.reset(5), Memory()
    missing = next(
        t
        for t in (Target.named("box", c) for c in ("red", "green", "blue", "purple", "yellow"))
        if t != frame.target and not _in_level(world, t)
    )
    execution = Execution((Subgoal("GO_TO", missing),))
    done = False
    while not done:
        memory.see(frame.view)
        planned = execution.next_action(memory)
        if planned is None:
            break
        memory.moved(planned[1])
        frame, done, _ = world.step(planned[1])
    assert execution.next_action(memory) is None


def _in_level(world: World, target: Target) -> bool:
    cells = world.env.unwrapped.grid.grid
    return any(
        c is not None and (c.type, c.color) == (target.type_name, target.colour_name) for c in cells
    )


def test_the_environment_chooses_the_planner() -> None:
    assert isinstance(make_planner({}).planner, BotPlanner)
    chosen = make_planner({"PLANNER_BASE_URL": "http://127.0.0.1:9/v1", "PLANNER_MODEL": "small"})
    assert isinstance(chosen.planner, ChatPlanner)
    assert chosen.planner.name == "chat:small"
    with pytest.raises(SystemExit, match="PLANNER_BASE_URL"):
        make_planner({"PLANNER_BASE_URL": "localhost"})
    with pytest.raises(SystemExit, match="soon"):
        make_planner({"PLANNER_BASE_URL": "http://127.0.0.1:9", "PLANNER_TIMEOUT_SECONDS": "soon"})
