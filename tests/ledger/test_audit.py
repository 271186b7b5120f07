"""The pure part of an audit: one pass over bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ledger import events as e
from ledger.audit import LedgerAudit, named_blobs
from ledger.canonical import canonical_json, parse_json
from ledger.identity import identify
from ledger.stores.memory import MemoryEventStore
from ledger.stores.port import NewEvent, StoredEvent, TreeHead
from tests.golden.ledgers import make_schema2
from tests.golden.ledgers.make_schema1 import tell
from tests.ledger.samples import NOW, StageAbandoned, requested


@pytest.fixture(scope="module")
def golden() -> MemoryEventStore:
    return tell()


def audited(store: MemoryEventStore, stored: Sequence[StoredEvent] | None = None) -> LedgerAudit:
    found = LedgerAudit("memory")
    for event in store.read_raw() if stored is None else stored:
        found.add(event)
    found.finish(store.kept_heads(), streams=store.streams(), newer=store.newer_schema())
    return found


def test_every_event_type_of_the_golden_ledger_is_clean(golden: MemoryEventStore) -> None:
    found = audited(golden)
    assert found.problems == []
    assert found.head == golden.head()
    assert len(found.runs) == 4
    assert found.broken == set()
    assert {record.type for record in golden.read_all()} >= {"StageReused", "PromotionAborted"}


def test_one_changed_byte_is_found_wherever_it_is(golden: MemoryEventStore) -> None:
    stored = list(golden.read_raw())
    for place, event in enumerate(stored):
        middle = len(event.raw) // 2
        changed = event.raw[:middle] + bytes([event.raw[middle] ^ 1]) + event.raw[middle + 1 :]
        found = audited(
            golden, [*stored[:place], replace(event, raw=changed), *stored[place + 1 :]]
        )
        assert found.problems, event.raw
        positions = [p.position for p in found.problems if p.position is not None]
        heads = [head.size for head in golden.kept_heads() if head.size <= place]
        assert max(heads, default=0) <= min(positions) <= place


def test_every_broken_stream_is_reported_and_only_once() -> None:
    store = MemoryEventStore()
    run = requested("0.1.0")
    for name in ("a", "b", "c"):
        wanted = run.model_copy(update={"run_id": name})
        events = [
            NewEvent(f"{name}1", wanted),
            NewEvent(f"{name}2", e.StageSkipped(stage="llm_on", reason="never planned")),
            NewEvent(f"{name}3", e.StageSkipped(stage="llm_off", reason="nor this")),
        ]
        store.append(f"run/{name}", 0, events[: 1 if name == "b" else 3], now=NOW, actor="ana")
    store.append("storage", 0, [NewEvent("s", e.RunSucceeded())], now=NOW, actor="ana")
    found = audited(store)
    broken = [p.position for p in found.problems if p.check == "history"]
    assert broken == [1, 5, 7]
    assert found.broken == {"run/a", "run/c", "storage"}


def test_a_run_in_another_runs_stream() -> None:
    store = MemoryEventStore()
    store.append("run/b", 0, [identify("run/b", requested("0.1.0"))], now=NOW, actor="ana")
    [problem] = audited(store).problems
    assert problem.check == "history"


def test_an_id_that_is_not_the_one_of_its_fact(golden: MemoryEventStore) -> None:
    store = MemoryEventStore()
    for record in golden.read_all():
        id_ = "made up" if record.type == "StageReused" else record.id
        event = [NewEvent(id_, record.data)]
        store.append(record.stream, record.version - 1, event, now=record.time, actor=record.actor)
    [problem] = audited(store).problems
    assert (problem.check, problem.what) == ("ids", "its id is not the one of this StageReused")


def test_an_automatic_promotion_under_another_decision_than_its_own() -> None:
    body = e.Generation(
        name="student",
        project="p",
        generation=1,
        kind="promotion",
        automatic=True,
        origin=1,
        digest="sha256:" + "0" * 64,
        size_bytes=1,
        run_id="a",
        promotion_id="a second decision",
        actor="cron",
        previous=e.PreviousGeneration(generation=0, digest=None),
        time=NOW,
    )
    store = MemoryEventStore()
    stream = "pointer/student"
    event = identify(stream, e.PromotionIntended(generation=body))
    store.append(stream, 0, [event], now=NOW, actor="cron")
    [problem] = audited(store).problems
    assert problem.check == "ids"


def test_an_event_that_is_there_twice(golden: MemoryEventStore) -> None:
    stored = list(golden.read_raw())
    again = replace(stored[3], position=4)
    found = audited(
        golden, [*stored[:4], again, *(replace(s, position=s.position + 1) for s in stored[4:])]
    )
    order = [p for p in found.problems if p.check == "order"]
    assert (order[0].position, found.size) == (4, len(stored) + 1)
    assert any(p.what == "its id is that of position 3" for p in order)


def test_bytes_that_are_not_canonical_are_found_though_they_say_the_same() -> None:
    store = MemoryEventStore()
    store.append("run/a", 0, [identify("run/a", requested("0.1.0"))], now=NOW, actor="ana")
    [stored] = store.read_raw()
    spaced = replace(stored, raw=stored.raw.replace(b'":"', b'": "'))
    assert parse_json(spaced.raw) == parse_json(stored.raw)
    found = audited(store, [spaced])
    assert [p.check for p in found.problems] == ["bytes", "heads"]


def test_an_envelope_with_a_member_too_many() -> None:
    store = MemoryEventStore()
    store.append("run/a", 0, [identify("run/a", requested("0.1.0"))], now=NOW, actor="ana")
    [stored] = store.read_raw()
    more = canonical_json({**parse_json(stored.raw), "extra": 1})
    found = audited(store, [replace(stored, raw=more)])
    assert "members are not an envelope's" in found.problems[0].what


def test_a_newer_event_is_counted_and_no_problem() -> None:
    store = MemoryEventStore()
    store.append("run/a", 0, [identify("run/a", requested("0.1.0"))], now=NOW, actor="ana")
    [first] = store.read_raw()
    later = MemoryEventStore()
    newer = canonical_json(
        {
            **parse_json(first.raw),
            "id": "n",
            "version": 2,
            "type": StageAbandoned.model_fields["type"].default,
            "data": {"stage": "llm_on"},
        }
    )
    later.load_raw([first.raw, newer])
    found = audited(later)
    assert found.problems == []
    assert found.newer == 1


def test_heads_kept_elsewhere(golden: MemoryEventStore) -> None:
    cases = {
        "": golden.kept_heads()[4],
        "not those": TreeHead(7, bytes(32)),
        "cut off": TreeHead(1000, golden.head().root),
    }
    for said, head in cases.items():
        found = LedgerAudit("memory")
        for stored in golden.read_raw():
            found.add(stored)
        found.finish(golden.kept_heads(), streams=golden.streams(), newer=None, elsewhere=[head])
        assert [said in p.what for p in found.problems] == ([True] if said else [])


def test_an_empty_ledger_is_a_ledger() -> None:
    found = audited(MemoryEventStore())
    assert (found.problems, found.size, found.head.size) == ([], 0, 0)


def test_what_is_not_stored_is_not_looked_for(golden: MemoryEventStore) -> None:
    named = [n for record in golden.read_all() for n in named_blobs(record)]
    assert any("preplan.pt" in n.what for n in named)
    assert not any("roms" in n.what for n in named)  # INPUTS_PRIVATE: digested, never kept
    assert sum(n.manifest for n in named) > 3


def test_what_a_job_was_given_is_looked_for() -> None:
    said = [n.what for record in make_schema2.tell().read_all() for n in named_blobs(record)]
    run = "of run 20260301T020000Z-7f34"
    assert {f"the task of retrain attempt 1 {run}", f"the profile {run}"} <= set(said)


def test_a_store_whose_streams_are_not_those_of_its_events() -> None:
    store = MemoryEventStore()
    store.append("run/a", 0, [identify("run/a", requested("0.1.0"))], now=NOW, actor="ana")
    found = LedgerAudit("memory")
    for stored in store.read_raw():
        found.add(stored)
    found.finish(store.kept_heads(), streams=["run/a", "run/z"], newer=("X", 1, None))
    assert ["run/z" in p.what or "'X'" in p.what for p in found.problems] == [True, True]


def test_the_golden_file_itself_is_clean() -> None:
    path = Path(__file__).parents[1] / "golden" / "ledgers" / "schema1.jsonl"
    store = MemoryEventStore()
    store.load_raw(path.read_bytes().splitlines())
    assert audited(store).problems == []
