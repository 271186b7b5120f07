"""What whoever comes for a slot does, whatever became of the slots and runs before."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from launcher.cron.schedule import Schedule
from launcher.cron.steps import (
    Attach,
    Cancel,
    Finish,
    Leave,
    Overlap,
    Plan,
    Say,
    Step,
    failed_in_a_row,
    next_step,
    run_id_of,
)
from ledger import events as e
from ledger.slots import PipelineState, decide_pipeline
from tests.ledger.test_slots import claimed, missed, passed, paused, slot, state_after

PLAN = Plan(Schedule("0 2 * * *"))


def step(
    state: PipelineState, day: int, plan: Plan = PLAN, status: Mapping[str, str] | None = None
) -> Step:
    found = next_step(state, slot(day), plan, lambda run: (status or {}).get(run, "succeeded"))
    if isinstance(found, Say):
        assert decide_pipeline(state, *found.facts) == [*found.facts]
    return found


def test_a_free_slot_is_claimed_and_then_its_run_is_driven() -> None:
    assert step(state_after(), 1) == Say((claimed(1, "nightly-20260201T0200Z"),))
    assert step(state_after(claimed(1)), 1) == Attach("r1")


def test_slots_that_nobody_came_for_are_said_first_and_only_once() -> None:
    assert step(state_after(claimed(1)), 4) == Say((missed(2), missed(3)))
    assert step(state_after(claimed(1), missed(2), missed(3)), 4) == Say(
        (claimed(4, run_id_of("nightly", slot(4))),)
    )


def test_a_first_slot_has_missed_none_nor_has_one_of_a_changed_schedule() -> None:
    assert isinstance(step(state_after(), 9), Say)
    other = Plan(Schedule("30 2 * * *"))
    found = next_step(state_after(claimed(1)), "2026-02-09T02:30:00Z", other, lambda _: "failed")
    assert isinstance(found, Say)
    assert [fact.type for fact in found.facts] == ["SlotClaimed"]


def test_one_that_comes_late_for_a_missed_slot_leaves() -> None:
    assert step(state_after(claimed(1), missed(2), claimed(3)), 2) == Leave(missed(2))


@pytest.mark.parametrize(
    ("overlap", "then"),
    [
        (
            "forbid",
            Say(
                (
                    e.SlotPassedOver(
                        slot=slot(2),
                        schedule="0 2 * * *",
                        cause="overlap",
                        reason="r1 is still open",
                    ),
                )
            ),
        ),
        ("queue", Finish("r1")),
        ("replace", Cancel("r1")),
    ],
)
def test_an_earlier_run_that_is_open(overlap: Overlap, then: Step) -> None:
    plan = Plan(PLAN.schedule, overlap)
    assert step(state_after(claimed(1)), 2, plan, {"r1": "open"}) == then


def test_a_slot_passed_over_names_the_open_run_so_that_somebody_drives_it() -> None:
    state = state_after(claimed(1), passed(2))
    assert step(state, 2, status={"r1": "open"}) == Leave(passed(2), "r1")
    assert step(state, 2, status={"r1": "failed"}) == Leave(passed(2), None)


def test_three_failures_in_a_row_pause_it_and_the_slot_is_passed_over() -> None:
    runs = {"r1": "failed", "r2": "failed", "r3": "failed"}
    state = state_after(claimed(1), claimed(2), claimed(3))
    found = step(state, 4, status=runs)
    assert found == Say(
        (
            e.PipelinePaused(
                reason="3 runs in a row failed, the last one r3", failed=("r1", "r2", "r3")
            ),
        )
    )
    state = state_after(claimed(1), claimed(2), claimed(3), paused(reason="enough"))
    found = step(state, 4, status=runs)
    assert isinstance(found, Say)
    (fact,) = found.facts
    assert isinstance(fact, e.SlotPassedOver)
    assert (fact.cause, fact.reason) == ("paused", "paused: enough")


def test_a_pipeline_may_never_pause_itself() -> None:
    state = state_after(claimed(1))
    runs = {"r1": "failed"}
    assert isinstance(step(state, 2, Plan(PLAN.schedule, pause_after=0), runs), Say)
    found = step(state, 2, Plan(PLAN.schedule, pause_after=1), runs)
    assert isinstance(found, Say)
    assert isinstance(found.facts[0], e.PipelinePaused)
    assert found.facts[0].reason == "run failed, the last one r1"


@pytest.mark.parametrize(
    ("statuses", "failed"),
    [
        (("failed", "failed"), ("0", "1")),
        (("failed", "succeeded", "failed"), ("2",)),
        (("failed", "cancelled", "failed"), ("0", "2")),
        (("failed", "unknown"), ("0",)),
        (("failed", "failed", "failed", "failed"), ("1", "2", "3")),
        (("failed", "succeeded"), ()),
        ((), ()),
    ],
)
def test_what_counts_as_failed_in_a_row(statuses: tuple[str, ...], failed: tuple[str, ...]) -> None:
    runs = [str(number) for number in range(len(statuses))]
    assert failed_in_a_row(runs, lambda run: statuses[int(run)], 3) == failed


def test_a_runs_id_is_of_its_pipeline_and_slot() -> None:
    assert run_id_of("nightly", "2026-02-01T02:00:00Z") == "nightly-20260201T0200Z"
    assert run_id_of("nightly", "2026-02-01T02:00:30Z") == "nightly-20260201T020030Z"
