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
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter

from ledger.events._base import CAUSES, STAGES, Cause, EventData, StageName
from ledger.events.pipeline import (
    PipelinePaused,
    PipelineUnpaused,
    SlotClaimed,
    SlotMissed,
    SlotPassedOver,
)
from ledger.events.pointer import (
    Generation,
    PointerHeld,
    PointerReleased,
    PreviousGeneration,
    PromotionAborted,
    PromotionConfirmed,
    PromotionIntended,
    PromotionRefused,
)
from ledger.events.run import (
    CheckpointRecorded,
    ConfigRef,
    Handle,
    InputRef,
    MetricsRecorded,
    PromotionPlan,
    Provenance,
    RelabelTagsEmitted,
    RelabelTagsRejected,
    RelabelTagsReopened,
    RelabelTagsValidated,
    ResourceSeconds,
    RunCancelled,
    RunFailed,
    RunRequested,
    RunSucceeded,
    StageFailed,
    StageIntended,
    StagePlan,
    StageReused,
    StageSeconds,
    StageSkipped,
    StageStarted,
    StageSubmitted,
    StageSucceeded,
)
from ledger.events.storage import (
    GarbageCollected,
    GarbagePlanned,
    ObsoleteCheckpoint,
    RunFolderRestored,
    RunFolderRetired,
    StorageMeasured,
)

__all__ = [
    "CAUSES",
    "EVENT_LIMIT_BYTES",
    "EVENT_TYPES",
    "STAGES",
    "Cause",
    "CheckpointRecorded",
    "ConfigRef",
    "EventData",
    "GarbageCollected",
    "GarbagePlanned",
    "Generation",
    "Handle",
    "InputRef",
    "MetricsRecorded",
    "NewerEvent",
    "ObsoleteCheckpoint",
    "PipelinePaused",
    "PipelineUnpaused",
    "PointerHeld",
    "PointerReleased",
    "PreviousGeneration",
    "PromotionAborted",
    "PromotionConfirmed",
    "PromotionIntended",
    "PromotionPlan",
    "PromotionRefused",
    "Provenance",
    "Recorded",
    "RelabelTagsEmitted",
    "RelabelTagsRejected",
    "RelabelTagsReopened",
    "RelabelTagsValidated",
    "ResourceSeconds",
    "RunCancelled",
    "RunFailed",
    "RunFolderRestored",
    "RunFolderRetired",
    "RunRequested",
    "RunSucceeded",
    "SlotClaimed",
    "SlotMissed",
    "SlotPassedOver",
    "StageFailed",
    "StageIntended",
    "StageName",
    "StagePlan",
    "StageReused",
    "StageSeconds",
    "StageSkipped",
    "StageStarted",
    "StageSubmitted",
    "StageSucceeded",
    "StorageMeasured",
    "parse_event",
]

EVENT_LIMIT_BYTES: Final = 64 * 1024

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
    | GarbageCollected
    | RunFolderRetired
    | RunFolderRestored
    | SlotClaimed
    | SlotMissed
    | SlotPassedOver
    | PipelinePaused
    | PipelineUnpaused,
    Field(discriminator="type"),
]

#: Type -> model, of every event that this program writes.
EVENT_TYPES: Final[dict[str, type[EventData]]] = {
    cls.model_fields["type"].default: cls for cls in get_args(get_args(AnyEvent)[0])
}

_ADAPTER: TypeAdapter[EventData] = TypeAdapter(AnyEvent)


class NewerEvent(EventData):
    """An event that this program is too old for: ``text`` is its data as canonical JSON.

    It is read, counted and passed over; never written. ``type`` is its own, so that nothing mistakes it for
    the event of that name which it knows; what it was called is ``newer_type``.
    """

    type: Literal["NewerEvent"] = "NewerEvent"
    newer_type: str
    newer_schema: int
    text: str


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
