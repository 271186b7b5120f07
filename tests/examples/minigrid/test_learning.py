"""Checkpoints, relabelling and the fit, without a simulator where none is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from examples.minigrid.learning import Lessons, fit_head, lessons
from examples.minigrid.memory import FEATURE_COUNT
from examples.minigrid.planlets import content_digest, tagged
from examples.minigrid.relabel import relabel
from examples.minigrid.retrain import spoil, thin
from examples.minigrid.scores import paired_p_value, wilson_interval
from examples.minigrid.student import HIDDEN, Head, load_student, new_student, save_student

SCORECARD = {"success_rate": 0.9, "mean_steps": 6.0}


def planlet(number: int, **changes: Any) -> dict[str, Any]:
    made = {
        "planlet_id": f"p{number}",
        "seed_frame_id": number,
        "script": [{"op": "GO_TO"}],
        "metadata": {"prompt_digest": f"d{number}", "cache_hit": False},
    }
    return {**made, **changes}


def step(planlet_id: str | None, episode: int, number: int, **changes: Any) -> dict[str, Any]:
    made = {
        "planlet_id": planlet_id,
        "episode": episode,
        "step": number,
        "mission": "go to the red key",
        "view": ["??" * 7] * 5 + [".." * 7, "Kr" + ".." * 6],
        "op": "GO_TO",
        "action": "left",
        "planned_action": "left",
        "success": True,
    }
    return {**made, **changes}


def test_a_checkpoint_reads_back_and_equal_ones_have_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_student(first, new_student(3))
    save_student(second, load_student(first))
    assert first.read_bytes() == second.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_an_untrained_student_asks_always_and_acts_at_random() -> None:
    student = new_student(0)
    hidden = student.encode(np.random.default_rng(0).normal(size=FEATURE_COUNT).astype(np.float32))
    assert student.wants_plan(hidden)[0]
    assert student.action_probabilities(hidden) == pytest.approx([1 / 3] * 3, abs=0.15)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, foreign)
    with pytest.raises(SystemExit, match="is not a minigrid-student"):
        load_student(foreign)
    foreign.write_bytes(b"not safetensors at all")
    with pytest.raises(SystemExit, match="cannot be read"):
        load_student(foreign)


def test_relabel_counts_duplicates_and_planlets_nobody_followed() -> None:
    twin = planlet(1) | {"planlet_id": "p9"}
    found = relabel(
        [planlet(1), planlet(2), twin],
        [step("p1", 0, 0), step("p9", 1, 0)],
        SCORECARD,
    )
    assert [p["planlet_id"] for p in found.kept] == ["p1"]
    assert (found.duplicates, found.without_steps) == (1, 1)


def test_content_tells_planlets_apart_by_what_they_teach() -> None:
    base = planlet(1)
    same = base | {"planlet_id": "other"}
    assert content_digest(same) == content_digest(base)
    changes: list[dict[str, Any]] = [
        {"seed_frame_id": 2},
        {"script": []},
        {"metadata": {"prompt_digest": "x"}},
    ]
    for change in changes:
        assert content_digest(base | change) != content_digest(base)


def test_tags_are_adherence_and_the_teachers_measured_score() -> None:
    steps = [step("p1", 0, 0), step("p1", 0, 1, action="right")]
    tags = tagged(planlet(1), steps, solved=True, steps_to_end=12, scorecard=SCORECARD)["metadata"]
    assert tags["step_adherence"] == [1, 0]
    assert tags["adherence"] == 0.5
    assert tags["teacher_score"] == 0.45
    fast = tagged(planlet(1), steps, solved=True, steps_to_end=2, scorecard=SCORECARD)
    assert fast["metadata"]["teacher_score"] == 0.9
    lost = tagged(planlet(1), steps, solved=False, steps_to_end=2, scorecard=SCORECARD)
    assert lost["metadata"]["teacher_score"] == 0


def test_lessons_are_the_planned_actions_of_kept_planlets() -> None:
    kept = [planlet(n, metadata={"teacher_score": n / 2}) for n in (1, 2)]
    data = lessons(
        [*kept, planlet(3, metadata={"teacher_score": 0.0})],
        [
            step("p1", 0, 0, action="right"),
            step(None, 0, 1, planned_action=None, op=None),
            step("p2", 1, 0, planned_action="forward"),
            step("p3", 2, 0),
            step("p4", 3, 0),
        ],
    )
    assert data.action.tolist() == [0, 2], "the planned action, not the one that noise made of it"
    assert data.episode.tolist() == [0, 1]
    assert data.weight == pytest.approx([2 / 3, 4 / 3])


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(SystemExit, match="nothing to learn"):
        lessons([], [step("p1", 0, 0)])


def make_lessons(count: int) -> Lessons:
    rng = np.random.default_rng(0)
    return Lessons(
        rng.normal(size=(count, FEATURE_COUNT)).astype(np.float32),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.ones(count),
        np.arange(count) // 4,
    )


def test_a_head_learns_what_it_is_shown_and_stays_near_its_teacher_otherwise() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(400, HIDDEN)).astype(np.float32)
    labels = (hidden[:, 0] > 0).astype(np.int64) + (hidden[:, 1] > 1)
    start = Head(np.zeros((HIDDEN, 3), np.float32), np.zeros(3, np.float32))
    fitted = fit_head(hidden, labels, np.ones(400), start)
    assert (fitted.probabilities(hidden).argmax(axis=1) == labels).mean() > 0.95
    again = fit_head(hidden, labels, np.full(400, 1e-9), fitted)
    assert np.allclose(again.weight, fitted.weight, atol=1e-4)
    empty = hidden[:0]
    assert fit_head(empty, labels[:0], np.ones(0), fitted) is fitted


def test_thin_keeps_whole_episodes_and_spoil_changes_a_share() -> None:
    data, rng = make_lessons(400), np.random.default_rng(0)
    some = thin(data, 0.25, rng)
    assert len(np.unique(some.episode)) == 25
    assert len(some) == 100
    spoiled = spoil(data, 0.6, rng)
    assert (spoiled.action != data.action).mean() == pytest.approx(0.4, abs=0.08)
    assert np.array_equal(spoil(data, 0.0, rng).action, data.action)


def test_wilson_interval_is_the_textbooks() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_paired_p_value_counts_only_the_levels_that_differ() -> None:
    assert paired_p_value([True] * 5, [True] * 5) == 1.0
    assert paired_p_value([True] * 10, [False] * 10) == pytest.approx(2 / 2**10)
    assert paired_p_value([True, False], [False, True]) == 1.0


def test_tensors_are_plain_float32(tmp_path: Path) -> None:
    save_student(tmp_path / "s.safetensors", new_student(0))
    tensors = load_file(tmp_path / "s.safetensors")
    assert {t.dtype for t in tensors.values()} == {np.dtype(np.float32)}
    assert set(tensors) >= {"encoder.weight", "gate.weight", "action.go_to.bias"}
