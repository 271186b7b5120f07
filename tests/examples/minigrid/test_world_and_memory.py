"""Views survive their text form; the map that dead reckoning draws is the simulator's own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from minigrid.core.constants import DIR_TO_VEC, OBJECT_TO_IDX

from examples.minigrid.controller import Execution, Subgoal
from examples.minigrid.memory import FEATURE_COUNT, Memory, features
from examples.minigrid.world import (
    CALIBRATION_SEEDS,
    HELD_IN_SEEDS,
    HELD_OUT_SEEDS,
    Target,
    World,
    rows_from_view,
    view_from_rows,
)


def test_seed_ranges_do_not_overlap() -> None:
    ranges = sorted((r.start, r.stop) for r in (HELD_IN_SEEDS, HELD_OUT_SEEDS, CALIBRATION_SEEDS))
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))


def test_a_seed_is_a_level(world: World) -> None:
    first, other, again = world.reset(7), world.reset(8), world.reset(7)
    assert np.array_equal(first.view, again.view)
    assert not np.array_equal(first.view, other.view)


def test_the_level_generator_does_not_talk(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(60):
        world.reset(seed)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(5))
def test_views_survive_their_text_form(world: World, seed: int) -> None:
    view = world.reset(seed).view
    rows = rows_from_view(view)
    assert [len(row) for row in rows] == [14] * 7
    assert np.array_equal(view_from_rows(rows), view)


def test_missions_name_their_target() -> None:
    target = Target.of_mission("go to a grey key")
    assert (target.type_name, target.colour_name) == ("key", "grey")


@pytest.mark.parametrize("seed", range(4))
def test_the_remembered_map_is_the_simulators(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame, memory = world.reset(seed), Memory()
    env = world.env.unwrapped
    start, first_heading = np.array(env.agent_pos), env.agent_dir
    origin = np.array(memory.position)
    # The map's axes are the agent's first ones: its first heading is the map's heading 3.
    turns = (first_heading - memory.heading) % 4
    for _ in range(40):
        memory.see(frame.view)
        action = int(rng.choice(3, p=[0.2, 0.2, 0.6]))
        memory.moved(action)
        frame, done, _ = world.step(action)
        if done:
            break
    assert (memory.heading + turns) % 4 == env.agent_dir
    right, down = DIR_TO_VEC[turns], DIR_TO_VEC[(turns + 1) % 4]

    def truly(position: np.ndarray) -> np.ndarray:
        away = position - origin
        return np.asarray(start + away[0] * right + away[1] * down)

    assert np.array_equal(truly(np.array(memory.position)), env.agent_pos)
    known = np.argwhere(memory.cells[..., 0] != 0)
    assert len(known) > 20
    for y, x in known:
        cell = env.grid.get(*truly(np.array((x, y))))
        expected = "empty" if cell is None else cell.type
        assert memory.type_at((int(x), int(y))) == OBJECT_TO_IDX[expected]


def test_features_show_where_the_target_is(world: World) -> None:
    frame, memory = world.reset(3), Memory()
    memory.see(frame.view)
    x = features(frame.view, frame.target, memory)
    assert x.shape == (FEATURE_COUNT,)
    match = x[:49].reshape(7, 7)
    assert match.sum() == len(memory.find(frame.target))
    for row, column in np.argwhere(match):
        kind, colour = frame.view[row, column]
        assert (kind, colour) == (frame.target.type, frame.target.colour)
    other = Target.named("box" if frame.target.type_name != "box" else "key", "grey")
    assert not np.array_equal(x, features(frame.view, other, memory))


def test_a_target_behind_is_remembered() -> None:
    rows = ["??" * 7] * 6 + ["..Kr" + ".." * 5]
    memory, target = Memory(), Target.named("key", "red")
    memory.see(view_from_rows(rows))
    assert memory.nearest_offset(target) == (0, -2)
    memory.moved(1)
    assert memory.nearest_offset(target) == (-2, 0)
    memory.moved(1)
    assert memory.nearest_offset(target) == (0, 2)


def test_walking_into_a_wall_moves_nothing() -> None:
    rows = ["??" * 7] * 5 + ["WW" * 7, ".." * 7]
    memory = Memory()
    memory.see(view_from_rows(rows))
    before = memory.position
    memory.moved(2)
    assert memory.position == before
    memory.moved(0)
    memory.see(view_from_rows(["??" * 7] * 5 + [".." * 7] * 2))
    memory.moved(2)
    assert memory.position != before


@pytest.mark.parametrize("seed", range(12))
def test_the_controller_reaches_the_goal_of_a_one_line_plan(world: World, seed: int) -> None:
    frame, memory = world.reset(seed), Memory()
    execution = Execution((Subgoal("GO_TO", frame.target),))
    done = success = False
    steps = 0
    while not done:
        memory.see(frame.view)
        planned = execution.next_action(memory)
        assert planned is not None
        memory.moved(planned[1])
        frame, done, success = world.step(planned[1])
        steps += 1
    assert success
    assert steps <= 25
