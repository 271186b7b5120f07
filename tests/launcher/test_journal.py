"""Read, decide, append; after a conflict read and decide again; never say a fact twice."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.journal import Journal
from ledger import events as e
from ledger.errors import IllegalTransitionError, VersionConflictError
from ledger.pointers import PointerState
from ledger.stores.memory import MemoryEventStore
from tests.ledger.samples import NOW, requested


def journal(store: MemoryEventStore, actor: str = "ana") -> Journal:
    return Journal(store, actor, lambda: NOW)


def refused(id_: str) -> e.PromotionRefused:
    return e.PromotionRefused(
        promotion_id=id_, kind="promotion", run_id="r", automatic=True, cause="held", reason="held"
    )


def test_another_process_is_seen_at_the_next_look() -> None:
    store = MemoryEventStore()
    one, other = journal(store), journal(store)
    assert one.run("a").status == "unknown"
    other.record_run("a", lambda _: [requested("1")])
    assert one.run("a").status == "open"
    assert one.run_ids() == ["a"]
    other.record_pointer("student", lambda _: [refused("x")])
    assert one.pointer("student").outcome("x") == "refused"
    assert one.pointer_names() == ["student"]


def test_a_conflict_is_decided_again_on_what_won() -> None:
    store = MemoryEventStore()
    one, other = journal(store), journal(store)
    seen: list[int] = []

    def propose(state: PointerState) -> list[e.EventData]:
        seen.append(state.version)
        if len(seen) == 1:
            other.record_pointer("student", lambda _: [refused("x")])
        return [refused("y")]

    state = one.record_pointer("student", propose)
    assert seen == [0, 1]
    assert (state.outcome("x"), state.outcome("y"), state.version) == ("refused", "refused", 2)


def test_what_is_a_fact_already_is_not_appended_again() -> None:
    store = MemoryEventStore()
    for _ in range(2):
        journal(store).record_pointer("student", lambda _: [refused("x")])
        journal(store).record_run("a", lambda s: [] if s.request else [requested("1")])
    assert store.head().size == 2


def test_a_proposal_that_raises_or_does_not_fit_appends_nothing() -> None:
    store = MemoryEventStore()
    released = e.PointerReleased(generation=1, reason=None)
    with pytest.raises(IllegalTransitionError):
        journal(store).record_pointer("student", lambda _: [refused("x"), released])

    def stop(_: PointerState) -> list[e.EventData]:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        journal(store).record_pointer("student", stop)
    assert store.head().size == 0


def test_conflicts_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def never(_self: Any, stream: str, *_: Any, **__: Any) -> None:
        tries.append(stream)
        raise VersionConflictError(stream, 0, 1)

    monkeypatch.setattr(MemoryEventStore, "append", never)
    with pytest.raises(VersionConflictError):
        journal(MemoryEventStore()).record_pointer("student", lambda _: [refused("x")])
    assert len(tries) == 100


def test_who_acts_is_who_the_journal_is_of_unless_somebody_else_is_named() -> None:
    store = MemoryEventStore()
    journal(store, "ana").record_run("a", lambda _: [requested("1")])
    journal(store, "ana").record_run(
        "a", lambda _: [e.RunCancelled(stage=None, reason="x")], actor="file"
    )
    assert [r.actor for r in store.read_all()] == ["ana", "file"]


def test_a_measurement_is_one_fact_however_often_it_is_said() -> None:
    store = MemoryEventStore()
    first = e.StorageMeasured(store="s", bytes_by_class={"students": 1}, free_bytes=2)
    later = e.StorageMeasured(store="s", bytes_by_class={"students": 9}, free_bytes=1)
    said = journal(store).record_storage(first, "promotion/a")
    assert journal(store).record_storage(later, "promotion/a") == said
    assert journal(store).record_storage(later, "promotion/b").data == later
    assert store.head().size == 2
