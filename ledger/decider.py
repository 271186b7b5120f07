"""The run decider: what may happen to a run, and what follows from what happened. Pure.

Rules:

1. ``evolve`` folds one recorded event into a new state; ``decide`` turns wanted facts into events. Neither
   reads a clock, draws an id or does I/O; neither changes what it is given. What ``decide`` lets through
   ``evolve`` takes: nothing is appended that could not be read again.
2. Legal moves are the tables ``RUN_TRANSITIONS``, ``STAGE_TRANSITIONS`` and ``TAG_TRANSITIONS``. Anything
   else raises IllegalTransitionError and nothing changes. docs/state-machine.md is generated from them.
3. Stages go in order: a stage begins only when every stage before it is settled well.
4. A run's end is final, and comes to no run with an attempt under way. Only the relabel tags, which
   downstream jobs check later, may still move.
5. Each tag event names the one that it follows, so that two checks never both count.
6. Events of a schema that this program does not know are passed over (a store refuses to append then).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from ledger import events as e
from ledger.errors import IllegalTransitionError
from ledger.identity import identify
from ledger.known_facts import already_said
from ledger.run_state import (
    SETTLED_WELL,
    Failure,
    RunState,
    RunStatus,
    StageState,
    StageStatus,
    TagState,
    TagStatus,
)

__all__ = [
    "RUN_TRANSITIONS",
    "SETTLED_WELL",
    "STAGE_TRANSITIONS",
    "TAG_TRANSITIONS",
    "Failure",
    "RunState",
    "RunStatus",
    "StageState",
    "StageStatus",
    "TagState",
    "TagStatus",
    "conclude",
    "decide",
    "evolve",
    "fold",
    "may_retry",
]

#: (state, event) -> state for the run itself.
RUN_TRANSITIONS: Final[Mapping[tuple[RunStatus, str], RunStatus]] = MappingProxyType(
    {
        ("unknown", "RunRequested"): "open",
        ("open", "RunSucceeded"): "succeeded",
        ("open", "RunFailed"): "failed",
        ("open", "RunCancelled"): "cancelled",
    }
)

#: (state, event) -> state of a stage. A second StageStarted is a replaced pod of the same attempt.
STAGE_TRANSITIONS: Final[Mapping[tuple[StageStatus, str], StageStatus]] = MappingProxyType(
    {
        ("pending", "StageIntended"): "intended",
        ("pending", "StageSkipped"): "skipped",
        ("pending", "StageReused"): "reused",
        ("intended", "StageSubmitted"): "submitted",
        ("intended", "StageFailed"): "failed",
        ("submitted", "StageStarted"): "running",
        ("submitted", "StageSucceeded"): "succeeded",
        ("submitted", "StageFailed"): "failed",
        ("running", "StageStarted"): "running",
        ("running", "StageSucceeded"): "succeeded",
        ("running", "StageFailed"): "failed",
        ("failed", "StageIntended"): "intended",
    }
)

#: (state, event) -> state of the relabel tags; None before the relabel stage has left any.
TAG_TRANSITIONS: Final[Mapping[tuple[TagStatus | None, str], TagStatus]] = MappingProxyType(
    {
        (None, "RelabelTagsEmitted"): "pending",
        ("pending", "RelabelTagsValidated"): "validated",
        ("pending", "RelabelTagsRejected"): "rejected",
        ("pending", "RelabelTagsReopened"): "pending",
        ("validated", "RelabelTagsValidated"): "validated",
        ("validated", "RelabelTagsRejected"): "rejected",
        ("validated", "RelabelTagsReopened"): "pending",
        ("rejected", "RelabelTagsValidated"): "validated",
        ("rejected", "RelabelTagsRejected"): "rejected",
        ("rejected", "RelabelTagsReopened"): "pending",
    }
)

#: Failures that are not the command's own: tried again within INFRASTRUCTURE_RETRIES.
INFRASTRUCTURE_CAUSES: Final[frozenset[str]] = frozenset({"lost", "image", "storage"})

_RUN_EVENTS: Final = frozenset(event for _, event in RUN_TRANSITIONS)
_STAGE_EVENTS: Final = frozenset(event for _, event in STAGE_TRANSITIONS)
_TAG_EVENTS: Final = frozenset(event for _, event in TAG_TRANSITIONS)
#: An attempt in one of these may have something running.
_UNDER_WAY: Final[frozenset[StageStatus]] = frozenset({"intended", "submitted", "running"})


def fold(stream: str, events: Iterable[e.Recorded[Any]]) -> RunState:
    """The state after ``events`` (one stream, ascending version). Raises IllegalTransitionError."""
    state = RunState(stream)
    for event in events:
        state = evolve(state, event)
    return state


def evolve(state: RunState, event: e.Recorded[Any]) -> RunState:
    """``state`` after ``event``. Raises IllegalTransitionError; ``state`` itself never changes."""
    moved = _apply(state, event.data, event.time, event.id, event.actor)
    return replace(moved, version=event.version, position=event.position)


def decide(state: RunState, *proposed: e.EventData) -> list[e.EventData]:
    """The events to append so that all of ``proposed`` are facts, in order; [] where the state says them already.

    Raises IllegalTransitionError if any of them does not fit; then none is to be appended.
    """
    wanted: list[e.EventData] = []
    for data in proposed:
        if not already_said(state, data):
            state = _apply(state, data, "", identify(state.stream, data).id, "")
            wanted.append(data)
    return wanted


def conclude(state: RunState) -> e.RunSucceeded | e.RunFailed | e.RunCancelled:
    """How an open run ends whose stages are settled or whose current stage failed for good.

    Raises IllegalTransitionError while something is still to be done, and where there is no open run.
    """
    if state.status != "open":
        raise IllegalTransitionError(state.stream, state.status, "an end")
    current = state.current()
    if current is None:
        return e.RunSucceeded()
    if current.status != "failed":
        raise IllegalTransitionError(
            state.stream, f"{current.plan.name} {current.status}", "an end"
        )
    last = current.failures[-1]
    if last.cause == "cancelled":
        return e.RunCancelled(stage=current.plan.name, reason=last.message)
    return e.RunFailed(
        stage=current.plan.name, exit_code=last.exit_code, cause=last.cause, reason=last.message
    )


def may_retry(stage: StageState, infrastructure_retries: int) -> bool:
    """Whether a stage that failed (at least once) is owed another attempt.

    A command's own failure counts against its ``retries``; a lost process, an image or a storage fault
    against ``infrastructure_retries``, unless its plan has a number of its own. Nothing else is tried
    again, so a stage has at most 1 + retries + infrastructure_retries attempts.
    """
    last = stage.failures[-1]
    if last.cause == "application":
        return sum(f.cause == "application" for f in stage.failures) <= stage.plan.retries
    if last.cause in INFRASTRUCTURE_CAUSES:
        charged = sum(f.cause in INFRASTRUCTURE_CAUSES for f in stage.failures)
        own = stage.plan.infrastructure_retries
        return charged <= (infrastructure_retries if own is None else own)
    return False


# --- the fold, one small function per family of events ---------------------------------------------


def _apply(state: RunState, data: Any, time: str, id_: str, actor: str) -> RunState:
    type_ = data.type
    if type_ not in e.EVENT_TYPES:
        return state
    if type_ in _RUN_EVENTS:
        return _run(state, data, time, actor)
    if state.request is None:
        raise IllegalTransitionError(state.stream, state.status, type_)
    if type_ in _TAG_EVENTS:
        return _tags(state, data, id_)
    if state.status != "open":
        raise IllegalTransitionError(state.stream, state.status, type_)
    if type_ in _STAGE_EVENTS:
        return _stage(state, data, time)
    if isinstance(data, e.CheckpointRecorded | e.MetricsRecorded):
        return _output(state, data)
    raise IllegalTransitionError(state.stream, state.status, type_, "not an event of a run")


def _run(state: RunState, data: Any, time: str, actor: str) -> RunState:
    status = RUN_TRANSITIONS.get((state.status, data.type))
    if status is None:
        raise IllegalTransitionError(state.stream, state.status, data.type)
    if isinstance(data, e.RunRequested):
        return replace(
            state,
            status=status,
            request=data,
            requested_at=time,
            actor=actor,
            stages={plan.name: StageState(plan) for plan in data.stages},
        )
    current = state.current()
    name, at = (current.plan.name, current.status) if current else (None, "settled")
    fits = {
        "RunSucceeded": current is None,
        "RunFailed": at == "failed" and data.type == "RunFailed" and data.stage == name,
        "RunCancelled": at not in _UNDER_WAY,
    }
    if not fits[data.type]:
        raise IllegalTransitionError(state.stream, f"{name or 'every stage'} is {at}", data.type)
    ended = replace(state, status=status, ended_at=time)
    return ended if isinstance(data, e.RunSucceeded) else replace(ended, end=data)


def _stage(state: RunState, data: Any, time: str) -> RunState:
    stage = state.stages.get(data.stage)
    if stage is None:
        raise IllegalTransitionError(state.stream, "planned without it", data.type, data.stage)
    status = STAGE_TRANSITIONS.get((stage.status, data.type))
    current = state.current()
    if status is None or current is None or current.plan.name != data.stage:
        raise IllegalTransitionError(state.stream, f"{data.stage} is {stage.status}", data.type)
    expected = stage.attempt + 1 if isinstance(data, e.StageIntended) else stage.attempt
    if not isinstance(data, e.StageSkipped | e.StageReused):
        _same_attempt(state, data, expected)
    moved = _move_stage(replace(stage, status=status), data, time)
    return replace(state, stages={**state.stages, data.stage: moved})


def _same_attempt(state: RunState, data: Any, expected: int) -> None:
    if data.attempt != expected:
        raise IllegalTransitionError(
            state.stream,
            f"{data.stage} expects attempt {expected}",
            data.type,
            f"attempt {data.attempt}",
        )


def _move_stage(stage: StageState, data: Any, time: str) -> StageState:
    match data:
        case e.StageIntended():
            return StageState(
                stage.plan,
                stage.status,
                data.attempt,
                started_at=time,
                failures=stage.failures,
            )
        case e.StageSubmitted():
            return replace(stage, handle=data.handle, log=data.log)
        case e.StageStarted():
            uid = data.pod_uid or ""
            since = {uid: data.held_since} if data.held_since else {}
            return replace(
                stage,
                node=data.node,
                pods=stage.pods | {uid},
                held_since={**stage.held_since, **since},
            )
        case e.StageSucceeded():
            return replace(
                stage,
                completed_at=time,
                manifest_digest=data.manifest_digest,
                log_digest=data.log_digest,
                seconds=data.seconds,
                gpus=data.gpus,
                held=data.held,
                watch_restarts=data.watch_restarts,
            )
        case e.StageFailed():
            failure = Failure(
                data.attempt,
                data.cause,
                data.exit_code,
                data.message,
                data.seconds,
                data.gpus,
                data.held,
                data.watch_restarts,
            )
            return replace(
                stage,
                completed_at=time,
                log_digest=data.log_digest,
                seconds=data.seconds,
                gpus=data.gpus,
                held=data.held,
                watch_restarts=data.watch_restarts,
                failures=(*stage.failures, failure),
            )
        case e.StageReused():
            return replace(
                stage,
                attempt=data.attempt,
                manifest_digest=data.manifest_digest,
                reused_from=data.of_run,
            )
        case _:
            return replace(stage, reason=data.reason)


def _output(state: RunState, data: e.CheckpointRecorded | e.MetricsRecorded) -> RunState:
    stage = state.stages.get(data.stage)
    if stage is None or stage.status not in ("succeeded", "failed"):
        shown = stage.status if stage else "planned without it"
        raise IllegalTransitionError(state.stream, f"{data.stage} is {shown}", data.type)
    _same_attempt(state, data, stage.attempt)
    if isinstance(data, e.CheckpointRecorded):
        return replace(state, checkpoints=(*state.checkpoints, data))
    return replace(
        state,
        metrics={**state.metrics, **data.metrics},
        stages={**state.stages, data.stage: replace(stage, measured=True)},
    )


def _tags(state: RunState, data: Any, id_: str) -> RunState:
    tags = state.tags
    status = TAG_TRANSITIONS.get((tags.status if tags else None, data.type))
    if status is None:
        shown = "there are no relabel tags" if tags is None else "the relabel tags are emitted"
        raise IllegalTransitionError(state.stream, shown, data.type)
    if tags is None and state.status != "open":
        raise IllegalTransitionError(state.stream, state.status, data.type)
    if tags is not None and data.follows != tags.event_id:
        raise IllegalTransitionError(state.stream, "a later check of the tags stands", data.type)
    counts = getattr(data, "counts", {})
    errors = getattr(data, "errors", ())
    return replace(
        state, tags=TagState(id_, data.tag_file, data.digest, status, counts, errors, data)
    )
