"""The pipeline decider: which slots of a schedule are settled, and whether the next one may start a run. Pure.

Rules:

1. A slot is settled once and for ever: claimed by a run, passed over, or missed. Whoever comes second finds it so.
2. A paused pipeline claims nothing.
3. A pause names the unpausing that it follows, an unpausing the pause that it ends: pressed twice, each is one fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ledger import events as e
from ledger.errors import IllegalTransitionError
from ledger.identity import identify

__all__ = ["PipelineState", "SlotFact", "decide_pipeline", "evolve_pipeline", "fold_pipeline"]

SlotFact = e.SlotClaimed | e.SlotMissed | e.SlotPassedOver


@dataclass(frozen=True, slots=True)
class PipelineState:
    """``slots`` by slot, in the order in which they were settled; ``paused`` is the pause that lasts, or None."""

    stream: str
    version: int = 0
    position: int = -1
    slots: Mapping[str, SlotFact] = field(default_factory=dict)
    paused: e.PipelinePaused | None = None
    paused_at: str | None = None
    #: The id of the event that paused it last, or let it go on last: what the next one of them follows.
    turn: str | None = None
    #: Claimed since it was last let go on, oldest first: those whose failures count.
    counted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.stream.removeprefix("pipeline/")

    @property
    def newest(self) -> SlotFact | None:
        """Of the latest slot that is settled."""
        return self.slots[max(self.slots)] if self.slots else None

    @property
    def newest_run(self) -> str | None:
        """The run of the latest slot that was claimed."""
        claims = [s for s in self.slots.values() if isinstance(s, e.SlotClaimed)]
        return max(claims, key=lambda claim: claim.slot).run_id if claims else None


def fold_pipeline(stream: str, events: Iterable[e.Recorded[Any]]) -> PipelineState:
    """The state after ``events`` (one stream, ascending version). Raises IllegalTransitionError."""
    state = PipelineState(stream)
    for event in events:
        state = evolve_pipeline(state, event)
    return state


def evolve_pipeline(state: PipelineState, event: e.Recorded[Any]) -> PipelineState:
    """``state`` after ``event``. Raises IllegalTransitionError; ``state`` itself never changes."""
    moved = _apply(state, event.data, event.time, event.id)
    return replace(moved, version=event.version, position=event.position)


def decide_pipeline(state: PipelineState, *proposed: e.EventData) -> list[e.EventData]:
    """The events to append so that all of ``proposed`` are facts; those that are already are left out.

    Raises IllegalTransitionError if any of them does not fit; then none is to be appended.
    """
    wanted: list[e.EventData] = []
    for data in proposed:
        if not _already_said(state, data):
            state = _apply(state, data, "", identify(state.stream, data).id)
            wanted.append(data)
    return wanted


def _apply(state: PipelineState, data: e.EventData, time: str, id_: str) -> PipelineState:
    match data:
        case e.SlotClaimed() | e.SlotMissed() | e.SlotPassedOver():
            return _settle(state, data)
        case e.PipelinePaused():
            if state.paused is not None or data.follows != state.turn:
                raise IllegalTransitionError(state.stream, _going(state), data.type)
            return replace(state, paused=data, paused_at=time, turn=id_)
        case e.PipelineUnpaused():
            if state.paused is None or data.follows != state.turn:
                raise IllegalTransitionError(state.stream, _going(state), data.type)
            return replace(state, paused=None, paused_at=None, turn=id_, counted=())
    if data.type in e.EVENT_TYPES:
        raise IllegalTransitionError(state.stream, "a pipeline", data.type, "not an event of one")
    return state


def _settle(state: PipelineState, data: SlotFact) -> PipelineState:
    if data.slot in state.slots:
        raise IllegalTransitionError(
            state.stream, f"the slot {data.slot} is settled", data.type, state.slots[data.slot].type
        )
    moved = replace(state, slots={**state.slots, data.slot: data})
    if not isinstance(data, e.SlotClaimed):
        return moved
    if state.paused is not None:
        raise IllegalTransitionError(state.stream, _going(state), data.type)
    return replace(moved, counted=(*state.counted, data.run_id))


def _going(state: PipelineState) -> str:
    return "it goes on" if state.paused is None else "it is paused"


def _already_said(state: PipelineState, data: e.EventData) -> bool:
    match data:
        case e.SlotClaimed() | e.SlotMissed() | e.SlotPassedOver():
            return state.slots.get(data.slot) == data
        case e.PipelinePaused():
            return state.paused == data
    return False
