"""The run decider: what may happen to a run, and what follows from what happened. Pure.

Rules:

1. ``evolve`` folds one recorded event into a new state; ``decide`` turns a command into events. Neither
   reads a clock, draws an id or does I/O; neither changes what it is given.
2. Legal moves are the tables ``STAGE_TRANSITIONS`` and ``RUN_TRANSITIONS``. Anything else raises
   IllegalTransitionError and nothing changes. The diagram in docs/ is generated from them.
3. Stages go in order: a stage begins only when every stage before it is settled well.
4. A run's end is final. Only the relabel tags, which downstream jobs check later, may still move.
5. Events of a schema that this program does not know are passed over (a store refuses to append then).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from ledger import events as e
from ledger.errors import IllegalTransitionError

__all__ = [
    "RUN_TRANSITIONS",
    "STAGE_TRANSITIONS",
    "Failure",
    "RunState",
    "StageState",
    "TagState",
    "conclude",
    "decide",
    "evolve",
    "fold",
    "may_retry",
]

StageStatus = Literal[
    "pending", "intended", "submitted", "running", "succeeded", "failed", "skipped", "reused"
]
RunStatus = Literal["unknown", "open", "succeeded", "failed", "cancelled"]
TagStatus = Literal["pending", "validated", "rejected"]

#: (state, event) -> state. A second StageStarted is a replaced pod of the same attempt.
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

#: (state, event) -> state for the run itself.
RUN_TRANSITIONS: Final[Mapping[tuple[RunStatus, str], RunStatus]] = MappingProxyType(
    {
        ("unknown", "RunRequested"): "open",
        ("open", "RunSucceeded"): "succeeded",
        ("open", "RunFailed"): "failed",
        ("open", "RunCancelled"): "cancelled",
    }
)

#: A stage in one of these lets the next one begin.
SETTLED_WELL: Final[frozenset[StageStatus]] = frozenset({"succeeded", "skipped", "reused"})
#: Failures that are not the command's own: tried again within INFRASTRUCTURE_RETRIES.
INFRASTRUCTURE_CAUSES: Final[frozenset[str]] = frozenset({"lost", "image", "storage"})


_NO_SECONDS: Final = e.StageSeconds()


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt ended without success."""

    attempt: int
    cause: e.Cause
    exit_code: int | None
    message: str


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage: ``attempt`` is the newest, 0 before the first; times RFC 3339 of that attempt."""

    plan: e.StagePlan
    status: StageStatus = "pending"
    attempt: int = 0
    handle: e.Handle | None = None
    log: str | None = None
    node: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    manifest_digest: str | None = None
    log_digest: str | None = None
    seconds: e.StageSeconds = _NO_SECONDS
    failures: tuple[Failure, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TagState:
    """The relabel tags and the newest check of them; ``event_id`` is the event that said so."""

    event_id: str
    tag_file: str | None
    digest: str | None
    status: TagStatus = "pending"
    counts: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that the ledger says of one run. ``position`` is that of the last folded event."""

    stream: str
    version: int = 0
    position: int = -1
    status: RunStatus = "unknown"
    request: e.RunRequested | None = None
    requested_at: str | None = None
    actor: str | None = None
    ended_at: str | None = None
    end: e.RunFailed | e.RunCancelled | None = None
    stages: Mapping[e.StageName, StageState] = field(default_factory=dict)
    checkpoints: tuple[e.CheckpointRecorded, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: TagState | None = None

    @property
    def run_id(self) -> str:
        return self.stream.removeprefix("run/")

    @property
    def student(self) -> e.CheckpointRecorded | None:
        """The newest checkpoint marked as the student, or None."""
        return next((c for c in reversed(self.checkpoints) if c.student), None)

    def current(self) -> StageState | None:
        """The first stage, in order, that is not settled well; None when all are."""
        return next((s for s in self.stages.values() if s.status not in SETTLED_WELL), None)


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
    for event in proposed:
        if not _already_said(state, event):
            state = _apply(state, event, "", "", "")
            wanted.append(event)
    return wanted


def conclude(state: RunState) -> e.RunSucceeded | e.RunFailed | e.RunCancelled:
    """How a run ends whose stages are settled or whose current stage failed for good.

    Raises IllegalTransitionError while something is still to be done.
    """
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
    """Whether a failed stage is owed another attempt.

    A command's own failure counts against its ``retries``; a lost process, an image or a storage fault
    against INFRASTRUCTURE_RETRIES. Nothing else is tried again.
    """
    last = stage.failures[-1]
    if last.cause == "application":
        return sum(f.cause == "application" for f in stage.failures) <= stage.plan.retries
    if last.cause in INFRASTRUCTURE_CAUSES:
        charged = sum(f.cause in INFRASTRUCTURE_CAUSES for f in stage.failures)
        return charged <= infrastructure_retries
    return False


# --- the fold, one small function per family of events ---------------------------------------------


def _apply(state: RunState, data: e.EventData, time: str, id_: str, actor: str) -> RunState:
    if isinstance(data, e.RunRequested):
        return _requested(state, data, time, actor)
    if data.type not in e.EVENT_TYPES:
        return state
    if state.request is None:
        raise IllegalTransitionError(state.stream, state.status, data.type)
    if isinstance(data, _TAG_EVENTS):
        return _tags(state, data, id_)
    if isinstance(data, e.RunSucceeded | e.RunFailed | e.RunCancelled):
        return _ended(state, data, time)
    if state.status != "open":
        raise IllegalTransitionError(state.stream, state.status, data.type)
    if isinstance(data, e.CheckpointRecorded | e.MetricsRecorded):
        return _output(state, data)
    if isinstance(data, _STAGE_EVENTS):
        return _stage(state, data, time)
    raise IllegalTransitionError(state.stream, state.status, data.type, "not an event of a run")


_STAGE_EVENTS = (
    e.StageIntended,
    e.StageSubmitted,
    e.StageStarted,
    e.StageSucceeded,
    e.StageFailed,
    e.StageSkipped,
    e.StageReused,
)
_TAG_EVENTS = (
    e.RelabelTagsEmitted,
    e.RelabelTagsValidated,
    e.RelabelTagsRejected,
    e.RelabelTagsReopened,
)


def _requested(state: RunState, data: e.RunRequested, time: str, actor: str) -> RunState:
    if (state.status, data.type) not in RUN_TRANSITIONS:
        raise IllegalTransitionError(state.stream, state.status, data.type)
    return replace(
        state,
        status="open",
        request=data,
        requested_at=time,
        actor=actor,
        stages={plan.name: StageState(plan) for plan in data.stages},
    )


def _stage(state: RunState, data: Any, time: str) -> RunState:
    stage = state.stages.get(data.stage)
    if stage is None:
        raise IllegalTransitionError(state.stream, "planned without it", data.type, data.stage)
    status = STAGE_TRANSITIONS.get((stage.status, data.type))
    current = state.current()
    if status is None or current is None or current.plan.name != data.stage:
        raise IllegalTransitionError(state.stream, f"{data.stage} is {stage.status}", data.type)
    expected = stage.attempt + 1 if isinstance(data, e.StageIntended) else stage.attempt
    if not isinstance(data, e.StageSkipped | e.StageReused) and data.attempt != expected:
        raise IllegalTransitionError(
            state.stream,
            f"{data.stage} is at attempt {stage.attempt}",
            data.type,
            f"attempt {data.attempt}",
        )
    moved = _move_stage(replace(stage, status=status), data, time)
    return replace(state, stages={**state.stages, data.stage: moved})


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
            return replace(stage, node=data.node)
        case e.StageSucceeded():
            return replace(
                stage,
                completed_at=time,
                manifest_digest=data.manifest_digest,
                log_digest=data.log_digest,
                seconds=data.seconds,
            )
        case e.StageFailed():
            failure = Failure(data.attempt, data.cause, data.exit_code, data.message)
            return replace(
                stage,
                completed_at=time,
                log_digest=data.log_digest,
                seconds=data.seconds,
                failures=(*stage.failures, failure),
            )
        case e.StageReused():
            return replace(stage, attempt=data.attempt, manifest_digest=data.manifest_digest)
        case _:
            return replace(stage, reason=data.reason)


def _output(state: RunState, data: e.CheckpointRecorded | e.MetricsRecorded) -> RunState:
    stage = state.stages.get(data.stage)
    if stage is None or stage.status not in ("succeeded", "failed"):
        shown = stage.status if stage else "planned without it"
        raise IllegalTransitionError(state.stream, f"{data.stage} is {shown}", data.type)
    if isinstance(data, e.CheckpointRecorded):
        return replace(state, checkpoints=(*state.checkpoints, data))
    return replace(state, metrics={**state.metrics, **data.metrics})


def _ended(
    state: RunState, data: e.RunSucceeded | e.RunFailed | e.RunCancelled, time: str
) -> RunState:
    status = RUN_TRANSITIONS.get((state.status, data.type))
    if status is None:
        raise IllegalTransitionError(state.stream, state.status, data.type)
    if isinstance(data, e.RunSucceeded):
        if state.current() is not None:
            raise IllegalTransitionError(state.stream, "a stage is not settled", data.type)
        return replace(state, status=status, ended_at=time)
    return replace(state, status=status, ended_at=time, end=data)


def _tags(state: RunState, data: Any, id_: str) -> RunState:
    if isinstance(data, e.RelabelTagsEmitted):
        if state.tags is not None:
            raise IllegalTransitionError(state.stream, "the tags are emitted", data.type)
        return replace(state, tags=TagState(id_, data.tag_file, data.digest))
    tags = state.tags
    if tags is None or (id_ and data.follows != tags.event_id):
        raise IllegalTransitionError(state.stream, "other tags are current", data.type)
    status: TagStatus = "pending"
    counts, errors = dict[str, int](), tuple[str, ...]()
    if isinstance(data, e.RelabelTagsValidated | e.RelabelTagsRejected):
        status = "validated" if isinstance(data, e.RelabelTagsValidated) else "rejected"
        counts = data.counts
        errors = data.errors if isinstance(data, e.RelabelTagsRejected) else ()
    return replace(
        state,
        tags=TagState(id_ or tags.event_id, data.tag_file, data.digest, status, counts, errors),
    )


def _already_said(state: RunState, data: e.EventData) -> bool:
    """Whether the state holds this very fact, so that saying it again adds nothing."""
    match data:
        case e.StageIntended() | e.StageSubmitted() | e.StageSucceeded() | e.StageFailed():
            stage = state.stages.get(data.stage)
            return stage is not None and _stage_past(stage, data)
        case e.StageSkipped():
            stage = state.stages.get(data.stage)
            return stage is not None and stage.status == "skipped"
        case e.CheckpointRecorded():
            return data in state.checkpoints
        case e.RelabelTagsEmitted():
            return state.tags is not None
        case _:
            return False


def _stage_past(stage: StageState, data: Any) -> bool:
    if stage.attempt > data.attempt:
        return True
    if stage.attempt < data.attempt:
        return False
    past: Mapping[str, Sequence[StageStatus]] = {
        "StageIntended": ("intended", "submitted", "running", "succeeded", "failed"),
        "StageSubmitted": ("submitted", "running", "succeeded", "failed"),
        "StageSucceeded": ("succeeded",),
        "StageFailed": ("failed",),
    }
    return stage.status in past[data.type]
