"""What may be said of a pipeline's slots, what may not, and what adds nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import events as e
from ledger.errors import IllegalTransitionError
from ledger.slots import PipelineState, decide_pipeline, evolve_pipeline, fold_pipeline
from tests.ledger.samples import NOW

STREAM, SCHEDULE = "pipeline/nightly", "0 2 * * *"


def slot(day: int) -> str:
    return f"2026-02-{day:02d}T02:00:00Z"


def claimed(day: int, run: str | None = None) -> e.SlotClaimed:
    return e.SlotClaimed(slot=slot(day), run_id=run or f"r{day}", schedule=SCHEDULE)


def missed(day: int) -> e.SlotMissed:
    return e.SlotMissed(slot=slot(day), schedule=SCHEDULE)


def passed(day: int, cause: Any = "overlap") -> e.SlotPassedOver:
    return e.SlotPassedOver(slot=slot(day), schedule=SCHEDULE, cause=cause, reason="r")


def paused(follows: str | None = None, reason: str = "r") -> e.PipelinePaused:
    return e.PipelinePaused(reason=reason, follows=follows)


def unpaused(follows: str) -> e.PipelineUnpaused:
    return e.PipelineUnpaused(reason=None, follows=follows)


def record(position: int, data: e.EventData) -> e.Recorded[Any]:
    return e.Recorded(position, str(position), data.type, 1, STREAM, position + 1, NOW, "ana", data)


def state_after(*events: e.EventData) -> PipelineState:
    return fold_pipeline(STREAM, [record(i, event) for i, event in enumerate(events)])


EMPTY = state_after()
ONE = state_after(claimed(1))
PAUSED = state_after(claimed(1), paused())
GOING = state_after(claimed(1), paused(), unpaused("1"), claimed(2))

LEGAL: list[tuple[str, PipelineState, e.EventData]] = [
    ("the first slot", EMPTY, claimed(1)),
    ("the next slot", ONE, claimed(2)),
    ("an earlier slot that nobody settled", GOING, missed(1).model_copy(update={"slot": slot(9)})),
    ("missed", ONE, missed(2)),
    ("passed over", ONE, passed(2)),
    ("passed over while paused", PAUSED, passed(2, "paused")),
    ("missed while paused", PAUSED, missed(2)),
    ("paused", ONE, paused()),
    ("paused again", GOING, paused("2")),
    ("unpaused", PAUSED, unpaused("1")),
]
ILLEGAL: list[tuple[str, PipelineState, e.EventData]] = [
    ("a second run of a slot", ONE, claimed(1, "other")),
    ("missed after it was claimed", ONE, missed(1)),
    ("claimed after it was missed", state_after(missed(1)), claimed(1)),
    ("claimed after it was passed over", state_after(passed(1)), claimed(1)),
    ("claimed while paused", PAUSED, claimed(2)),
    ("paused twice, otherwise", PAUSED, paused(reason="x")),
    ("paused after what it has not seen", GOING, paused()),
    ("unpaused, never paused", ONE, unpaused("1")),
    ("unpaused twice", GOING, unpaused("1")),
    ("unpaused, another pause", PAUSED, unpaused("0")),
    ("an event of a run", EMPTY, e.RunSucceeded()),
]


@pytest.mark.parametrize(("name", "state", "event"), LEGAL, ids=[n for n, _, _ in LEGAL])
def test_what_may_be_said(name: str, state: PipelineState, event: e.EventData) -> None:
    assert decide_pipeline(state, event) == [event]
    moved = evolve_pipeline(state, record(state.version, event))
    assert moved.version == state.version + 1
    assert moved != state


@pytest.mark.parametrize(("name", "state", "event"), ILLEGAL, ids=[n for n, _, _ in ILLEGAL])
def test_what_may_not_changes_nothing(name: str, state: PipelineState, event: e.EventData) -> None:
    with pytest.raises(IllegalTransitionError):
        decide_pipeline(state, event)


@pytest.mark.parametrize(
    ("state", "event"), [(ONE, claimed(1)), (state_after(missed(2)), missed(2)), (PAUSED, paused())]
)
def test_what_is_known_adds_nothing(state: PipelineState, event: e.EventData) -> None:
    assert decide_pipeline(state, event) == []


def test_the_newest_slot_and_run_are_of_the_schedule_not_of_the_ledger() -> None:
    state = state_after(claimed(2), missed(1), passed(3))
    assert state.newest == passed(3)
    assert state.newest_run == "r2"
    assert (EMPTY.newest, EMPTY.newest_run) == (None, None)


def test_letting_it_go_on_counts_failures_anew() -> None:
    assert ONE.counted == ("r1",)
    assert GOING.counted == ("r2",)
    assert GOING.paused is None


def test_what_it_was_paused_for_is_kept_with_the_time() -> None:
    assert PAUSED.paused == paused()
    assert PAUSED.paused_at == NOW
