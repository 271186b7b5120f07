"""The contract of ``ledger.stores.port``, on every backend.

A backend is a ``Backend``: how to open the one ledger of a test, again and again. A new one is a row in
``BACKENDS``.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger import events as e
from ledger import records
from ledger.canonical import NotCanonicalError
from ledger.errors import (
    EventTooLargeError,
    InvalidNameError,
    LedgerDamagedError,
    NewerSchemaError,
    VersionConflictError,
)
from ledger.stores.log_port import LogObjects
from ledger.stores.memory import MemoryEventStore
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.port import EventStore, NewEvent
from ledger.stores.sqlite import SqliteEventStore
from ledger.transparency.merkle import tree_root
from tests.ledger.log_objects import MemoryObjects, folder_objects
from tests.ledger.samples import (
    LATER,
    NOW,
    StageAbandoned,
    StageSkippedV2,
    requested,
    skipped,
)


@dataclass(frozen=True)
class Backend:
    """``open`` opens the same ledger each time; ``durable`` ones outlive the object that wrote."""

    open: Callable[[], EventStore]
    durable: bool


def _memory(_: Path) -> Backend:
    store = MemoryEventStore()
    return Backend(lambda: store, durable=False)


def _sqlite(folder: Path) -> Backend:
    return Backend(lambda: SqliteEventStore(folder / "a home" / "ledger.db"), durable=True)


def _bucket(objects: LogObjects, cache: Path | None) -> Backend:
    return Backend(lambda: ObjectsEventStore(objects, cache, sleep=time.sleep), durable=True)


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "bucket in memory": lambda _: _bucket(MemoryObjects(), None),
    "bucket in a folder": lambda p: _bucket(folder_objects(p / "objects"), p / "cache"),
    "bucket in a folder, each alone": lambda p: _bucket(folder_objects(p / "objects"), None),
}
#: Those that several processes may share.
SHARED = ["sqlite", "bucket in a folder", "bucket in a folder, each alone"]


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
def store(backend: Backend) -> Iterator[EventStore]:
    opened = backend.open()
    yield opened
    opened.close()


def say(store: EventStore, stream: str, *keys: str, version: int | None = None) -> None:
    """Append plain events whose ids are ``keys``."""
    at = len(store.read_stream(stream)) if version is None else version
    store.append(stream, at, [skipped(key) for key in keys], now=NOW, actor="ana")


def test_an_empty_ledger(store: EventStore) -> None:
    assert store.read_stream("run/a") == list(store.read_all()) == []
    assert (list(store.read_raw()), store.streams(), store.kept_heads()) == ([], [], [])
    assert (store.head().size, store.head().root) == (0, tree_root([])) == (0, store.root_at(0))
    assert store.newer_schema() is None


def test_versions_run_in_each_stream_and_positions_in_the_ledger(store: EventStore) -> None:
    say(store, "run/b", "1", "2")
    say(store, "pointer/x/y", "3")
    say(store, "run/b", "4")
    places = [(r.position, r.stream, r.version, r.id) for r in store.read_all()]
    assert places == [
        (0, "run/b", 1, "1"),
        (1, "run/b", 2, "2"),
        (2, "pointer/x/y", 1, "3"),
        (3, "run/b", 3, "4"),
    ]
    assert [r.id for r in store.read_stream("run/b", 1)] == ["2", "4"]
    assert [r.id for r in store.read_all(2)] == ["3", "4"]
    assert [r.id for r in store.read_raw(3)] == ["4"]
    assert list(store.read_all(4)) == store.read_stream("run/b", 3) == []


def test_what_append_returns_is_what_is_read(backend: Backend) -> None:
    store = backend.open()
    batch = [
        NewEvent("r", requested("0.1.0")),
        NewEvent("m", e.MetricsRecorded(stage="llm_off", attempt=1, metrics={"a": 1.0, "b": 1e20})),
        skipped("s", "größe ✓ \U0001f680"),
    ]
    written = store.append("run/a", 0, batch, now=NOW, actor="ana")
    assert [r.data for r in written] == [event.data for event in batch]
    assert {(r.time, r.actor, r.stream) for r in written} == {(NOW, "ana", "run/a")}
    assert [r.schema for r in written] == [event.data.schema_version for event in batch]
    assert store.read_stream("run/a") == written == list(backend.open().read_all())


def test_raw_is_the_canonical_envelope(store: EventStore) -> None:
    say(store, "run/a", "k")
    (stored,) = store.read_raw()
    assert stored.raw == records.encode(
        skipped("k"), stream="run/a", version=1, now=NOW, actor="ana"
    )
    assert (stored.position, stored.id, stored.stream, stored.version) == (0, "k", "run/a", 1)


@pytest.mark.parametrize("expected", [0, 2, 3, -1])
def test_a_wrong_expected_version_appends_nothing(store: EventStore, expected: int) -> None:
    say(store, "run/a", "1")
    with pytest.raises(VersionConflictError) as caught:
        say(store, "run/a", "2", "3", version=expected)
    error = caught.value
    assert (error.stream, error.expected, error.actual) == ("run/a", expected, 1)
    assert store.head().size == 1


def test_an_append_is_decided_on_the_newest_state(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    say(store, "run/a", "1")
    say(other, "run/a", "2", "3", version=1)
    say(store, "run/a", "4", version=3)
    say(other, "run/b", "5", version=0)
    with pytest.raises(VersionConflictError) as caught:
        say(store, "run/b", "6", version=0)
    assert caught.value.actual == 1
    assert [r.id for r in store.append("run/b", 9, [skipped("5")], now=LATER, actor="x")] == ["5"]


def test_the_same_fact_again_is_the_first_record(backend: Backend) -> None:
    store = backend.open()
    first = store.append("run/a", 0, [skipped("1"), skipped("2")], now=NOW, actor="ana")
    say(store, "run/a", "3")
    for version in (0, 1, 9):
        again = backend.open().append(
            "run/a", version, [skipped("1"), skipped("2")], now=LATER, actor="bob"
        )
        assert again == first
    assert store.head().size == 3
    assert len(store.kept_heads()) == 2


def test_other_data_under_a_known_id_is_a_conflict(store: EventStore) -> None:
    say(store, "run/a", "1")
    other = [
        ("run/a", skipped("1", "another reason")),
        ("run/b", skipped("1")),
        ("run/a", NewEvent("1", e.RunSucceeded())),
    ]
    for stream, event in other:
        for version in (0, 1):
            with pytest.raises(VersionConflictError):
                store.append(stream, version, [event], now=NOW, actor="ana")
    assert store.head().size == 1


@pytest.mark.parametrize("keys", [("1", "new"), ("new", "1")])
def test_a_batch_of_which_only_some_are_known_is_a_conflict(
    store: EventStore, keys: tuple[str, str]
) -> None:
    say(store, "run/a", "1")
    for version in (0, 1):
        with pytest.raises(VersionConflictError):
            say(store, "run/a", *keys, version=version)
    assert [r.id for r in store.read_all()] == ["1"]


def test_a_batch_is_all_or_none(store: EventStore) -> None:
    large = skipped("large", "x" * e.EVENT_LIMIT_BYTES)
    with pytest.raises(EventTooLargeError):
        store.append("run/a", 0, [skipped("1"), large], now=NOW, actor="ana")
    with pytest.raises(NotCanonicalError):
        store.append("run/a", 0, [skipped("1"), skipped("2", "\ud800")], now=NOW, actor="ana")
    assert store.head().size == 0
    say(store, "run/a", "1")
    assert store.head().size == 1


def test_a_malformed_batch_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match="at least one"):
        store.append("run/a", 0, [], now=NOW, actor="ana")
    with pytest.raises(ValueError, match="id of its own"):
        say(store, "run/a", "1", "1")
    for stream in ("", "run", "run/", "other/a", "run/a\nb"):
        with pytest.raises(InvalidNameError):
            store.append(stream, 0, [skipped("1")], now=NOW, actor="ana")
    assert store.head().size == 0


def test_streams_come_in_the_order_of_their_first_events(store: EventStore) -> None:
    for i, stream in enumerate(["run/b", "storage", "run/a", "run/b", "pointer/\U0010ffff"]):
        say(store, stream, str(i))
    assert store.streams() == ["run/b", "storage", "run/a", "pointer/\U0010ffff"]
    assert store.streams("run/") == ["run/b", "run/a"]
    assert store.streams("pointer/") == ["pointer/\U0010ffff"]
    assert store.streams("run/a%") == []


def test_a_head_is_kept_with_every_append(backend: Backend) -> None:
    store = backend.open()
    sizes = [0]
    for i, count in enumerate([1, 3, 2, 1]):
        say(store, f"run/{i % 2}", *(f"{i}.{j}" for j in range(count)))
        sizes.append(sizes[-1] + count)
    raws = [stored.raw for stored in store.read_raw()]
    kept = backend.open().kept_heads()
    assert [(h.size, h.root) for h in kept] == [(n, tree_root(raws[:n])) for n in sizes[1:]]
    assert store.head() == kept[-1]
    assert [store.root_at(n) for n in range(8)] == [tree_root(raws[:n]) for n in range(8)]
    for outside in (-1, 8):
        with pytest.raises(ValueError, match="7 events"):
            store.root_at(outside)


def test_backends_agree_on_every_byte(tmp_path: Path) -> None:
    stores = [make(tmp_path / name).open() for name, make in BACKENDS.items()]
    for store in stores:
        say(store, "run/a", "1", "2")
        say(store, "run/b", "3")
    heads = [store.kept_heads() for store in stores]
    raws = [list(store.read_raw()) for store in stores]
    assert all(h == heads[0] for h in heads)
    assert all(r == raws[0] for r in raws)


def test_reading_goes_on_over_many_pages_while_another_appends(backend: Backend) -> None:
    store = backend.open()
    store.append("run/a", 0, [skipped(str(i)) for i in range(1200)], now=NOW, actor="ana")
    reading = store.read_all(1)
    assert next(reading).position == 1
    say(backend.open(), "run/a", "late", version=1200)
    assert [r.position for r in reading][-1] in (1199, 1200)


@pytest.mark.parametrize("data", [StageAbandoned(stage="x"), StageSkippedV2(stages=("x",))])
def test_an_older_program_reads_on_and_refuses_to_append(
    backend: Backend, data: e.EventData
) -> None:
    store = backend.open()
    store.append("run/a", 0, [NewEvent("r", requested("9.1.0"))], now=NOW, actor="ana")
    older = backend.open()
    say(older, "run/b", "1")
    store.append("run/a", 1, [NewEvent("n", data)], now=NOW, actor="ana")
    for opened in (older, backend.open(), store):
        assert [r.id for r in opened.read_all()] == ["r", "1", "n"]
        assert isinstance(opened.read_stream("run/a")[1].data, e.NewerEvent)
        assert opened.newer_schema() == (data.type, data.schema_version, "9.1.0")
        with pytest.raises(NewerSchemaError) as caught:
            say(opened, "run/b", "2", version=1)
        assert (caught.value.type, caught.value.written_by) == (data.type, "9.1.0")
    assert store.head().size == 3


def test_closing_twice_is_closing_once(backend: Backend) -> None:
    store = backend.open()
    say(store, "run/a", "1")
    store.close()
    store.close()
    assert backend.open().head().size == 1


def test_raw_bytes_are_taken_over_as_they_are(backend: Backend, tmp_path: Path) -> None:
    source = MemoryEventStore()
    say(source, "run/a", "1", "2")
    source.append("run/b", 0, [NewEvent("n", StageAbandoned(stage="x"))], now=NOW, actor="ana")
    raws = [stored.raw for stored in source.read_raw()]
    store = backend.open()
    store.load_raw(raws[:2])
    store.load_raw(raws[2:], at=2)
    for opened in (store, backend.open()):
        assert list(opened.read_raw()) == list(source.read_raw())
        assert opened.kept_heads() == source.kept_heads()
        assert opened.newer_schema() == ("StageAbandoned", 1, None)


def test_raw_bytes_that_do_not_fit_are_refused(backend: Backend) -> None:
    store = backend.open()
    say(store, "run/a", "1")
    one, again, late, two, same_id = (
        records.encode(skipped(key), stream=stream, version=version, now=NOW, actor="ana")
        for key, stream, version in [
            ("1", "run/a", 1),
            ("2", "run/a", 1),
            ("2", "run/a", 3),
            ("2", "run/a", 2),
            ("1", "run/b", 1),
        ]
    )
    for batch in ([one], [again], [late], [same_id], [two, late.replace(b'"2"', b'"3"'), two]):
        with pytest.raises(VersionConflictError):
            store.load_raw(batch, at=1)
    for at in (0, 2):
        with pytest.raises(VersionConflictError):
            store.load_raw([two], at=at)
    with pytest.raises(LedgerDamagedError):
        store.load_raw([b'{"id":"2"}'], at=1)
    assert [r.id for r in backend.open().read_all()] == ["1"]
    store.load_raw([two], at=1)
    assert [r.id for r in store.read_all()] == ["1", "2"]


# --- several processes at once -----------------------------------------------------------------

WRITERS, APPENDS = 8, 25


def _write_many(backend_name: str, folder: Path, writer: int, stream: str) -> None:
    """Appends of one process: on a conflict read again and decide again, as a launcher does."""
    store = BACKENDS[backend_name](folder).open()
    version = 0
    for i in range(APPENDS):
        event = skipped(f"{writer}.{i}")
        while True:
            try:
                version = store.append(stream, version, [event], now=NOW, actor=f"w{writer}")[
                    -1
                ].version
                break
            except VersionConflictError as exc:
                version = exc.actual


@pytest.mark.parametrize("streams", [1, WRITERS], ids=["one stream", "a stream each"])
@pytest.mark.parametrize("backend_name", SHARED)
def test_writers_in_several_processes(backend_name: str, streams: int, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_many, args=(backend_name, tmp_path, n, f"run/{n % streams}"))
        for n in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [w.exitcode for w in writers] == [0] * WRITERS
    store = BACKENDS[backend_name](tmp_path).open()
    found = list(store.read_all())
    assert sorted(r.id for r in found) == sorted(
        f"{w}.{i}" for w in range(WRITERS) for i in range(APPENDS)
    )
    for stream in store.streams():
        versions = [r.version for r in store.read_stream(stream)]
        assert versions == list(range(1, WRITERS * APPENDS // streams + 1))
    for n in range(WRITERS):
        own = [r.id for r in found if r.actor == f"w{n}"]
        assert own == [f"{n}.{i}" for i in range(APPENDS)]
    assert store.head().root == tree_root(stored.raw for stored in store.read_raw())
    assert len(store.kept_heads()) == WRITERS * APPENDS
