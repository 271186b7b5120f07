"""What a screen is told of a run: by whoever drives it, and by whoever only follows."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from launcher.executors.port import Running
from launcher.surroundings import log_path
from launcher.workspace import Workspace
from ledger.decider import RunState, StageState

__all__ = ["Progress", "tell_changes"]

_BEGUN = ("submitted", "running")
_SETTLED = ("succeeded", "failed", "skipped", "reused")


class Progress(Protocol):
    """What a screen is told while a run goes on."""

    def stage_began(self, state: RunState, stage: StageState, log: Path) -> None: ...
    def stage_waits(self, state: RunState, stage: StageState, log: Path, seen: Running) -> None: ...
    def stage_ended(self, state: RunState, stage: StageState, log: Path) -> None: ...
    def note(self, text: str) -> None: ...


def tell_changes(ws: Workspace, progress: Progress, before: RunState, after: RunState) -> None:
    """Show what became of the stages between two states of a run."""
    for name, stage in after.stages.items():
        was = before.stages[name]
        if (was.attempt, was.status) == (stage.attempt, stage.status):
            continue
        log = log_path(ws, after, name, max(stage.attempt, 1))
        told = was.attempt == stage.attempt and was.status in _BEGUN
        if stage.status in _SETTLED:
            progress.stage_ended(after, stage, log)
        elif stage.status in _BEGUN and not told:
            progress.stage_began(after, stage, log)
