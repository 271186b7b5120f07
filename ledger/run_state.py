"""What the ledger says of one run: the state that ``ledger.decider`` folds events into. Pure.

A state is never changed, only replaced. Times are RFC 3339 UTC, as the events' envelopes have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ledger import events as e

__all__ = [
    "SETTLED_WELL",
    "Failure",
    "RunState",
    "RunStatus",
    "StageState",
    "StageStatus",
    "TagState",
    "TagStatus",
]

StageStatus = Literal[
    "pending", "intended", "submitted", "running", "succeeded", "failed", "skipped", "reused"
]
RunStatus = Literal["unknown", "open", "succeeded", "failed", "cancelled"]
TagStatus = Literal["pending", "validated", "rejected"]

_NO_SECONDS: Final = e.StageSeconds()

#: A stage in one of these lets the next one begin.
SETTLED_WELL: Final[frozenset[StageStatus]] = frozenset({"succeeded", "skipped", "reused"})


@dataclass(frozen=True, slots=True)
class Failure:
    """How one attempt ended without success, where its time went, what it held, and how many watches of it broke."""

    attempt: int
    cause: e.Cause
    exit_code: int | None
    message: str
    seconds: e.StageSeconds = _NO_SECONDS
    gpus: int = 0
    held: e.ResourceSeconds | None = None
    watch_restarts: int | None = None


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage: ``attempt`` is the newest, 0 before the first; everything but ``failures`` is of that attempt.

    ``pods`` are the uids that it was seen to start as ("" on a machine, which has none), ``held_since`` when a node
    took each, as far as that is known; ``measured`` says that its metrics are recorded; ``reused_from`` is the run
    whose outputs stand in for its own.
    """

    plan: e.StagePlan
    status: StageStatus = "pending"
    attempt: int = 0
    handle: e.Handle | None = None
    log: str | None = None
    node: str | None = None
    pods: frozenset[str] = frozenset()
    held_since: Mapping[str, str] = field(default_factory=dict)
    started_at: str | None = None
    completed_at: str | None = None
    manifest_digest: str | None = None
    log_digest: str | None = None
    seconds: e.StageSeconds = _NO_SECONDS
    gpus: int = 0
    held: e.ResourceSeconds | None = None
    watch_restarts: int | None = None
    measured: bool = False
    failures: tuple[Failure, ...] = ()
    reason: str | None = None
    reused_from: str | None = None


@dataclass(frozen=True, slots=True)
class TagState:
    """The relabel tags and the newest check of them.

    ``event_id`` is the event that said so, which the next check must follow; ``said`` is that event's data.
    """

    event_id: str
    tag_file: str | None
    digest: str | None
    status: TagStatus = "pending"
    counts: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    said: e.EventData | None = None


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
