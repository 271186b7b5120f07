"""The events: immutable, past-tense facts, one frozen pydantic model each.

Rules:

1. A model here is an event's ``data``. The envelope (id, type, schema, stream, version, time, actor)
   is ``Recorded``; its canonical bytes are made once, by a store, when the event is appended.
2. ``type`` discriminates the union and lives in the envelope, never inside the stored ``data``.
3. A released schema is never edited. A new field with a default is compatible; anything else is a new
   ``schema_version`` and an upcaster (``ledger.upcasters``).
4. Facts are small: anything over 64 KiB is a blob and the event names its digest.
5. Digests are ``sha256:<hex>``; times RFC 3339 UTC to the microsecond; sizes bytes; durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "CAUSES",
    "EVENT_LIMIT_BYTES",
    "EVENT_TYPES",
    "STAGES",
    "Cause",
    "EventData",
    "NewerEvent",
    "Recorded",
    "StageName",
    "parse_event",
]

EVENT_LIMIT_BYTES: Final = 64 * 1024

StageName = Literal["llm_on", "relabel", "retrain", "llm_off"]
#: The pipeline's stages, in the order in which they run.
STAGES: Final[tuple[StageName, ...]] = ("llm_on", "relabel", "retrain", "llm_off")

#: Why a stage attempt ended without success; ``application`` is the command's own non-zero exit code.
Cause = Literal[
    "application",
    "timeout",
    "out_of_memory",
    "storage",
    "image",
    "unschedulable",
    "disrupted",
    "lost",
    "outputs",
    "cancelled",
]
CAUSES: Final[tuple[Cause, ...]] = Cause.__args__  # type: ignore[attr-defined]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EventData(_Frozen):
    """The base of every event's data."""

    schema_version: ClassVar[int] = 1
    type: str


# --- parts --------------------------------------------------------------------------------------


class ConfigRef(_Frozen):
    """Which config ran. ``digest`` is the stored config blob's, secrets left out; ``overrides`` every --set.

    An override whose value is secret is kept with the value null.
    """

    path: str | None
    digest: str
    overrides: dict[str, str | None] = {}


class StagePlan(_Frozen):
    """One stage as requested. ``command`` as written, None if absent; ``timeout_seconds`` None is no limit."""

    name: StageName
    command: str | None
    spec_digest: str
    retries: int = Field(default=0, ge=0)
    timeout_seconds: float | None = Field(default=None, gt=0)


class InputRef(_Frozen):
    """An input as the user named it (``ref``), where it lay (``path``, project-relative or absolute) and what it was.

    ``stored`` is False for INPUTS_PRIVATE: digested, never kept.
    """

    ref: str
    path: str
    digest: str
    size_bytes: int = Field(ge=0)
    stored: bool = True


class PromotionPlan(_Frozen):
    """What a run is to do at its end. Paths project-relative or absolute; None is the run's own metadata folder."""

    target: str
    record: str | None = None
    alert_file: str | None = None
    gate: str | None = None


class Provenance(_Frozen):
    """Where a run came from. ``dirty`` counts changed and untracked files; all None outside a git checkout."""

    source_commit: str | None = None
    dirty: int | None = None
    code_digest: str | None = None
    launcher_version: str
    profile_digest: str | None = None
    retry_of: str | None = None


class Handle(_Frozen):
    """What a stage attempt runs as. A local one: machine id, pid, start time (epoch seconds), boot id.

    A Job: namespace, name, uid. The pid is for signals only, never for identity.
    """

    machine_id: str | None = None
    pid: int | None = None
    started: float | None = None
    boot_id: str | None = None
    namespace: str | None = None
    job_name: str | None = None
    job_uid: str | None = None


class StageSeconds(_Frozen):
    """Where a stage attempt's time went; None where an executor has no such phase."""

    queued: float | None = None
    scheduled: float | None = None
    pulling: float | None = None
    running: float | None = None
    collecting: float | None = None


class PreviousGeneration(_Frozen):
    """What was live before a generation; generation 0 and digest None where nothing was."""

    generation: int = Field(ge=0)
    digest: str | None


class Generation(_Frozen):
    """A pointer generation's body, as stored under ``pointers/<name>/<generation>.json``.

    ``origin`` is the generation whose promotion or adoption first brought this checkpoint: itself for
    those two, the named one's origin for a rollback, its predecessor's for a fence. ``digest`` is None
    only for a fence at generation 1, which resolves to nothing.
    """

    name: str
    project: str
    generation: int = Field(ge=1)
    kind: Literal["promotion", "rollback", "adoption", "fence"]
    automatic: bool
    origin: int = Field(ge=1)
    digest: str | None
    size_bytes: int | None
    run_id: str | None
    promotion_id: str
    actor: str
    reason: str | None = None
    previous: PreviousGeneration
    time: str


# --- run ----------------------------------------------------------------------------------------


class RunRequested(EventData):
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
    labels: dict[str, str] = {}
    note: str | None = None
    infrastructure_retries: int = Field(default=2, ge=0)
    executor: Literal["local", "kubernetes"] = "local"
    provenance: Provenance


class StageIntended(EventData):
    """Appended before the effect, so that a crash in between is found and adopted."""

    type: Literal["StageIntended"] = "StageIntended"
    stage: StageName
    attempt: int = Field(ge=1)
    executor: Literal["local", "kubernetes"]
    spec_digest: str
    job_name: str | None = None


class StageSubmitted(EventData):
    type: Literal["StageSubmitted"] = "StageSubmitted"
    stage: StageName
    attempt: int = Field(ge=1)
    handle: Handle
    log: str


class StageStarted(EventData):
    """``node`` is the machine; on Kubernetes one event per pod of the attempt."""

    type: Literal["StageStarted"] = "StageStarted"
    stage: StageName
    attempt: int = Field(ge=1)
    node: str
    image_digest: str | None = None
    pod_uid: str | None = None


class StageSucceeded(EventData):
    type: Literal["StageSucceeded"] = "StageSucceeded"
    stage: StageName
    attempt: int = Field(ge=1)
    exit_code: Literal[0] = 0
    manifest_digest: str
    log_digest: str | None
    seconds: StageSeconds = StageSeconds()
    gpus: int = Field(default=0, ge=0)


class StageFailed(EventData):
    type: Literal["StageFailed"] = "StageFailed"
    stage: StageName
    attempt: int = Field(ge=1)
    exit_code: int | None
    cause: Cause
    message: str
    log_digest: str | None = None
    seconds: StageSeconds = StageSeconds()


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
    counts: dict[str, int] = {}
    source: Literal["launcher", "file"] = "launcher"
    follows: str


class RelabelTagsRejected(EventData):
    type: Literal["RelabelTagsRejected"] = "RelabelTagsRejected"
    tag_file: str | None
    digest: str | None
    schema_digest: str | None = None
    counts: dict[str, int] = {}
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


# --- pointer ------------------------------------------------------------------------------------


class PromotionIntended(EventData):
    """``backup`` is where the target's present file is to go; None where there is no such file.

    ``record`` and ``alert_file`` are where the run wants its documents.
    """

    type: Literal["PromotionIntended"] = "PromotionIntended"
    generation: Generation
    promoted_from: str | None = None
    backup: str | None = None
    record: str | None = None
    alert_file: str | None = None


class PromotionConfirmed(EventData):
    """The generation exists in the store. ``imported``: it was made while this ledger was away."""

    type: Literal["PromotionConfirmed"] = "PromotionConfirmed"
    generation: Generation
    promoted_from: str | None = None
    backup: str | None = None
    imported: bool = False


class PromotionAborted(EventData):
    """``winner`` took the number for good; a fence where nobody else did."""

    type: Literal["PromotionAborted"] = "PromotionAborted"
    promotion_id: str
    run_id: str | None
    winner: Generation
    reason: str


class PromotionRefused(EventData):
    type: Literal["PromotionRefused"] = "PromotionRefused"
    promotion_id: str
    kind: Literal["promotion", "rollback", "adoption"]
    run_id: str | None
    automatic: bool
    cause: Literal["held", "gate", "no_checkpoint", "race", "verification", "project"]
    reason: str


class PointerHeld(EventData):
    type: Literal["PointerHeld"] = "PointerHeld"
    generation: int = Field(ge=1)
    reason: str | None


class PointerReleased(EventData):
    """Names the rollback generation whose hold ends."""

    type: Literal["PointerReleased"] = "PointerReleased"
    generation: int = Field(ge=1)
    reason: str | None


# --- storage ------------------------------------------------------------------------------------


class ObsoleteCheckpoint(_Frozen):
    """A file that nothing needs any more: its bytes are in the store, or it is a superseded backup."""

    path: str
    size_bytes: int = Field(ge=0)
    why: str


class StorageMeasured(EventData):
    """Bytes by class (students, outputs, logs, run folders, backups, …).

    ``free_bytes`` is None where a store has a quota only.
    """

    type: Literal["StorageMeasured"] = "StorageMeasured"
    store: str
    bytes_by_class: dict[str, int]
    free_bytes: int | None
    quota_bytes: int | None = None
    obsolete: tuple[ObsoleteCheckpoint, ...] = ()
    obsolete_count: int = 0
    obsolete_bytes: int = 0
    run_id: str | None = None
    alert_file: str | None = None


class GarbagePlanned(EventData):
    type: Literal["GarbagePlanned"] = "GarbagePlanned"
    plan_digest: str
    objects: int
    size_bytes: int


class GarbageCollected(EventData):
    type: Literal["GarbageCollected"] = "GarbageCollected"
    plan_digest: str
    objects: int
    size_bytes: int


EVENT_TYPES: Final[dict[str, type[EventData]]] = {
    cls.model_fields["type"].default: cls for cls in EventData.__subclasses__()
}


class NewerEvent(EventData):
    """An event that this program is too old for: ``text`` is its data as canonical JSON.

    It is read, counted and passed over; never written. ``type`` is its own, so that nothing mistakes it for
    the event of that name which it knows; what it was called is ``newer_type``.
    """

    type: Literal["NewerEvent"] = "NewerEvent"
    newer_type: str
    newer_schema: int
    text: str


AnyEvent = Annotated[
    RunRequested
    | StageIntended
    | StageSubmitted
    | StageStarted
    | StageSucceeded
    | StageFailed
    | StageSkipped
    | StageReused
    | RelabelTagsEmitted
    | RelabelTagsValidated
    | RelabelTagsRejected
    | RelabelTagsReopened
    | CheckpointRecorded
    | MetricsRecorded
    | RunSucceeded
    | RunFailed
    | RunCancelled
    | PromotionIntended
    | PromotionConfirmed
    | PromotionAborted
    | PromotionRefused
    | PointerHeld
    | PointerReleased
    | StorageMeasured
    | GarbagePlanned
    | GarbageCollected,
    Field(discriminator="type"),
]

_ADAPTER: TypeAdapter[EventData] = TypeAdapter(AnyEvent)

D = TypeVar("D", bound=EventData, covariant=True)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[D]):
    """An event as recorded: ``position`` in the ledger from 0, ``version`` in its stream from 1.

    ``schema`` is the one it was written with; ``data`` is already upcast to today's.
    """

    position: int
    id: str
    type: str
    schema: int
    stream: str
    version: int
    time: str
    actor: str
    data: D


def parse_event(type_: str, data: dict[str, Any]) -> EventData:
    """The model of an event's stored ``data`` (already upcast). Raises pydantic.ValidationError."""
    return _ADAPTER.validate_python({**data, "type": type_})
