"""The table of runs that ``launcher list`` shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger.decider import RunState, evolve
from ledger.errors import IllegalTransitionError, LedgerDamagedError
from ledger.events import Recorded

__all__ = ["fold_runs"]


def fold_runs(events: Iterable[Recorded[Any]]) -> dict[str, RunState]:
    """The state of every run, by run id, in the order of their requests; other streams are passed over.

    Raises LedgerDamagedError, naming the position, for an event that no launcher would have appended.
    """
    runs: dict[str, RunState] = {}
    for event in events:
        if event.stream.startswith("run/"):
            run_id = event.stream.removeprefix("run/")
            try:
                runs[run_id] = evolve(runs.get(run_id) or RunState(event.stream), event)
            except IllegalTransitionError as exc:
                raise LedgerDamagedError("the ledger", str(exc), event.position) from exc
    return runs
