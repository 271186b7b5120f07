"""The pointer decider: every legal move, every illegal one, and nothing changes on an illegal one."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import events as e
from ledger.errors import IllegalTransitionError
from ledger.pointers import PointerState, decide_pointer, evolve_pointer, fold_pointer

STREAM = "pointer/student"
NOW = "2026-01-31T02:00:00.000000Z"
Kind = Literal["promotion", "rollback", "adoption", "fence"]


def body(
    number: int, id_: str, kind: Kind = "promotion", reason: str | None = None
) -> e.Generation:
    return e.Generation(
        name="student",
        project="p",
        generation=number,
        kind=kind,
        automatic=False,
        origin=number,
        digest="sha256:" + "a" * 64,
        size_bytes=1,
        run_id=f"run-{id_}",
        promotion_id=id_,
        actor="ana",
        reason=reason,
        previous=e.PreviousGeneration(generation=number - 1, digest=None),
        time=NOW,
    )


def intended(number: int, id_: str, kind: Kind = "promotion") -> e.PromotionIntended:
    return e.PromotionIntended(generation=body(number, id_, kind))


def confirmed(number: int, id_: str, kind: Kind = "promotion", **kw: Any) -> e.PromotionConfirmed:
    return e.PromotionConfirmed(generation=body(number, id_, kind), **kw)


def imported(number: int, id_: str, kind: Kind = "promotion") -> e.PromotionConfirmed:
    return confirmed(number, id_, kind, imported=True)


def aborted(id_: str, winner: e.Generation) -> e.PromotionAborted:
    return e.PromotionAborted(promotion_id=id_, run_id=None, winner=winner, reason="lost")


def refused(id_: str) -> e.PromotionRefused:
    return e.PromotionRefused(
        promotion_id=id_, kind="promotion", run_id=None, automatic=True, cause="held", reason="held"
    )


def state_after(*events: e.EventData) -> PointerState:
    return fold_pointer(STREAM, [record(i, event) for i, event in enumerate(events)])


def record(position: int, data: e.EventData) -> e.Recorded[Any]:
    return e.Recorded(
        position=position,
        id=str(position),
        type=data.type,
        schema=1,
        stream=STREAM,
        version=position + 1,
        time=NOW,
        actor="ana",
        data=data,
    )


EMPTY = state_after()
OPEN = state_after(intended(1, "x"))
ONE = state_after(intended(1, "x"), confirmed(1, "x"))
HELD = state_after(
    *(intended(1, "x"), confirmed(1, "x")),
    *(intended(2, "r", "rollback"), confirmed(2, "r", "rollback")),
    e.PointerHeld(generation=2, reason=None),
)
LOST = state_after(intended(1, "x"), aborted("x", body(1, "w")))

LEGAL: list[tuple[str, PointerState, e.EventData]] = [
    ("the first intent", EMPTY, intended(1, "x")),
    ("an intent for the next", ONE, intended(2, "y")),
    ("an intent after a loss", LOST, intended(2, "y")),
    ("what was intended is there", OPEN, confirmed(1, "x")),
    ("somebody else has the number", OPEN, aborted("x", body(1, "w"))),
    ("a fence has the number", OPEN, aborted("x", body(1, "f", "fence"))),
    ("made elsewhere", EMPTY, imported(1, "z")),
    ("made elsewhere, while an intent is open", OPEN, imported(1, "z")),
    ("made elsewhere under the open decision's id", OPEN, imported(1, "x", "adoption")),
    ("refused", EMPTY, refused("x")),
    ("refused while another is open", OPEN, refused("y")),
    ("held", state_after(imported(1, "r", "rollback")), e.PointerHeld(generation=1, reason=None)),
    ("released", HELD, e.PointerReleased(generation=2, reason="fixed")),
    ("an abort after the winner was imported", state_after(intended(1, "x"), imported(1, "w")),
     aborted("x", body(1, "w"))),
]  # fmt: skip

ILLEGAL: list[tuple[str, PointerState, e.EventData]] = [
    ("an intent for a number that is taken", ONE, intended(1, "y")),
    ("an intent past the next number", ONE, intended(3, "y")),
    ("a second open intent", OPEN, intended(1, "y")),
    ("the same intent twice", OPEN, intended(1, "x")),
    ("an intent for what is confirmed", ONE, intended(2, "x")),
    ("an intent for what was aborted", LOST, intended(2, "x")),
    ("an intent for what was refused", state_after(refused("x")), intended(1, "x")),
    ("confirmed, never intended", EMPTY, confirmed(1, "x")),
    ("confirmed with another body", OPEN, confirmed(1, "x", "adoption")),
    ("confirmed after an abort", LOST, confirmed(2, "x")),
    ("imported past a gap", ONE, imported(3, "z")),
    ("imported over what is known", ONE, imported(1, "z")),
    ("aborted, never intended", EMPTY, aborted("x", body(1, "w"))),
    ("aborted after it was confirmed", ONE, aborted("x", body(1, "w"))),
    ("aborted by itself", OPEN, aborted("x", body(1, "x"))),
    ("aborted by another number", OPEN, aborted("x", body(2, "w"))),
    ("refused while open", OPEN, refused("x")),
    ("refused after it was confirmed", ONE, refused("x")),
    ("refused after it was aborted", LOST, refused("x")),
    ("held by a promotion", ONE, e.PointerHeld(generation=1, reason=None)),
    ("held by what does not exist", ONE, e.PointerHeld(generation=2, reason=None)),
    ("released, no rollback", ONE, e.PointerReleased(generation=1, reason=None)),
    ("released, no such generation", HELD, e.PointerReleased(generation=3, reason=None)),
    ("an event of a run", EMPTY, e.RunSucceeded()),
]

SAID: list[tuple[str, PointerState, e.EventData]] = [
    ("confirmed", ONE, confirmed(1, "x")),
    ("confirmed, then imported", ONE, imported(1, "x")),
    ("imported, then confirmed", state_after(intended(1, "x"), imported(1, "x")), confirmed(1, "x")),
    ("the winner", LOST, imported(1, "w")),
    ("aborted", LOST, aborted("x", body(1, "w"))),
    ("refused", state_after(refused("x")), refused("x")),
    ("held", HELD, e.PointerHeld(generation=2, reason="another word for it")),
    ("released", state_after(imported(1, "r", "rollback"), e.PointerReleased(generation=1, reason=None)),
     e.PointerReleased(generation=1, reason="again")),
]  # fmt: skip


def ids(cases: list[tuple[str, PointerState, e.EventData]]) -> list[str]:
    return [name for name, _, _ in cases]


@pytest.mark.parametrize(("name", "state", "event"), LEGAL, ids=ids(LEGAL))
def test_legal_moves(name: str, state: PointerState, event: e.EventData) -> None:
    assert decide_pointer(state, event) == [event]
    moved = evolve_pointer(state, record(state.version, event))
    assert moved != state
    assert moved.version == state.version + 1


@pytest.mark.parametrize(("name", "state", "event"), ILLEGAL, ids=ids(ILLEGAL))
def test_illegal_moves_change_nothing(name: str, state: PointerState, event: e.EventData) -> None:
    before = repr(state)
    with pytest.raises(IllegalTransitionError) as caught:
        decide_pointer(state, event)
    assert (caught.value.stream, caught.value.event) == (STREAM, event.type)
    with pytest.raises(IllegalTransitionError):
        evolve_pointer(state, record(state.version, event))
    with pytest.raises(IllegalTransitionError):
        decide_pointer(state, refused("innocent"), event)
    assert repr(state) == before


@pytest.mark.parametrize(("name", "state", "event"), SAID, ids=ids(SAID))
def test_what_is_a_fact_already_is_not_said_again(
    name: str, state: PointerState, event: e.EventData
) -> None:
    assert decide_pointer(state, event) == []


def test_a_batch_is_decided_as_a_whole() -> None:
    batch = [
        confirmed(1, "x"),
        imported(2, "r", "rollback"),
        e.PointerHeld(generation=2, reason=None),
    ]
    assert decide_pointer(OPEN, *batch) == batch
    assert decide_pointer(ONE, *batch) == batch[1:]


def test_outcomes_and_the_newest_generation() -> None:
    story = state_after(
        *(refused("a"), intended(1, "b"), confirmed(1, "b")),
        *(intended(2, "c"), aborted("c", body(2, "f", "fence"))),
        intended(3, "d"),
    )
    outcomes = {id_: story.outcome(id_) for id_ in "abcdef"}
    assert outcomes == {
        "a": "refused",
        "b": "confirmed",
        "c": "aborted",
        "d": "open",
        "e": None,
        "f": None,
    }
    assert (story.latest, story.name) == (2, "student")


def test_an_event_of_a_newer_schema_is_passed_over() -> None:
    newer = e.NewerEvent(newer_type="PointerFrozen", newer_schema=1, text="{}")
    moved = evolve_pointer(ONE, record(ONE.version, newer))
    assert (moved.generations, moved.version) == (ONE.generations, ONE.version + 1)


# --- any story --------------------------------------------------------------------------------------

IDS = ["a", "b", "c", "d"]
NUMBERS = st.integers(1, 5)
KINDS: list[Kind] = ["promotion", "rollback", "adoption", "fence"]


def bodies() -> st.SearchStrategy[e.Generation]:
    return st.builds(body, NUMBERS, st.sampled_from(IDS), st.sampled_from(KINDS))


EVENTS: st.SearchStrategy[e.EventData] = st.one_of(
    bodies().map(lambda b: e.PromotionIntended(generation=b)),
    bodies().map(lambda b: e.PromotionConfirmed(generation=b)),
    bodies().map(lambda b: e.PromotionConfirmed(generation=b, imported=True)),
    st.builds(aborted, st.sampled_from(IDS), bodies()),
    st.sampled_from(IDS).map(refused),
    NUMBERS.map(lambda n: e.PointerHeld(generation=n, reason=None)),
    NUMBERS.map(lambda n: e.PointerReleased(generation=n, reason=None)),
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=40))
def test_whatever_is_proposed_the_account_stays_an_account(proposed: list[e.EventData]) -> None:
    """Numbers from 1 without gaps, one open intent for the next number or one just learned, ends once."""
    state, said = EMPTY, list[e.EventData]()
    for event in proposed:
        before = repr(state)
        try:
            wanted = decide_pointer(state, event)
        except IllegalTransitionError:
            assert repr(state) == before
            continue
        for fact in wanted:
            state = evolve_pointer(state, record(len(said), fact))
            said.append(fact)
        if not isinstance(event, e.PromotionIntended):
            assert decide_pointer(state, event) == []
        assert list(state.generations) == list(range(1, state.latest + 1))
        assert len(state.open) <= 1
        for intent in state.open.values():
            assert intent.generation.generation in (state.latest, state.latest + 1)
        assert not state.decided & state.open.keys()
        assert state.held | state.released <= state.generations.keys()
    assert fold_pointer(STREAM, [record(i, fact) for i, fact in enumerate(said)]) == state
    ends = [f.promotion_id for f in said if isinstance(f, e.PromotionAborted | e.PromotionRefused)]
    assert len(ends) == len(set(ends))
