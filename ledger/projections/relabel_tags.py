"""``metadata/relabel_tags.json``: what the relabel stage left, and whether it was checked. Pure."""

from __future__ import annotations

from typing import Any

from ledger.decider import RunState

__all__ = ["relabel_tags_document"]


def relabel_tags_document(state: RunState) -> dict[str, Any] | None:
    """The document, or None before the relabel stage has ended well."""
    if state.tags is None or state.request is None:
        return None
    teacher, scorecard = state.request.teacher_checkpoint, state.request.teacher_scorecard
    return {
        "planlet_tag_file": state.tags.tag_file,
        "teacher_scorecard": scorecard.path if scorecard else None,
        "teacher_checkpoint": teacher.path if teacher else None,
        "status": state.tags.status,
        "counts": dict(sorted(state.tags.counts.items())),
        "digest": state.tags.digest,
    }
