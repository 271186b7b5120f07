"""The pointer decider: what the ledger says of one pointer, and what may be said next. Pure.

Rules:

1. The store's generations are the truth about what is live; this state is the ledger's account of them.
2. An intent names the next number and no other, one is open at a time, and none takes up a promotion that
   is decided already.
3. An intent ends once: confirmed with the very body that it named, or aborted (somebody else, or a fence,
   took its number). A decision that never became an intent is refused.
4. A rollback's generation holds the pointer against automatic promotions until it is released.
5. What the store has is a fact whoever made it: an import may tell of any next generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ledger import events as e
from ledger.errors import IllegalTransitionError

__all__ = ["PointerState", "decide_pointer", "evolve_pointer", "fold_pointer"]


@dataclass(frozen=True, slots=True)
class PointerState:
    """``generations`` are those that the ledger knows to exist, by number, from 1 without gaps."""

    stream: str
    version: int = 0
    position: int = -1
    generations: Mapping[int, e.Generation] = field(default_factory=dict)
    open: Mapping[str, e.PromotionIntended] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    held: frozenset[int] = frozenset()
    released: frozenset[int] = frozenset()
    confirmations: tuple[tuple[str, e.PromotionConfirmed], ...] = ()
    refusals: tuple[tuple[str, e.PromotionRefused | e.PromotionAborted], ...] = ()

    @property
    def name(self) -> str:
        return self.stream.removeprefix("pointer/")

    @property
    def latest(self) -> int:
        """The highest generation that the ledger knows; 0 for none."""
        return len(self.generations)

    def outcome(self, promotion_id: str) -> str | None:
        """``open``, ``confirmed``, ``aborted``, ``refused``, or None where it is undecided."""
        if promotion_id in self.open:
            return "open"
        if any(c.generation.promotion_id == promotion_id for _, c in self.confirmations):
            return "confirmed"
        for _, refusal in self.refusals:
            if refusal.promotion_id == promotion_id:
                return "aborted" if isinstance(refusal, e.PromotionAborted) else "refused"
        return None


def fold_pointer(stream: str, events: Iterable[e.Recorded[Any]]) -> PointerState:
    """The state after ``events`` (one stream, ascending version). Raises IllegalTransitionError."""
    state = PointerState(stream)
    for event in events:
        state = evolve_pointer(state, event)
    return state


def evolve_pointer(state: PointerState, event: e.Recorded[Any]) -> PointerState:
    """``state`` after ``event``. Raises IllegalTransitionError; ``state`` itself never changes."""
    moved = _apply(state, event.data, event.time)
    return replace(moved, version=event.version, position=event.position)


def decide_pointer(state: PointerState, *proposed: e.EventData) -> list[e.EventData]:
    """The events to append so that all of ``proposed`` are facts; those that are already are left out.

    Raises IllegalTransitionError if any of them does not fit; then none is to be appended.
    """
    wanted: list[e.EventData] = []
    for event in proposed:
        if not _already_said(state, event):
            state = _apply(state, event, "")
            wanted.append(event)
    return wanted


def _apply(state: PointerState, data: e.EventData, time: str) -> PointerState:
    match data:
        case e.PromotionIntended():
            return _intended(state, data)
        case e.PromotionConfirmed():
            return _confirmed(state, data, time)
        case e.PromotionAborted():
            return _aborted(state, data, time)
        case e.PromotionRefused():
            if data.promotion_id in state.decided or data.promotion_id in state.open:
                raise IllegalTransitionError(state.stream, "it is decided", data.type)
            return replace(
                state,
                decided=state.decided | {data.promotion_id},
                refusals=(*state.refusals, (time, data)),
            )
        case e.PointerHeld() | e.PointerReleased():
            known = state.generations.get(data.generation)
            if known is None or known.kind != "rollback":
                raise IllegalTransitionError(
                    state.stream, f"generation {data.generation} is no rollback", data.type
                )
            if isinstance(data, e.PointerHeld):
                return replace(state, held=state.held | {data.generation})
            return replace(state, released=state.released | {data.generation})
    if data.type in e.EVENT_TYPES:
        raise IllegalTransitionError(state.stream, "a pointer", data.type, "not an event of one")
    return state


def _intended(state: PointerState, data: e.PromotionIntended) -> PointerState:
    body = data.generation
    if body.promotion_id in state.decided or body.promotion_id in state.open:
        raise IllegalTransitionError(state.stream, "it is decided", data.type)
    if body.generation != state.latest + 1 or state.open:
        raise IllegalTransitionError(
            state.stream,
            f"at generation {state.latest} with {len(state.open)} open",
            data.type,
            f"generation {body.generation}",
        )
    return replace(state, open={**state.open, body.promotion_id: data})


def _confirmed(state: PointerState, data: e.PromotionConfirmed, time: str) -> PointerState:
    body = data.generation
    if not data.imported:
        intent = state.open.get(body.promotion_id)
        if intent is None or intent.generation != body:
            raise IllegalTransitionError(state.stream, "it was not intended", data.type)
    state = _learn(state, body, data.type)
    return replace(
        state,
        open={k: v for k, v in state.open.items() if k != body.promotion_id},
        decided=state.decided | {body.promotion_id},
        confirmations=(*state.confirmations, (time, data)),
    )


def _aborted(state: PointerState, data: e.PromotionAborted, time: str) -> PointerState:
    intent = state.open.get(data.promotion_id)
    if intent is None:
        raise IllegalTransitionError(state.stream, "it was not intended", data.type)
    number = intent.generation.generation
    if data.winner.generation != number or data.winner.promotion_id == data.promotion_id:
        raise IllegalTransitionError(
            state.stream, f"generation {number} is open", data.type, "nobody else took its number"
        )
    state = _learn(state, data.winner, data.type)
    return replace(
        state,
        open={k: v for k, v in state.open.items() if k != data.promotion_id},
        decided=state.decided | {data.promotion_id},
        refusals=(*state.refusals, (time, data)),
    )


def _learn(state: PointerState, body: e.Generation, type_: str) -> PointerState:
    known = state.generations.get(body.generation)
    if known == body:
        return state
    if known is not None or body.generation != state.latest + 1:
        raise IllegalTransitionError(
            state.stream, f"at generation {state.latest}", type_, f"generation {body.generation}"
        )
    return replace(state, generations={**state.generations, body.generation: body})


def _already_said(state: PointerState, data: e.EventData) -> bool:
    match data:
        case e.PromotionConfirmed():
            known = state.generations.get(data.generation.generation)
            return known == data.generation and data.generation.promotion_id not in state.open
        case e.PromotionAborted() | e.PromotionRefused():
            return any(
                r.promotion_id == data.promotion_id and r.type == data.type
                for _, r in state.refusals
            )
        case e.PointerHeld():
            return data.generation in state.held
        case e.PointerReleased():
            return data.generation in state.released
        case _:
            return False
