"""What makes each fact unique: the deterministic id of every event. Pure.

Run, stage, attempt and type; plus the pod for StageStarted, path and digest for CheckpointRecorded, the
tag file's and schema's digest and the event it follows for tag checks, the promotion's id for pointer
events, the plan's digest for garbage, the run and the event it follows for a run's folder, the slot for a
schedule's, the event it follows for a pause and its end. Saying the same fact twice gives the same id twice, and the
ledger keeps the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ledger import events as e
from ledger.ids import event_id
from ledger.stores.port import NewEvent

__all__ = ["identify"]

Parts = tuple[str | int, ...]


def _attempt(d: Any) -> Parts:
    return (d.stage, d.attempt)


def _tag_check(d: Any) -> Parts:
    return (d.digest or "", getattr(d, "schema_digest", None) or "", d.follows)


_PARTS: Final[dict[type[e.EventData], Callable[[Any], Parts]]] = {
    e.StageIntended: _attempt,
    e.StageSubmitted: _attempt,
    e.StageStarted: lambda d: (d.stage, d.attempt, d.pod_uid or ""),
    e.StageSucceeded: _attempt,
    e.StageFailed: _attempt,
    e.StageSkipped: lambda d: (d.stage,),
    e.StageReused: lambda d: (d.stage,),
    e.CheckpointRecorded: lambda d: (d.stage, d.attempt, d.path, d.digest),
    e.MetricsRecorded: _attempt,
    e.RelabelTagsValidated: _tag_check,
    e.RelabelTagsRejected: _tag_check,
    e.RelabelTagsReopened: _tag_check,
    e.PromotionIntended: lambda d: (d.generation.promotion_id,),
    e.PromotionConfirmed: lambda d: (d.generation.promotion_id,),
    e.PromotionAborted: lambda d: (d.promotion_id,),
    e.PromotionRefused: lambda d: (d.promotion_id,),
    e.PointerHeld: lambda d: (d.generation,),
    e.PointerReleased: lambda d: (d.generation,),
    e.GarbagePlanned: lambda d: (d.plan_digest,),
    e.GarbageCollected: lambda d: (d.plan_digest,),
    e.RunFolderRetired: lambda d: (d.run_id, d.follows or ""),
    e.RunFolderRestored: lambda d: (d.run_id, d.follows or ""),
    e.SlotClaimed: lambda d: (d.slot,),
    e.SlotMissed: lambda d: (d.slot,),
    e.SlotPassedOver: lambda d: (d.slot,),
    e.PipelinePaused: lambda d: (d.follows or "",),
    e.PipelineUnpaused: lambda d: (d.follows,),
}


def identify(stream: str, data: e.EventData, key: str = "") -> NewEvent:
    """``data`` with its id. ``key`` tells apart facts that nothing else does (a measurement's moment)."""
    parts = _PARTS.get(type(data))
    own = parts(data) if parts else ()
    return NewEvent(event_id(stream, data.type, *own, *((key,) if key else ())), data)
