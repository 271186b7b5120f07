"""A ledger moves between stores byte for byte, all pairs, and nothing that is no copy is touched."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.copying import copy
from ledger.errors import LedgerDamagedError, LedgerUnavailableError, NotACopyError
from ledger.stores.memory import MemoryEventStore
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.port import EventStore, NewEvent
from ledger.stores.segments import segment_key
from ledger.stores.sqlite import SqliteEventStore
from tests.ledger.log_objects import FaultyObjects, MemoryObjects, folder_objects
from tests.ledger.samples import NOW, StageAbandoned, requested, skipped

STORES: dict[str, Callable[[Path], EventStore]] = {
    "memory": lambda _: MemoryEventStore(),
    "sqlite": lambda p: SqliteEventStore(p / "ledger.db"),
    "bucket": lambda p: ObjectsEventStore(
        folder_objects(p / "objects"), p / "cache", sleep=lambda s: None
    ),
}
GOLDEN = Path(__file__).parents[1] / "golden" / "ledgers" / "schema1.jsonl"


def fill(store: EventStore, rounds: int = 3) -> None:
    """Appends of several events on several streams, and in the end one that only a later program knows."""
    store.load_raw(*([raw] for raw in GOLDEN.read_bytes().splitlines()))
    for n in range(rounds):
        events = [skipped(f"{n}.{i}", "größe ✓") for i in range(n + 1)]
        store.append("run/x", n * (n + 1) // 2, events, now=NOW, actor="ana")
    store.append("run/y", 0, [NewEvent("r", requested("9.1"))], now=NOW, actor="ana")
    store.append("run/y", 1, [NewEvent("n", StageAbandoned(stage="x"))], now=NOW, actor="ana")


def content(store: EventStore) -> tuple[object, ...]:
    return list(store.read_raw()), store.kept_heads(), store.head(), store.newer_schema()


@pytest.mark.parametrize(
    ("a", "b"), list(itertools.product(STORES, STORES)), ids=lambda name: str(name)
)
def test_every_store_to_every_other_and_back(a: str, b: str, tmp_path: Path) -> None:
    source, target, back = (STORES[name](tmp_path / str(i)) for i, name in enumerate((a, b, a)))
    fill(source)
    seen: list[tuple[int, int]] = []
    head = copy(source, target, progress=lambda *done: seen.append(done))
    assert head == source.head()
    assert content(target) == content(source)
    assert seen[0] == (0, head.size)
    assert seen[-1] == (head.size, head.size)
    copy(target, back)
    assert content(back) == content(source)
    for store in (source, target, back):
        store.close()


@pytest.mark.parametrize("name", STORES)
def test_an_empty_ledger_and_one_that_is_there_already(name: str, tmp_path: Path) -> None:
    source, target = MemoryEventStore(), STORES[name](tmp_path)
    assert copy(source, target) == source.head()
    fill(source)
    copy(source, target)
    before = content(target)
    assert copy(source, target) == source.head()
    assert content(target) == before == content(source)


@pytest.mark.parametrize("name", STORES)
def test_what_was_appended_since_is_brought_over(name: str, tmp_path: Path) -> None:
    source, target = MemoryEventStore(), STORES[name](tmp_path)
    for n in range(5):
        source.append("run/x", 2 * n, [skipped(f"{n}"), skipped(f"{n}b")], now=NOW, actor="ana")
        copy(source, target)
        assert content(target) == content(source)


@pytest.mark.parametrize("name", STORES)
def test_a_target_that_is_no_beginning_is_left_alone(name: str, tmp_path: Path) -> None:
    source = MemoryEventStore()
    for n in range(3):
        source.append("run/x", 2 * n, [skipped(f"{n}"), skipped(f"{n}b")], now=NOW, actor="ana")
    other_data, half, longer = (STORES[name](tmp_path / str(i)) for i in range(3))
    raws = [stored.raw for stored in source.read_raw()]
    other_data.append("run/x", 0, [skipped("0"), skipped("0b")], now=NOW, actor="bob")
    half.load_raw(raws[:2], raws[2:3])
    copy(source, longer)
    longer.append("run/z", 0, [skipped("z")], now=NOW, actor="ana")
    for target, detail in (
        (other_data, "part after 0"),
        (half, "part after 2"),
        (longer, "7 events, more than 6"),
    ):
        before = content(target)
        with pytest.raises(NotACopyError, match=detail):
            copy(source, target)
        assert content(target) == before


def test_an_interrupted_copy_goes_on(tmp_path: Path) -> None:
    source = SqliteEventStore(tmp_path / "ledger.db")
    fill(source)
    bucket = MemoryObjects()
    total = len(source.kept_heads())
    for n in range(0, total, 7):
        line = FaultyObjects(bucket, ["well"] * 7 + ["lost"] * 6)
        with pytest.raises(LedgerUnavailableError):
            copy(source, ObjectsEventStore(line, sleep=lambda s: None))
        assert len(bucket.objects) == min(n + 7, total)
        if n + 7 >= total - 1:
            break
    target = ObjectsEventStore(bucket, sleep=lambda s: None)
    copy(source, target)
    assert content(target) == content(source)


def test_a_damaged_source_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    source = SqliteEventStore(path)
    for n in range(4):
        source.append("run/x", n, [skipped(f"{n}")], now=NOW, actor="ana")
    source.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER events_update")
        db.execute(
            "UPDATE events SET raw = CAST(replace(raw, 'no command', 'no commend') AS BLOB) WHERE rowid = 3"
        )
    db.close()
    target = MemoryEventStore()
    with pytest.raises(LedgerDamagedError, match="size 3") as caught:
        copy(SqliteEventStore(path), target)
    assert (caught.value.where, caught.value.position) == (str(path), 2)
    assert target.head().size == 0


def test_a_target_that_does_not_keep_what_it_gets_is_said() -> None:
    class Lying(MemoryObjects):
        def create(self, key: str, data: bytes) -> None:
            changed = key == segment_key(2)
            super().create(key, data.replace(b"no command", b"no commend") if changed else data)

    source = MemoryEventStore()
    for n in range(4):
        source.append("run/x", n, [skipped(f"{n}")], now=NOW, actor="ana")
    with pytest.raises(LedgerDamagedError, match=segment_key(2)):
        copy(source, ObjectsEventStore(Lying(), sleep=lambda s: None))
