"""The port that every executor implements. Pure shapes; no executor's own imports.

1. ``start`` is idempotent: an attempt that was started before is adopted, never started again.
2. An attempt is closed by its committed result alone. Nothing here believes a process id.
3. ``stop`` commits a result that says who closed the attempt before it sends the first signal.
4. Ended means that nothing of the attempt runs any more: another one may start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from launcher.agent.protocol import StageSpec
from launcher.errors import ConflictError, IntegrityError, UnavailableError
from ledger.events import Cause, Handle, ResourceSeconds

__all__ = [
    "AwayError",
    "AwayRefusedError",
    "Elsewhere",
    "Ended",
    "Executor",
    "Lost",
    "NotStarted",
    "Observation",
    "Orphaned",
    "Pod",
    "Running",
    "Saved",
    "StageResult",
    "StageSpec",
    "StillRunningError",
]


class AwayError(UnavailableError):
    """What runs the attempts does not answer; those that were started go on by themselves."""


class AwayRefusedError(AwayError):
    """… or refuses for now what it granted before."""


class StillRunningError(ConflictError):
    """What was taken for gone still runs, or runs again; nothing was changed. Look again."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that a result names; ``path`` relative to the run's folder (absolute for a tag file)."""

    path: str
    digest: str
    size_bytes: int
    format: str = ""
    student: bool = False


@dataclass(frozen=True, slots=True)
class StageResult:
    """A parsed result.json. Success is exit code 0 with ``closed_by`` None, and nothing else."""

    exit_code: int | None
    closed_by: str | None
    message: str | None = None
    manifest_digest: str | None = None
    log_digest: str | None = None
    handle: Handle | None = None
    running_seconds: float | None = None
    collecting_seconds: float | None = None
    checkpoints: tuple[Saved, ...] = ()
    also_matched: tuple[str, ...] = ()
    student_refused: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_ignored: tuple[str, ...] = ()
    tag_file: Saved | None = None
    #: What an executor measured before the command began; no part of result.json.
    queued_seconds: float | None = None
    scheduled_seconds: float | None = None
    pulling_seconds: float | None = None
    gpus: int = 0
    #: What its pods kept from others each second that a node had one of them, and for how many seconds that was.
    asked: ResourceSeconds | None = None
    held_seconds: float = 0.0
    #: The pods that this was counted of, and from when on: others of the attempt were gone by then.
    counted: frozenset[str] = frozenset()
    counted_since: str | None = None
    #: How many watches of what runs it broke and had to be begun again; no part of result.json either.
    watch_restarts: int = 0
    #: How often something of it was killed for its memory.
    oom_kills: int = 0
    #: The pod that says so; None where it was somebody else, or no pod.
    pod: Pod | None = None

    @classmethod
    def parse(cls, data: bytes, key: str) -> StageResult:
        """The result that ``data`` holds. Raises IntegrityError."""
        try:
            result = cls._of(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise IntegrityError(f"{key} is no result: {exc}") from exc
        if (result.exit_code is None) == (result.closed_by is None):
            raise IntegrityError(f"{key} is no result: it has an exit code or says who closed it")
        if result.exit_code == 0 and result.manifest_digest is None:
            raise IntegrityError(f"{key} is no result: a success without a manifest")
        return result

    @classmethod
    def _of(cls, raw: dict[str, Any]) -> StageResult:
        seconds = raw.get("seconds") or {}
        tags, pod = raw.get("tag_file"), raw.get("pod") or {}
        return cls(
            exit_code=raw["exit_code"],
            closed_by=raw["closed_by"],
            message=raw.get("message"),
            manifest_digest=raw.get("manifest_digest"),
            log_digest=raw.get("log_digest"),
            handle=Handle(**raw["handle"]) if raw.get("handle") else None,
            running_seconds=seconds.get("running"),
            collecting_seconds=seconds.get("collecting"),
            checkpoints=tuple(Saved(**c) for c in raw.get("checkpoints", ())),
            also_matched=tuple(raw.get("also_matched", ())),
            student_refused=raw.get("student_refused"),
            metrics=raw.get("metrics", {}),
            metrics_ignored=tuple(raw.get("metrics_ignored", ())),
            tag_file=Saved(**tags) if tags else None,
            oom_kills=int(raw.get("oom_kills") or 0),
            pod=Pod(pod["uid"], pod.get("node") or "unknown") if pod.get("uid") else None,
        )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of an attempt whose command was seen started. ``held_since``: when its node took it, RFC 3339."""

    uid: str
    node: str
    image_digest: str | None = None
    held_since: str | None = None


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Nobody ever started this attempt; or, where it is on record that somebody did, ``reason``."""

    reason: str = "its start record is gone from the store"


@dataclass(frozen=True, slots=True)
class Running:
    """It runs, or waits to; or it was closed and is being ended.

    ``waits_for``, in words, is empty where it waits for nothing; ``since``, RFC 3339, may not be known.
    ``unreachable``: what it ran on does not answer, and nobody can say whether it runs.
    """

    handle: Handle
    pods: tuple[Pod, ...] = ()
    waits_for: str = ""
    since: str | None = None
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """Its result is committed, and all of it that could disturb another attempt has been seen gone."""

    result: StageResult
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """It was started and nobody is left who could commit a result. ``cause`` is what it is to be called."""

    reason: str
    cause: Cause = "lost"


@dataclass(frozen=True, slots=True)
class Orphaned:
    """Its supervisor is gone while the command lives on: no result can come of it any more."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another machine started it."""

    machine: str


Observation = NotStarted | Running | Ended | Lost | Orphaned | Elsewhere


class Executor(Protocol):
    """Runs attempts. Every method may raise UnavailableError."""

    def prepare(self) -> None:
        """Attempts will start soon: do what can be done ahead. It may be nothing."""
        ...

    def answers(self) -> bool:
        """Whether what it stands on answered when it was last asked. It asks nothing."""
        ...

    def close(self, wait_seconds: float = 0.0) -> None:
        """Let go of what ``prepare`` made; attempts go on. It may wait so long for what was ``recorded`` to end."""
        ...

    def recorded(self, run_id: str, stage: str, attempt: int) -> None:
        """An attempt's end is on record: what only tells of it may go in time. Idempotent, and it waits for nothing."""
        ...

    def job_name(self, run_id: str, stage: str, attempt: int, spec_digest: str) -> str | None:
        """Under which name others find an attempt before it is started; None where there is none."""
        ...

    def start(self, spec: StageSpec) -> Handle:
        """Start an attempt, or adopt it; returns who runs it."""
        ...

    def observe(self, run_id: str, stage: str, attempt: int) -> Observation:
        """What can be seen of an attempt now."""
        ...

    def wait(self, run_id: str, stage: str, attempt: int, timeout_seconds: float) -> Observation:
        """``observe``, but not before it is more than Running, or the time is up."""
        ...

    def stop(
        self,
        run_id: str,
        stage: str,
        attempt: int,
        *,
        closed_by: str,
        reason: str | None,
        grace_seconds: float,
        force: bool = False,
    ) -> None:
        """Close an attempt and end its processes; returns when they have been seen gone.

        ``reason`` goes into the result. One that is there already stands; what is left is ended still.
        ``force``: what is unreachable is taken as gone.
        """
        ...

    def close_lost(
        self, run_id: str, stage: str, attempt: int, reason: str, cause: Cause = "lost"
    ) -> None:
        """Commit a result that says ``cause``; one that is there already stands. Raises StillRunningError."""
        ...
