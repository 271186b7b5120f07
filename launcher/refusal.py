"""Why a run's student may not go live. Pure: what the ledger and the pointer's history say decides.

Rules:

1. A run without a student, or with an empty one, promotes nothing.
2. While a rollback holds the pointer, nothing is promoted automatically; and a checkpoint that was rolled
   back from comes back by a person's hand only, hold or not.
3. A pointer belongs to a project; another one's run must be told to take it over.
"""

from __future__ import annotations

import shlex
from collections.abc import Set
from typing import Literal, TypeAlias

from launcher.storage.pointer import PointerHistory
from ledger.decider import RunState

__all__ = ["Refusal", "why_not"]

#: The cause, as the ledger names it, and the reason in words.
Refusal: TypeAlias = tuple[
    Literal["held", "gate", "no_checkpoint", "race", "verification", "project"], str
]


def why_not(
    run: RunState,
    history: PointerHistory,
    *,
    released: Set[int],
    project: str,
    automatic: bool,
    take_over: bool,
) -> Refusal | None:
    """Why ``run`` may not be promoted now, or None. ``released`` are the rollbacks whose hold was ended."""
    student, live = run.student, history.live
    if student is None or student.size_bytes == 0:
        return ("no_checkpoint", _why_no_student(run))
    if automatic:
        held = _why_held(history, released, student.digest)
        if held is not None:
            return ("held", held)
    if live is not None and live.project != project and not take_over:
        return (
            "project",
            f"{history.name} belongs to project {live.project}, this is {project}; "
            "--take-over takes it",
        )
    return None


def _why_held(history: PointerHistory, released: Set[int], digest: str) -> str | None:
    name, holder = history.name, history.held_by(released)
    if holder is not None:
        why = f" ({holder.reason})" if holder.reason else ""
        return (
            f"{name} is held since {holder.actor} rolled it back with g{holder.generation}{why}; "
            f"when fixed: launcher release {shlex.quote(name)}"
        )
    for origin in sorted(history.withdrawn(), reverse=True):
        if history.generations[origin - 1].digest == digest:
            return (
                f"{name} was rolled back from this checkpoint (g{origin}); "
                "it comes back by hand only: launcher promote"
            )
    return None


def _why_no_student(run: RunState) -> str:
    empty = [c.path for c in run.checkpoints if c.stage == "retrain" and c.size_bytes == 0]
    if empty:
        return f"the checkpoint of run {run.run_id} is empty: {empty[-1]}"
    return f"run {run.run_id} has no student checkpoint"
