"""Writes docs/state-machine.md from the tables in ``ledger.decider``. With --check it only compares (exit 1)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger.decider import RUN_TRANSITIONS, STAGE_TRANSITIONS, TAG_TRANSITIONS

__all__ = ["DOCUMENT", "document"]

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "state-machine.md"

#: States in which there is nothing yet.
_BEFORE = {None: "[*]", "unknown": "[*]"}

_PAGE = """\
# State machines

Written by `python -m scripts.state_diagram` from the tables in `ledger/decider.py`; a test fails when it is stale.
Whatever is not drawn raises `IllegalTransitionError` and changes nothing.

## A run

{run}
An end is final, and comes to no run with an attempt under way. `RunSucceeded` needs every stage succeeded, skipped or
reused; `RunFailed` names the stage that failed.

## A stage

{stage}
Stages go in order: one leaves `pending` only when every stage before it has succeeded, was skipped or reused.
`StageIntended` out of `failed` is the next attempt; where none is left, `failed` is the end, of the run too. A second
`StageStarted` is a pod that replaced another, within the same attempt.

## The relabel tags

{tags}
Each check names the one that it follows; one that follows an older check is refused. Checks go on after the run's end.
"""


def document() -> str:
    """The whole page."""
    return _PAGE.format(
        run=_mermaid(RUN_TRANSITIONS, start=None),
        stage=_mermaid(STAGE_TRANSITIONS, start="pending"),
        tags=_mermaid(TAG_TRANSITIONS, start=None),
    )


def _mermaid(table: Mapping[Any, str], *, start: str | None) -> str:
    """A Mermaid state diagram of (state, event) -> state; states that nothing leaves are ends.

    ``start`` is the state in which a thing begins; None where its first event makes it.
    """
    lines = ["```mermaid", "stateDiagram-v2"]
    if start is not None:
        lines.append(f"    [*] --> {start}")
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), to in table.items():
        arrows.setdefault((_BEFORE.get(state, state), to), []).append(event)
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    left = {state for state, _ in table}
    lines += [
        f"    {state} --> [*]" for state in dict.fromkeys(table.values()) if state not in left
    ]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    page = document()
    if "--check" in sys.argv[1:]:
        return 0 if DOCUMENT.exists() and DOCUMENT.read_text() == page else 1
    DOCUMENT.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
