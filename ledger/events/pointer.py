"""The events of one pointer, in the stream ``pointer/<name>``, and the generation that they speak of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ledger.events._base import EventData, Frozen

__all__ = [
    "Generation",
    "PointerHeld",
    "PointerReleased",
    "PreviousGeneration",
    "PromotionAborted",
    "PromotionConfirmed",
    "PromotionIntended",
    "PromotionRefused",
]


class PreviousGeneration(Frozen):
    """What was live before a generation; generation 0 and digest None where nothing was."""

    generation: int = Field(ge=0)
    digest: str | None


class Generation(Frozen):
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
