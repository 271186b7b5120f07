"""The events of one run, in the stream ``run/<run-id>``, and the parts that they hold."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ledger.events._base import Cause, EventData, Frozen, StageName

__all__ = [
    "CheckpointRecorded",
    "ConfigRef",
    "Handle",
    "InputRef",
    "MetricsRecorded",
    "PromotionPlan",
    "Provenance",
    "RelabelTagsEmitted",
    "RelabelTagsRejected",
    "RelabelTagsReopened",
    "RelabelTagsValidated",
    "ResourceSeconds",
    "RunCancelled",
    "RunFailed",
    "RunRequested",
    "RunSucceeded",
    "StageFailed",
    "StageIntended",
    "StagePlan",
    "StageReused",
    "StageSeconds",
    "StageSkipped",
    "StageStarted",
    "StageSubmitted",
    "StageSucceeded",
]


class ConfigRef(Frozen):
    """Which config ran. ``digest`` is the stored config blob's, secrets left out; ``overrides`` every --set.

    An override whose value is secret is kept with the value null.
    """

    path: str | None
    digest: str
    overrides: dict[str, str | None] = Field(default_factory=dict)


class StagePlan(Frozen):
    """One stage as requested. ``command`` as written, None if absent; ``timeout_seconds`` None is no limit.

    ``infrastructure_retries``, where a profile says it, beats the request's own.
    """

    name: StageName
    command: str | None
    spec_digest: str
    retries: int = Field(default=0, ge=0)
    timeout_seconds: float | None = Field(default=None, gt=0)
    infrastructure_retries: int | None = Field(default=None, ge=0)


class InputRef(Frozen):
    """An input as the user named it (``ref``), where it lay (``path``, project-relative or absolute) and what it was.

    ``stored`` is False for INPUTS_PRIVATE: digested, never kept.
    """

    ref: str
    path: str
    digest: str
    size_bytes: int = Field(ge=0)
    stored: bool = True


class PromotionPlan(Frozen):
    """What a run is to do at its end. Paths project-relative or absolute; None is the run's own metadata folder."""

    target: str
    record: str | None = None
    alert_file: str | None = None
    gate: str | None = None


class Provenance(Frozen):
    """Where a run came from. ``dirty`` counts changed and untracked files; all None outside a git checkout."""

    source_commit: str | None = None
    dirty: int | None = None
    code_digest: str | None = None
    launcher_version: str
    profile_digest: str | None = None
    retry_of: str | None = None


class Handle(Frozen):
    """What a stage attempt runs as. A local one: machine id, pid, start time (epoch seconds), boot id.

    A Job: namespace, name, uid, and the digest of the stored task that its pods are given. The pid is for signals
    only, never for identity.
    """

    machine_id: str | None = None
    pid: int | None = None
    started: float | None = None
    boot_id: str | None = None
    namespace: str | None = None
    job_name: str | None = None
    job_uid: str | None = None
    task_digest: str | None = None


class StageSeconds(Frozen):
    """Where a stage attempt's time went; None where an executor has no such phase.

    On Kubernetes each second of an attempt, from its Job's creation to its end, is in one of them, whichever of its
    pods it was spent in: ``queued`` there was no pod; ``scheduled`` a pod without a node; ``pulling`` on a node, its
    command not started yet; ``running`` the command; ``collecting`` what came after it.
    """

    queued: float | None = None
    scheduled: float | None = None
    pulling: float | None = None
    running: float | None = None
    collecting: float | None = None


class ResourceSeconds(Frozen):
    """What the pods of a stage attempt kept from others: what they asked for, times the seconds that they had it.

    A pod has it from when a node takes it until it is over: its image, its inputs and its outputs are in that time,
    the wait for a node is not. All pods of the attempt count, the ones that were taken away too, and services beside
    the command. ``gpus``: GPU-seconds by resource name; ``cpu``: seconds of one CPU; ``memory``: GiB-seconds.
    """

    gpus: dict[str, float] = Field(default_factory=dict)
    cpu: float = Field(default=0.0, ge=0)
    memory: float = Field(default=0.0, ge=0)


class RunRequested(EventData):
    """Schema 2: a stage may have infrastructure retries of its own."""

    schema_version: ClassVar[int] = 2
    type: Literal["RunRequested"] = "RunRequested"
    run_id: str
    project: str
    project_root: str
    output_root: str
    config: ConfigRef
    stages: tuple[StagePlan, ...]
    teacher_checkpoint: InputRef | None = None
    teacher_scorecard: InputRef | None = None
    inputs: tuple[InputRef, ...] = ()
    relabel_tag_file: str | None = None
    promotion: PromotionPlan | None = None
    slot: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    note: str | None = None
    infrastructure_retries: int = Field(default=2, ge=0)
    executor: Literal["local", "kubernetes"] = "local"
    provenance: Provenance

    @property
    def given(self) -> tuple[InputRef, ...]:
        """All that the run was given: teacher checkpoint, scorecard, further inputs; what is absent left out."""
        teachers = (self.teacher_checkpoint, self.teacher_scorecard)
        return (*(one for one in teachers if one is not None), *self.inputs)


class StageIntended(EventData):
    """Appended before the effect, so that a crash in between is found and adopted."""

    type: Literal["StageIntended"] = "StageIntended"
    stage: StageName
    attempt: int = Field(ge=1)
    executor: Literal["local", "kubernetes"]
    spec_digest: str
    job_name: str | None = None


class StageSubmitted(EventData):
    """Schema 2: its handle names the task."""

    schema_version: ClassVar[int] = 2
    type: Literal["StageSubmitted"] = "StageSubmitted"
    stage: StageName
    attempt: int = Field(ge=1)
    handle: Handle
    log: str


class StageStarted(EventData):
    """``node`` is the machine; on Kubernetes one event per pod of the attempt.

    Schema 2: ``held_since``, RFC 3339, is when a node took the pod.
    """

    schema_version: ClassVar[int] = 2
    type: Literal["StageStarted"] = "StageStarted"
    stage: StageName
    attempt: int = Field(ge=1)
    node: str
    image_digest: str | None = None
    pod_uid: str | None = None
    held_since: str | None = None


class StageSucceeded(EventData):
    """``gpus`` at once. Schema 2: what it held; None where nobody counts.

    Schema 3: how many watches of its cluster broke and had to be begun again (``k8s.watch``), as far as the launcher
    saw that recorded this: 0 where there is none to watch; None where nobody counted, as in older events.
    """

    schema_version: ClassVar[int] = 3
    type: Literal["StageSucceeded"] = "StageSucceeded"
    stage: StageName
    attempt: int = Field(ge=1)
    exit_code: Literal[0] = 0
    manifest_digest: str
    log_digest: str | None
    seconds: StageSeconds = StageSeconds()
    gpus: int = Field(default=0, ge=0)
    held: ResourceSeconds | None = None
    watch_restarts: int | None = Field(default=None, ge=0)


class StageFailed(EventData):
    """Schema 2: how many GPUs it had, and what it held; None where nobody counts.

    Schema 3: how many watches broke, as in StageSucceeded.
    """

    schema_version: ClassVar[int] = 3
    type: Literal["StageFailed"] = "StageFailed"
    stage: StageName
    attempt: int = Field(ge=1)
    exit_code: int | None
    cause: Cause
    message: str
    log_digest: str | None = None
    seconds: StageSeconds = StageSeconds()
    gpus: int = Field(default=0, ge=0)
    held: ResourceSeconds | None = None
    watch_restarts: int | None = Field(default=None, ge=0)


class StageSkipped(EventData):
    type: Literal["StageSkipped"] = "StageSkipped"
    stage: StageName
    reason: str


class StageReused(EventData):
    type: Literal["StageReused"] = "StageReused"
    stage: StageName
    of_run: str
    attempt: int = Field(ge=1)
    manifest_digest: str


class RelabelTagsEmitted(EventData):
    """``digest`` None: the stage left no tag file. ``tag_file`` None: RELABEL_TAG_FILE was unset."""

    type: Literal["RelabelTagsEmitted"] = "RelabelTagsEmitted"
    tag_file: str | None
    digest: str | None
    size_bytes: int | None = None


class RelabelTagsValidated(EventData):
    """``follows`` is the id of the tag event this check follows; ``source`` says who checked."""

    type: Literal["RelabelTagsValidated"] = "RelabelTagsValidated"
    tag_file: str | None
    digest: str | None
    schema_digest: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    source: Literal["launcher", "file"] = "launcher"
    follows: str


class RelabelTagsRejected(EventData):
    type: Literal["RelabelTagsRejected"] = "RelabelTagsRejected"
    tag_file: str | None
    digest: str | None
    schema_digest: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    errors: tuple[str, ...] = ()
    source: Literal["launcher", "file"] = "launcher"
    follows: str


class RelabelTagsReopened(EventData):
    """A downstream job put ``pending`` back into the document itself."""

    type: Literal["RelabelTagsReopened"] = "RelabelTagsReopened"
    tag_file: str | None
    digest: str | None
    follows: str


class CheckpointRecorded(EventData):
    """``student`` marks the one that the run may promote; ``also_matched`` names the others that fitted."""

    type: Literal["CheckpointRecorded"] = "CheckpointRecorded"
    path: str
    digest: str
    size_bytes: int = Field(ge=0)
    format: str
    stage: StageName
    attempt: int = Field(ge=1)
    student: bool = False
    also_matched: tuple[str, ...] = ()


class MetricsRecorded(EventData):
    """Finite numbers by name; ``ignored`` names the keys whose values were none."""

    type: Literal["MetricsRecorded"] = "MetricsRecorded"
    stage: StageName
    attempt: int = Field(ge=1)
    metrics: dict[str, float]
    ignored: tuple[str, ...] = ()


class RunSucceeded(EventData):
    type: Literal["RunSucceeded"] = "RunSucceeded"


class RunFailed(EventData):
    type: Literal["RunFailed"] = "RunFailed"
    stage: StageName
    exit_code: int | None
    cause: Cause
    reason: str


class RunCancelled(EventData):
    type: Literal["RunCancelled"] = "RunCancelled"
    stage: StageName | None
    reason: str
