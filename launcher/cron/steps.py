"""What whoever comes for a slot has to do next, from what the ledger says. Pure.

Called again after every step, as ``launcher.reconcile`` is for a run, until it says Attach or Leave: so it may be
interrupted anywhere, and any number of comers for a slot make one run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from launcher.cron.schedule import Schedule, parse_slot
from ledger import events as e
from ledger.slots import PipelineState, SlotFact

__all__ = [
    "Attach",
    "Cancel",
    "Finish",
    "Leave",
    "Overlap",
    "Plan",
    "Say",
    "Step",
    "failed_in_a_row",
    "next_step",
    "pause_due",
    "run_id_of",
]

Overlap = Literal["forbid", "queue", "replace"]
#: A pipeline that stood still for long is not told of every slot of that time.
_MISSED_AT_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """How a pipeline is run. ``pause_after``: so many failures in a row pause it; 0: none do."""

    schedule: Schedule
    overlap: Overlap = "forbid"
    pause_after: int = 3


@dataclass(frozen=True, slots=True)
class Say:
    """Facts for the ledger; look again then."""

    facts: tuple[e.EventData, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Drive this earlier run to its end first."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel this earlier run first."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Attach:
    """The slot's run: request it where nobody did, and drive it to its end."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The slot has no run. ``earlier``: a run that is open still and that nobody may be driving."""

    fact: SlotFact
    earlier: str | None = None


Step = Say | Finish | Cancel | Attach | Leave


def run_id_of(pipeline: str, slot: str) -> str:
    """``nightly-20260201T0200Z``; the seconds too where there are some."""
    at = parse_slot(slot)
    return f"{pipeline}-{at:%Y%m%dT%H%M}{f'{at:%S}' if at.second else ''}Z"


def next_step(state: PipelineState, slot: str, plan: Plan, status: Callable[[str], str]) -> Step:
    """What to do for ``slot``. ``status``: of a run, by its id, as the run decider calls it."""
    fact = state.slots.get(slot)
    if isinstance(fact, e.SlotClaimed):
        return Attach(fact.run_id)
    earlier = state.newest_run
    is_open = earlier is not None and status(earlier) == "open"
    if fact is not None:
        return Leave(fact, earlier if is_open else None)
    if missed := _missed(state, slot, plan.schedule):
        return Say(missed)
    if pause := pause_due(state, plan, status):
        return Say((pause,))
    if state.paused is not None:
        return _pass_over(slot, plan, "paused", f"paused: {state.paused.reason}")
    if is_open:
        assert earlier is not None
        if plan.overlap == "forbid":
            return _pass_over(slot, plan, "overlap", f"{earlier} is still open")
        return Finish(earlier) if plan.overlap == "queue" else Cancel(earlier)
    run_id = run_id_of(state.name, slot)
    return Say((e.SlotClaimed(slot=slot, run_id=run_id, schedule=str(plan.schedule)),))


def pause_due(
    state: PipelineState, plan: Plan, status: Callable[[str], str]
) -> e.PipelinePaused | None:
    """The pause that so many failures call for, where it is not paused yet."""
    if state.paused is not None or plan.pause_after < 1:
        return None
    failed = failed_in_a_row(state.counted, status, plan.pause_after)
    if len(failed) < plan.pause_after:
        return None
    runs = "run" if plan.pause_after == 1 else f"{plan.pause_after} runs in a row"
    return e.PipelinePaused(
        reason=f"{runs} failed, the last one {failed[-1]}", failed=failed, follows=state.turn
    )


def failed_in_a_row(
    runs: Sequence[str], status: Callable[[str], str], most: int
) -> tuple[str, ...]:
    """The newest of ``runs`` (oldest first) that failed since the last success, ``most`` of them, oldest first.

    One that was cancelled, or never began, counts neither way.
    """
    failed: list[str] = []
    for run_id in reversed(runs):
        said = status(run_id)
        if said == "succeeded" or len(failed) == most:
            break
        if said == "failed":
            failed.append(run_id)
    return tuple(reversed(failed))


def _missed(state: PipelineState, slot: str, schedule: Schedule) -> tuple[e.EventData, ...]:
    """Slots that nobody came for since the newest settled one; none across a change of the schedule."""
    newest = state.newest
    if newest is None or newest.schedule != str(schedule) or newest.slot >= slot:
        return ()
    between = schedule.between(newest.slot, slot, _MISSED_AT_MOST)
    return tuple(
        e.SlotMissed(slot=one, schedule=str(schedule)) for one in between if one not in state.slots
    )


def _pass_over(slot: str, plan: Plan, cause: Literal["overlap", "paused"], reason: str) -> Say:
    return Say(
        (e.SlotPassedOver(slot=slot, schedule=str(plan.schedule), cause=cause, reason=reason),)
    )
