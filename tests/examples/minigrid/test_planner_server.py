"""The planner that stands beside the capture in a cluster: a server of its own, asked as a model would be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from examples.minigrid import planner_server
from examples.minigrid.chat import ChatEndpoint, EndpointRefusedError
from examples.minigrid.memory import Memory
from examples.minigrid.planner import BotPlanner, ChatPlanner, make_planner
from examples.minigrid.world import World


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Run as its image runs it: its file alone, by Python without the project. Ends well when it is told to."""
    command = [sys.executable, "-I", planner_server.__file__, "--port", "0"]
    with subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        yield said.split()[-1]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_it_is_ready_when_it_says_so(base_url: str) -> None:
    with urlopen(base_url.removesuffix("/v1") + "/health") as answer:
        assert json.load(answer) == {"status": "ok"}


def test_its_plans_are_the_bot_s_and_have_its_name(base_url: str, world: World) -> None:
    planner = make_planner({"PLANNER_BASE_URL": base_url, "PLANNER_MODEL": "rules"})
    ops = set()
    for seed in range(20):
        frame, memory = world.reset(seed), Memory()
        memory.see(frame.view)
        plan = planner.ask(world, frame.mission, memory).plan
        assert (plan.planner, plan.fallback_for) == ("chat:rules", None)
        assert plan.script == BotPlanner().plan(world, memory, "").script
        ops.add(plan.script[0].op)
    assert ops == {"EXPLORE", "GO_TO"}
    assert isinstance(planner.planner, ChatPlanner)
    assert not planner.planner.failures


def test_a_prompt_that_it_does_not_understand_is_refused(base_url: str) -> None:
    endpoint = ChatEndpoint(base_url, model="rules")
    with pytest.raises(EndpointRefusedError) as refused:
        endpoint.complete("", "Mission: open the door")
    assert refused.value.status == 400
    with pytest.raises(EndpointRefusedError) as refused:
        ChatEndpoint(base_url + "/elsewhere", model="rules").complete("", "")
    assert refused.value.status == 404


def test_its_image_has_its_program_and_what_the_stages_import() -> None:
    folder = Path(planner_server.__file__).parent
    dockerfile = (folder / "Dockerfile").read_text()
    brought = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY ")]
    taken = {f"!{name}" for names in brought for name in names}
    ignored = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert taken == {line for line in ignored if line.startswith("!")}
