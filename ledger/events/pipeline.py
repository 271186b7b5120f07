"""The events of a pipeline that a clock starts, in the stream ``pipeline/<name>``.

A slot is the moment for which a run was planned, RFC 3339 UTC: not the moment at which somebody came to start it.
"""

from __future__ import annotations

from typing import Literal

from ledger.events._base import EventData

__all__ = ["PipelinePaused", "PipelineUnpaused", "SlotClaimed", "SlotMissed", "SlotPassedOver"]


class SlotClaimed(EventData):
    """A slot's one run; appended before the run is requested. ``schedule`` is what named the slot."""

    type: Literal["SlotClaimed"] = "SlotClaimed"
    slot: str
    run_id: str
    schedule: str


class SlotMissed(EventData):
    """Nobody came for a slot before its successor."""

    type: Literal["SlotMissed"] = "SlotMissed"
    slot: str
    schedule: str


class SlotPassedOver(EventData):
    """Somebody came for a slot and started nothing: an earlier run was open, or the pipeline paused."""

    type: Literal["SlotPassedOver"] = "SlotPassedOver"
    slot: str
    schedule: str
    cause: Literal["overlap", "paused"]
    reason: str


class PipelinePaused(EventData):
    """No slot starts a run until it is unpaused. ``follows``: the id of the unpausing before, None for the first.

    ``failed``: the runs that failed in a row, where that is why; empty where a person did it.
    """

    type: Literal["PipelinePaused"] = "PipelinePaused"
    reason: str
    failed: tuple[str, ...] = ()
    follows: str | None = None


class PipelineUnpaused(EventData):
    """Ends the pause ``follows``, the id of its event."""

    type: Literal["PipelineUnpaused"] = "PipelineUnpaused"
    reason: str | None
    follows: str
