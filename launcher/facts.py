"""Facts of other streams that a run's documents show: its promotions and its storage measurements.

Read on as the ledger grows, never twice. Order is by position, never by time: clocks go back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from ledger import events as e
from ledger.stores.port import EventStore

__all__ = ["FactsOfRuns", "measured_run", "promoted_run"]


def promoted_run(event: e.Recorded[Any]) -> str | None:
    """The run that a confirmed promotion is of; None for any other event."""
    data = event.data
    if isinstance(data, e.PromotionConfirmed) and data.generation.kind == "promotion":
        return data.generation.run_id
    return None


def measured_run(event: e.Recorded[Any]) -> str | None:
    """The run that a storage measurement was made for; None for any other event."""
    return event.data.run_id if isinstance(event.data, e.StorageMeasured) else None


class FactsOfRuns:
    """The events of the streams that begin with ``prefix`` for which ``run_of`` names a run."""

    def __init__(
        self, store: EventStore, prefix: str, run_of: Callable[[e.Recorded[Any]], str | None]
    ) -> None:
        self._store, self._prefix, self._run_of = store, prefix, run_of
        self._versions: dict[str, int] = {}
        self._found: list[tuple[str, e.Recorded[Any]]] = []
        self._of_run: dict[str, list[int]] = {}

    def newest(
        self, run_id: str, position: int | None
    ) -> tuple[e.Recorded[Any], list[tuple[str, e.Recorded[Any]]]] | None:
        """The run's newest fact at or before ``position`` (None: of all), and every later (run, fact) of others.

        None where it has none.
        """
        self._read_on()
        mine = self._of_run.get(run_id, [])
        end = len(self._found)
        if position is not None:
            end = bisect_right(self._found, position, key=lambda item: item[1].position)
            mine = [place for place in mine if place < end]
        if not mine:
            return None
        return self._found[mine[-1]][1], self._found[mine[-1] + 1 : end]

    def _read_on(self) -> None:
        fresh = []
        for stream in self._store.streams(self._prefix):
            for event in self._store.read_stream(stream, self._versions.get(stream, 0)):
                self._versions[stream] = event.version
                run_id = self._run_of(event)
                if run_id is not None:
                    fresh.append((run_id, event))
        if fresh:
            self._found = sorted([*self._found, *fresh], key=lambda item: item[1].position)
            self._of_run = {}
            for place, (run_id, _) in enumerate(self._found):
                self._of_run.setdefault(run_id, []).append(place)
