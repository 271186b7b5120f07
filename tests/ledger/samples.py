"""Small events for tests that care about the ledger and not about what happened."""

from __future__ import annotations

from typing import Literal

from ledger import events as e
from ledger.stores.port import NewEvent

NOW = "2026-01-31T02:00:00.000250Z"
LATER = "2026-01-31T02:00:07.500000Z"


def skipped(key: str, reason: str = "no command") -> NewEvent:
    """An event whose id is ``key``."""
    return NewEvent(key, e.StageSkipped(stage="llm_off", reason=reason))


class StageAbandoned(e.EventData):
    """An event of a type that only a later program knows."""

    type: Literal["StageAbandoned"] = "StageAbandoned"
    stage: str


class StageSkippedV2(e.EventData):
    """A known type in a schema that only a later program knows."""

    schema_version = 2
    type: Literal["StageSkipped"] = "StageSkipped"
    stages: tuple[str, ...]


def requested(launcher_version: str) -> e.RunRequested:
    """A run's first event, as a launcher of that version writes it."""
    return e.RunRequested(
        run_id="a",
        project="p",
        project_root="/p",
        output_root="runs",
        config=e.ConfigRef(path=None, digest="sha256:" + "0" * 64),
        stages=(),
        provenance=e.Provenance(launcher_version=launcher_version),
    )
