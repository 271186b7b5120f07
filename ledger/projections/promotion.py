"""``metadata/promotion.json``: what a run's promotion put where, and how to take it back. Pure."""

from __future__ import annotations

import shlex
from typing import Any

from ledger.events import PromotionConfirmed

__all__ = ["promotion_document", "rollback_command"]


def promotion_document(confirmed: PromotionConfirmed) -> dict[str, Any]:
    """The record of one promotion. ``rollback`` is None where no checkpoint was live before it."""
    body, before = confirmed.generation, confirmed.generation.previous
    return {
        "run_id": body.run_id,
        "timestamp": body.time,
        "promoted_from": confirmed.promoted_from,
        "promoted_to": body.name,
        "backup": confirmed.backup,
        "digest": body.digest,
        "generation": body.generation,
        "previous_digest": before.digest,
        "rollback": rollback_command(body.name, before.generation if before.digest else 0),
    }


def rollback_command(name: str, previous_generation: int) -> str | None:
    """The exact command that puts the generation before back; None where there was none."""
    if previous_generation == 0:
        return None
    return f"launcher rollback {shlex.quote(name)} --to {previous_generation}"
