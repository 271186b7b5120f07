"""``metadata/promotion.json``: what a run's promotion put where, and how to take it back. Pure."""

from __future__ import annotations

import shlex
from typing import Any

from ledger.events import PromotionConfirmed
from ledger.pointers import PointerState

__all__ = ["promotion_document", "rollback_command"]


def promotion_document(state: PointerState, run_id: str) -> dict[str, Any] | None:
    """The record of the newest promotion that ``run_id`` made of this pointer; None where it made none."""
    found: tuple[str, PromotionConfirmed] | None = None
    for time, confirmed in state.confirmations:
        body = confirmed.generation
        if body.run_id == run_id and body.kind == "promotion":
            found = (time, confirmed)
    if found is None:
        return None
    confirmed = found[1]
    body = confirmed.generation
    return {
        "run_id": run_id,
        "timestamp": body.time,
        "promoted_from": confirmed.promoted_from,
        "promoted_to": body.name,
        "backup": confirmed.backup,
        "digest": body.digest,
        "generation": body.generation,
        "previous_digest": body.previous.digest,
        "rollback": rollback_command(body.name, body.previous.generation),
    }


def rollback_command(name: str, previous_generation: int) -> str | None:
    """The exact command that puts the generation before back; None where there was none."""
    if previous_generation == 0:
        return None
    return f"launcher rollback {shlex.quote(name)} --to {previous_generation}"
