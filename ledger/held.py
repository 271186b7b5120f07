"""What stages and runs held of a cluster, where their time went, which watches broke: sums over attempts. Pure.

Every attempt counts, the failed ones too: GPU-seconds are what nobody else could have, not what came of it. Outputs
that a run reuses were paid for by the run that made them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ledger.events import ResourceSeconds, StageSeconds
from ledger.run_state import RunState, StageState

__all__ = ["added", "gpu_seconds", "run_held", "stage_held", "stage_restarts", "stage_time"]


def added(parts: Iterable[ResourceSeconds | None]) -> ResourceSeconds | None:
    """The sum of those that are known; None where none is."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    gpus: Counter[str] = Counter()
    for part in known:
        gpus.update(part.gpus)
    return ResourceSeconds(
        gpus=dict(sorted(gpus.items())),
        cpu=sum(part.cpu for part in known),
        memory=sum(part.memory for part in known),
    )


def stage_held(stage: StageState) -> ResourceSeconds | None:
    """By all attempts of a stage that ended; None where nobody counted."""
    own = stage.held if stage.status == "succeeded" else None
    return added([*(failure.held for failure in stage.failures), own])


def run_held(state: RunState) -> ResourceSeconds | None:
    """By all attempts of all stages that ended; None where nobody counted."""
    return added(stage_held(stage) for stage in state.stages.values())


def stage_time(stage: StageState) -> StageSeconds:
    """Where the time of all attempts went that ended; a phase that none had is None."""
    own = [stage.seconds] if stage.status == "succeeded" else []
    parts = [*(failure.seconds for failure in stage.failures), *own]
    sums = {
        phase: sum(known)
        for phase in StageSeconds.model_fields
        if (known := [s for part in parts if (s := getattr(part, phase)) is not None])
    }
    return StageSeconds(**sums)


def stage_restarts(stage: StageState) -> int | None:
    """How many watches broke while attempts of a stage ran that ended; None where nobody counted."""
    own = [stage.watch_restarts] if stage.status == "succeeded" else []
    parts = [*(failure.watch_restarts for failure in stage.failures), *own]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def gpu_seconds(held: ResourceSeconds | None) -> float:
    """Of all kinds of GPU together; 0 where nobody counted."""
    return sum(held.gpus.values()) if held else 0.0
