"""What every event is made of: frozen models, and the words that several of them use."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["CAUSES", "STAGES", "Cause", "EventData", "Frozen", "StageName"]

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


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EventData(Frozen):
    """The base of every event's data."""

    schema_version: ClassVar[int] = 1
    type: str
