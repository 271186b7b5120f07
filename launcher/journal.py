"""The launcher's hand on the ledger: read a state, decide, append, and decide again after a conflict.

Rules:

1. An append is decided on the newest state that was read; a VersionConflictError means read and decide
   again, a bounded number of times. This is the only place that does so.
2. ``propose`` gets the state and returns the facts that should hold; those that hold already are not
   said again. It may raise, and then nothing is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ledger import decider, pointers, slots
from ledger.errors import VersionConflictError
from ledger.events import (
    EventData,
    Recorded,
)
from ledger.identity import identify
from ledger.ids import pipeline_stream, pointer_stream, run_stream
from ledger.stores.port import EventStore

__all__ = ["Journal"]

_ATTEMPTS = 100


class Journal:
    """One process's view of the ledger. ``clock`` returns RFC 3339 UTC; ``actor`` is who acts."""

    def __init__(self, store: EventStore, actor: str, clock: Callable[[], str]) -> None:
        self.store, self.actor, self.clock = store, actor, clock
        self._runs: dict[str, decider.RunState] = {}
        self._pointers: dict[str, pointers.PointerState] = {}
        self._pipelines: dict[str, slots.PipelineState] = {}

    def run(self, run_id: str) -> decider.RunState:
        """The newest state of a run; status ``unknown`` if it was never requested."""
        stream = run_stream(run_id)
        state = self._runs.get(stream) or decider.RunState(stream)
        for event in self.store.read_stream(stream, state.version):
            state = decider.evolve(state, event)
        self._runs[stream] = state
        return state

    def pointer(self, name: str) -> pointers.PointerState:
        """The newest state of a pointer, empty if the ledger knows nothing of it."""
        stream = pointer_stream(name)
        state = self._pointers.get(stream) or pointers.PointerState(stream)
        for event in self.store.read_stream(stream, state.version):
            state = pointers.evolve_pointer(state, event)
        self._pointers[stream] = state
        return state

    def pipeline(self, name: str) -> slots.PipelineState:
        """The newest state of a pipeline, empty if the ledger knows nothing of it."""
        stream = pipeline_stream(name)
        state = self._pipelines.get(stream) or slots.PipelineState(stream)
        for event in self.store.read_stream(stream, state.version):
            state = slots.evolve_pipeline(state, event)
        self._pipelines[stream] = state
        return state

    def pipeline_names(self) -> list[str]:
        """Every pipeline that a slot came for, oldest first."""
        return [s.removeprefix("pipeline/") for s in self.store.streams("pipeline/")]

    def pointer_names(self) -> list[str]:
        """Every pointer that the ledger has heard of, oldest first."""
        return [s.removeprefix("pointer/") for s in self.store.streams("pointer/")]

    def run_ids(self) -> list[str]:
        """Every run, oldest first."""
        return [s.removeprefix("run/") for s in self.store.streams("run/")]

    def record_run(
        self,
        run_id: str,
        propose: Callable[[decider.RunState], Sequence[EventData]],
        *,
        actor: str | None = None,
    ) -> decider.RunState:
        """Append what ``propose`` wants of a run and return the state after it.

        Raises IllegalTransitionError, VersionConflictError (after many conflicts), and what the store
        raises.
        """
        for attempt in range(_ATTEMPTS):
            state = self.run(run_id)
            wanted = decider.decide(state, *propose(state))
            if not wanted:
                return state
            said = self._append(state.stream, state.version, wanted, attempt, actor)
            if said is not None:
                return self._after(state, said)
        raise AssertionError("unreachable")

    def _after(self, state: decider.RunState, said: Sequence[Recorded[Any]]) -> decider.RunState:
        """The newest state, ``said`` having been appended to ``state``."""
        if said[0].version != state.version + 1:  # it was there before
            return self.run(state.run_id)
        for event in said:
            state = decider.evolve(state, event)
        self._runs[state.stream] = state
        return state

    def record_pointer(
        self, name: str, propose: Callable[[pointers.PointerState], Sequence[EventData]]
    ) -> pointers.PointerState:
        """As ``record_run``, for a pointer."""
        for attempt in range(_ATTEMPTS):
            state = self.pointer(name)
            wanted = pointers.decide_pointer(state, *propose(state))
            if not wanted:
                return state
            if self._append(state.stream, state.version, wanted, attempt, None) is not None:
                return self.pointer(name)
        raise AssertionError("unreachable")

    def record_pipeline(
        self, name: str, propose: Callable[[slots.PipelineState], Sequence[EventData]]
    ) -> slots.PipelineState:
        """As ``record_run``, for a pipeline."""
        for attempt in range(_ATTEMPTS):
            state = self.pipeline(name)
            wanted = slots.decide_pipeline(state, *propose(state))
            if not wanted or self._append(state.stream, state.version, wanted, attempt, None):
                return self.pipeline(name)
        raise AssertionError("unreachable")

    def record_storage(self, fact: EventData, key: str = "") -> Recorded[Any]:
        """Append a fact about storage; ``key`` makes a measurement one fact however often it is said."""
        for attempt in range(_ATTEMPTS):
            known = self.store.read_stream("storage")
            event = identify("storage", fact, key)
            said = next((r for r in known if r.id == event.id), None)
            if said is not None:
                return said
            try:
                return self.store.append(
                    "storage", len(known), [event], now=self.clock(), actor=self.actor
                )[0]
            except VersionConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _append(
        self,
        stream: str,
        version: int,
        wanted: Sequence[EventData],
        attempt: int,
        actor: str | None,
    ) -> list[Recorded[Any]] | None:
        """What is on record now; None where the state has moved on."""
        try:
            return self.store.append(
                stream,
                version,
                [identify(stream, data) for data in wanted],
                now=self.clock(),
                actor=actor or self.actor,
            )
        except VersionConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
            return None
