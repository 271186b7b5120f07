"""The table of runs that ``launcher list`` shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger.decider import RunState, evolve
from ledger.events import Recorded

__all__ = ["fold_runs"]


def fold_runs(events: Iterable[Recorded[Any]]) -> dict[str, RunState]:
    """The state of every run, by run id, in the order of their requests; other streams are passed over."""
    runs: dict[str, RunState] = {}
    for event in events:
        if event.stream.startswith("run/"):
            run_id = event.stream.removeprefix("run/")
            runs[run_id] = evolve(runs.get(run_id) or RunState(event.stream), event)
    return runs
