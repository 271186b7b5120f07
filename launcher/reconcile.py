"""What to do next for a run, from its state and what was seen of its current attempt. Pure.

The table (first row that fits):

=====================  =======================  ==============================================
current stage          seen                     do
=====================  =======================  ==============================================
none, all settled      --                       conclude the run
pending, no command    --                       skip
pending                --                       intend attempt 1
failed                 --                       intend the next attempt, or conclude
intended               nothing started          start
intended and later     elsewhere                refuse: another machine has it
intended and later     a result                 record it
intended               running                  adopt: record that it was submitted
submitted, running     running                  wait
intended and later     unreachable, by force    give up
intended and later     lock free, no result     close as lost
intended and later     command without agent    end the orphan
=====================  =======================  ==============================================
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.executors.port import (
    Elsewhere,
    Ended,
    Lost,
    NotStarted,
    Observation,
    Orphaned,
    Pod,
    Running,
    StageResult,
)
from ledger.decider import RunState, StageState, may_retry
from ledger.events import Cause, Handle, StageName

__all__ = [
    "Action",
    "Adopt",
    "CloseLost",
    "Conclude",
    "EndOrphan",
    "GiveUp",
    "Intend",
    "Record",
    "Refuse",
    "Skip",
    "Start",
    "Wait",
    "needs_observation",
    "reconcile",
]


@dataclass(frozen=True, slots=True)
class Skip:
    stage: StageName
    reason: str


@dataclass(frozen=True, slots=True)
class Intend:
    stage: StageName
    attempt: int


@dataclass(frozen=True, slots=True)
class Start:
    stage: StageName
    attempt: int


@dataclass(frozen=True, slots=True)
class Adopt:
    stage: StageName
    attempt: int
    handle: Handle


@dataclass(frozen=True, slots=True)
class Wait:
    stage: StageName
    attempt: int


@dataclass(frozen=True, slots=True)
class Record:
    stage: StageName
    attempt: int
    result: StageResult
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseLost:
    stage: StageName
    attempt: int
    reason: str
    cause: Cause = "lost"


@dataclass(frozen=True, slots=True)
class EndOrphan:
    stage: StageName
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    stage: StageName
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    stage: StageName
    attempt: int
    machine: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """Every stage is settled, or the current one failed for good."""


Action = (
    Skip
    | Intend
    | Start
    | Adopt
    | Wait
    | Record
    | CloseLost
    | EndOrphan
    | GiveUp
    | Refuse
    | Conclude
)


def needs_observation(state: RunState) -> StageState | None:
    """The stage whose attempt must be looked at before ``reconcile`` can decide; None if none must."""
    current = state.current()
    active = current is not None and current.status in ("intended", "submitted", "running")
    return current if active else None


def reconcile(state: RunState, seen: Observation | None, *, force: bool = False) -> Action:
    """The next action for an open run. ``seen`` is of the stage that ``needs_observation`` names.

    ``force``: somebody who knows says that what is unreachable is gone.
    """
    current = state.current()
    if current is None or state.request is None:
        return Conclude()
    name = current.plan.name
    if current.status == "pending":
        if not (current.plan.command or "").strip():
            return Skip(name, "no command")
        return Intend(name, 1)
    if current.status == "failed":
        if may_retry(current, state.request.infrastructure_retries):
            return Intend(name, current.attempt + 1)
        return Conclude()
    return _active(current, seen, force)


def _active(current: StageState, seen: Observation | None, force: bool) -> Action:
    name, attempt = current.plan.name, current.attempt
    submitted = current.status != "intended"
    match seen:
        case Ended(result=result, pods=pods):
            return Record(name, attempt, result, pods)
        case Elsewhere(machine=machine):
            return Refuse(name, attempt, machine)
        case Orphaned():
            return EndOrphan(name, attempt)
        case Lost(reason=reason, cause=cause):
            return CloseLost(name, attempt, reason, cause)
        case Running(unreachable=True, waits_for=words) if force:
            return GiveUp(name, attempt, f"given up by force: {words}")
        case Running(handle=handle):
            return Wait(name, attempt) if submitted else Adopt(name, attempt, handle)
        case NotStarted(reason=reason):
            if submitted:
                return CloseLost(name, attempt, reason)
            return Start(name, attempt)
        case None:
            raise ValueError(f"{name} attempt {attempt} was not observed")
