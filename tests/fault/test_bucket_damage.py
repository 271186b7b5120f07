"""The ledger in a bucket that somebody changed by hand, and caches that are not what they should be.

A changed bucket is said, naming the segment and the position, and nothing is written. A cache is never
trusted further than it can be checked: whatever is wrong with it, readers and writers see the bucket.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ledger.errors import LedgerDamagedError, LedgerUnavailableError, NewerSchemaError
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import LOG_PREFIX, segment_key
from tests.ledger.log_objects import FaultyObjects, MemoryObjects
from tests.ledger.samples import NOW, skipped

COUNT = 6


def opened(
    bucket: MemoryObjects | FaultyObjects, cache: Path | None = None, boot: str = ""
) -> ObjectsEventStore:
    return ObjectsEventStore(bucket, cache, sleep=lambda seconds: None, boot=boot)


def filled(where: str = "memory://bucket", mark: str = "") -> MemoryObjects:
    """A bucket with segments of two events each, on two streams."""
    bucket = MemoryObjects(where)
    store = opened(bucket)
    for n in range(COUNT):
        events = [skipped(f"{mark}{n}.{i}") for i in range(2)]
        store.append(f"run/{n % 2}", n // 2 * 2, events, now=NOW, actor="ana")
    return bucket


def ids(store: ObjectsEventStore) -> list[str]:
    return [r.id for r in store.read_all()]


def expected(mark: str = "") -> list[str]:
    return [f"{mark}{n}.{i}" for n in range(COUNT) for i in range(2)]


# --- the bucket was changed -----------------------------------------------------------------------


def cold_says(bucket: MemoryObjects) -> LedgerDamagedError:
    """What a reader that starts cold, an audit and a writer say: the same; and nothing is written."""
    before = dict(bucket.objects)
    with pytest.raises(LedgerDamagedError) as audited:
        list(opened(bucket).read_raw())
    with pytest.raises(LedgerDamagedError) as read:
        list(opened(bucket).read_all())
    with pytest.raises(LedgerDamagedError) as written:
        opened(bucket).append("run/new", 0, [skipped("new")], now=NOW, actor="ana")
    assert str(audited.value) == str(read.value) == str(written.value)
    assert bucket.objects == before
    return audited.value


@pytest.mark.parametrize("gone", range(1, COUNT))
def test_a_segment_deleted_by_hand_is_named(gone: int) -> None:
    bucket = filled()
    del bucket.objects[segment_key(gone)]
    error = cold_says(bucket)
    assert f"{segment_key(gone)} is gone" in str(error)
    assert error.position == 2 * (gone - 1)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "an event": lambda data: data.replace(b"no command", b"no commend", 1),
    "an event removed": lambda data: data[: data.rindex(b"\n", 0, -1) + 1],
    "events reordered": lambda data: b"\n".join(
        [(lines := data.split(b"\n"))[0], lines[2], lines[1], b""]
    ),
    "cut short": lambda data: data[:-20],
    "no last newline": lambda data: data[:-1],
    "one line more": lambda data: data + b"{}\n",
    "emptied": lambda data: b"",
    "something else": lambda data: b"\x00\xff\n\n",
    "a header's sequence": lambda data: data.replace(b'"sequence":', b'"sequence":1'),
    "a header's first": lambda data: data.replace(b'"first":', b'"first":9'),
    "a header's previous": lambda data: data.replace(b'"previous":', b'"previous":null,"x":', 1),
    "a header's digest": lambda data: data.replace(b"sha256:", b"sha256:0", 1),
    "a header's root": lambda data: data.replace(b'"root":"', b'"root":"00', 1),
    "a header's root's form": lambda data: data.replace(b'"root":"', b'"root":"zz', 1),
    "a header's count": lambda data: data.replace(b'"count":2', b'"count":true', 1),
    "a header of no format": lambda data: data.replace(b'"format":1', b'"format":"1"', 1),
    "another's place": lambda data: filled(mark="other").objects[segment_key(3)],
}


@pytest.mark.parametrize("at", [3, COUNT], ids=["in the middle", "the last"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_segment_changed_by_hand_is_named(change: str, at: int) -> None:
    bucket = filled()
    data = bucket.objects[segment_key(at)]
    bucket.objects[segment_key(at)] = CHANGES[change](data)
    assert bucket.objects[segment_key(at)] != data
    error = cold_says(bucket)
    assert segment_key(at) in str(error)
    assert error.position == 2 * (at - 1)
    assert list(before_the_damage(bucket)) == expected()[: 2 * (at - 1)]


def before_the_damage(bucket: MemoryObjects) -> Iterator[str]:
    """What an audit gets to see until it hears of the damage."""
    with suppress(LedgerDamagedError):
        for stored in opened(bucket).read_raw():
            yield stored.id


def test_a_whole_event_changed_with_its_root_shows_in_the_next_segment() -> None:
    """Whoever rewrites a segment consistently must rewrite all that follow."""
    bucket, other = filled(), filled(mark="other")
    bucket.objects[segment_key(1)] = other.objects[segment_key(1)]
    error = cold_says(bucket)
    assert segment_key(2) in str(error)
    assert segment_key(1) in str(error)


def test_the_last_segment_cut_off_shows_to_whoever_had_read_it(tmp_path: Path) -> None:
    bucket = filled()
    assert ids(opened(bucket, tmp_path)) == expected()
    kept = bucket.objects.pop(segment_key(COUNT))
    for call in (ids, lambda s: s.append("run/0", 6, [skipped("n")], now=NOW, actor="ana")):
        with pytest.raises(LedgerDamagedError, match=f"{segment_key(COUNT)} is gone") as caught:
            call(opened(bucket, tmp_path))
        assert caught.value.position == 2 * (COUNT - 1)
    assert ids(opened(bucket)) == expected()[:-2], (
        "only a head kept elsewhere can show it to others"
    )
    bucket.objects[segment_key(COUNT)] = kept
    assert ids(opened(bucket, tmp_path)) == expected()


def test_the_last_segment_changed_shows_to_whoever_had_read_it(tmp_path: Path) -> None:
    bucket = filled()
    ids(opened(bucket, tmp_path))
    bucket.objects[segment_key(COUNT)] += b"\n"
    with pytest.raises(LedgerDamagedError, match=f"{segment_key(COUNT)} is not what it was"):
        ids(opened(bucket, tmp_path))


def test_an_emptied_bucket_is_no_empty_ledger_to_whoever_had_read_it(tmp_path: Path) -> None:
    bucket = filled()
    ids(opened(bucket, tmp_path))
    bucket.objects.clear()
    with pytest.raises(LedgerDamagedError, match=f"remove the cache {tmp_path}"):
        opened(bucket, tmp_path).append("run/a", 0, [skipped("n")], now=NOW, actor="ana")
    assert bucket.objects == {}
    shutil.rmtree(tmp_path)
    assert ids(opened(bucket, tmp_path)) == []


def test_a_gap_filled_by_a_writer_that_did_not_look_is_seen_by_all() -> None:
    bucket = filled()
    warm = opened(bucket)
    ids(warm)
    store = opened(bucket)
    for n in range(3):
        store.append("run/c", n, [skipped(f"c{n}")], now=NOW, actor="ana")
    del bucket.objects[segment_key(COUNT + 1)]
    warm.append("run/d", 0, [skipped("d")], now=NOW, actor="ana")
    assert segment_key(COUNT + 2) in str(cold_says(bucket))
    with pytest.raises(LedgerDamagedError, match=segment_key(COUNT + 2)):
        ids(warm)


def test_an_id_twice_is_damage_even_in_a_chain_that_holds() -> None:
    bucket = filled()
    forged = next(opened(bucket).read_raw()).raw.replace(b'"version":1', b'"version":7')
    store = opened(bucket)
    store._admit = lambda *args: None  # type: ignore[method-assign, misc]
    with pytest.raises(LedgerDamagedError, match="second time"):
        store.load_raw([forged], at=2 * COUNT)
    with pytest.raises(LedgerDamagedError, match=r"position 12: .*second time"):
        ids(opened(bucket))


def test_what_else_lies_there_is_passed_over() -> None:
    bucket = filled()
    for name in ("README", "00000000000a", "0000000000001", "000000000001.bak"):
        bucket.objects[LOG_PREFIX + name] = b"?"
    assert ids(opened(bucket)) == expected()


def test_a_later_format_is_left_alone() -> None:
    bucket = filled()
    data = bucket.objects[segment_key(COUNT)].replace(b'"format":1', b'"format":2,"more":[]')
    bucket.objects[segment_key(COUNT)] = data
    for call in (ids, lambda s: s.append("run/a", 0, [skipped("n")], now=NOW, actor="ana")):
        with pytest.raises(NewerSchemaError, match="upgrade"):
            call(opened(bucket))
    assert len(bucket.objects) == COUNT


# --- the cache is not what it should be -----------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path) -> tuple[MemoryObjects, Path]:
    """A bucket, and a cache of it that is up to date."""
    bucket = filled()
    store = opened(bucket, tmp_path / "cache")
    assert ids(store) == expected()
    store.close()
    return bucket, tmp_path / "cache"


def file_of(cache: Path) -> Path:
    (path,) = cache.glob("segments-*.db")
    return path


def sees_all(bucket: MemoryObjects, cache: Path) -> None:
    """A reader and a writer with this cache see the bucket as one without any does, and leave it whole."""
    store = opened(bucket, cache)
    assert ids(store) == expected()
    assert store.streams() == ["run/0", "run/1"]
    assert [r.version for r in store.read_stream("run/1")] == [*range(1, COUNT + 1)]
    assert store.kept_heads() == opened(bucket).kept_heads()
    store.append("run/1", COUNT, [skipped("new")], now=NOW, actor="ana")
    store.close()
    assert ids(opened(bucket)) == [*expected(), "new"] == ids(opened(bucket, cache))


def test_a_cache_saves_every_read_of_what_is_known(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    line = FaultyObjects(bucket)
    store = opened(line, cache)
    assert ids(store) == expected()
    assert line.calls == [f"read {segment_key(COUNT)}", f"list {segment_key(COUNT)}"]
    line.calls.clear()
    store.append("run/0", COUNT, [skipped("new")], now=NOW, actor="ana")
    assert line.calls == [f"create {segment_key(COUNT + 1)}"]
    line.calls.clear()
    store.read_stream("run/0")
    assert line.calls == [f"read {segment_key(COUNT + 2)}"]


def test_a_cache_that_was_lost(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    shutil.rmtree(cache)
    sees_all(bucket, cache)


def test_a_cache_lost_under_an_open_store(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    store = opened(bucket, cache)
    assert len(ids(store)) == 2 * COUNT
    shutil.rmtree(cache)
    store.append("run/0", COUNT, [skipped("new")], now=NOW, actor="ana")
    assert ids(store) == [*expected(), "new"]


@pytest.mark.parametrize("named_alike", [True, False])
def test_a_cache_of_another_bucket(tmp_path: Path, named_alike: bool) -> None:
    where = "memory://bucket" if named_alike else "memory://other"
    other = filled(where, mark="other")
    assert len(ids(opened(other, tmp_path))) == 2 * COUNT
    sees_all(filled(), tmp_path)


def test_a_cache_of_another_bucket_for_an_empty_one(tmp_path: Path) -> None:
    ids(opened(filled("memory://other"), tmp_path))
    bucket = MemoryObjects()
    store = opened(bucket, tmp_path)
    assert ids(store) == []
    store.append("run/a", 0, [skipped("1")], now=NOW, actor="ana")
    assert ids(opened(bucket)) == ["1"]


@pytest.mark.parametrize("left", [0, 1, 100, 4096, 10_000, -1])
def test_a_cache_cut_short(cached: tuple[MemoryObjects, Path], left: int) -> None:
    bucket, cache = cached
    path = file_of(cache)
    os.truncate(path, left if left >= 0 else path.stat().st_size - 4096)
    sees_all(bucket, cache)


def test_a_cache_that_is_something_else(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    file_of(cache).write_bytes(b"not a database " * 1000)
    sees_all(bucket, cache)
    path = file_of(cache)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE segments (x)")
    db.close()
    assert ids(opened(bucket, cache))[-1] == "new"


STATEMENTS = [
    "DELETE FROM events WHERE position = 3",
    "DELETE FROM events WHERE position >= 8",
    "DELETE FROM segments WHERE sequence = 2",
    "DELETE FROM events",
    "DELETE FROM about",
    "UPDATE events SET version = version + 100 WHERE stream = 'run/1'",
    "UPDATE events SET id = 'x' WHERE position = 5",
    "UPDATE events SET sequence = 1",
    "UPDATE segments SET data = replace(data, 'no command', 'no commend')",
    "UPDATE segments SET digest = 'sha256:0' WHERE sequence = 6",
    "UPDATE segments SET frontier = x'00' WHERE sequence = 6",
    "DROP TABLE events",
    "DROP TABLE about",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_cache_changed_by_hand(cached: tuple[MemoryObjects, Path], statement: str) -> None:
    bucket, cache = cached
    with sqlite3.connect(file_of(cache)) as db:
        db.execute(statement)
    db.close()
    assert ids(opened(bucket, cache)) == expected()
    assert [r.version for r in opened(bucket, cache).read_stream("run/1")] == [1, 2, 3, 4, 5, 6]


def test_a_cache_with_noise_anywhere(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    good = file_of(cache).read_bytes()
    chance = random.Random(7)
    for _ in range(60):
        shutil.rmtree(cache)
        cache.mkdir()
        at = chance.randrange(len(good))
        noise = chance.randbytes(chance.choice([1, 8, 64]))
        path = cache / "segments-000001.db"
        path.write_bytes(good[:at] + noise + good[at + len(noise) :])
        assert ids(opened(bucket, cache)) == expected(), at


def test_a_cache_of_another_boot_is_checked_and_kept(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    line = FaultyObjects(bucket)
    store = opened(line, cache, boot="another")
    assert ids(store) == expected()
    assert line.calls == [f"read {segment_key(COUNT)}", f"list {segment_key(COUNT)}"]
    assert file_of(cache).name == "segments-000002.db"


def test_a_cache_of_another_boot_is_good_up_to_its_damage(
    cached: tuple[MemoryObjects, Path],
) -> None:
    bucket, cache = cached
    with sqlite3.connect(file_of(cache)) as db:
        db.execute("UPDATE segments SET data = x'00' WHERE sequence = 4")
    db.close()
    line = FaultyObjects(bucket)
    assert ids(opened(line, cache, boot="another")) == expected()
    assert f"list {segment_key(3)}" in line.calls
    assert f"read {segment_key(2)}" not in line.calls


def test_two_stores_replace_one_damaged_cache_and_go_on_together(
    cached: tuple[MemoryObjects, Path],
) -> None:
    bucket, cache = cached
    first, second = opened(bucket, cache), opened(bucket, cache)
    assert ids(first) == ids(second) == expected()
    with sqlite3.connect(file_of(cache)) as db:
        db.execute("DELETE FROM events WHERE position = 3")
    db.close()
    assert ids(first) == ids(second) == expected()
    first.append("run/0", COUNT, [skipped("new")], now=NOW, actor="ana")
    assert ids(second) == [*expected(), "new"]
    assert file_of(cache).name == "segments-000002.db"


def test_no_room_for_a_cache_means_memory(tmp_path: Path) -> None:
    bucket = filled()
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    sees_all(bucket, blocked / "cache")


def test_a_cache_that_becomes_unwritable_means_memory(
    cached: tuple[MemoryObjects, Path],
) -> None:
    bucket, cache = cached
    store = opened(bucket, cache)
    assert ids(store) == expected()
    with sqlite3.connect(file_of(cache)) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.close()
    # Full, as far as this connection goes.
    store._caches.current()._file.rows(f"PRAGMA max_page_count={pages}")
    for n in range(40):
        store.append("run/0", COUNT + n, [skipped(f"n{n}", "x" * 2000)], now=NOW, actor="ana")
    assert ids(store) == [*expected(), *(f"n{n}" for n in range(40))] == ids(opened(bucket))


def test_an_unreachable_bucket_is_said_and_not_answered_from_the_cache(
    cached: tuple[MemoryObjects, Path],
) -> None:
    bucket, cache = cached

    class Away(FaultyObjects):
        def read(self, key: str) -> bytes | None:
            self.plan, self._deaf = [], True
            return super().read(key)

    with pytest.raises(LedgerUnavailableError, match="memory://bucket: no answer"):
        ids(opened(Away(bucket), cache))


def test_a_reader_writes_nothing_to_the_bucket(cached: tuple[MemoryObjects, Path]) -> None:
    bucket, cache = cached
    store = ObjectsEventStore(bucket, cache, sleep=lambda s: None, read_only=True)
    assert ids(store) == expected()
    with pytest.raises(LedgerUnavailableError, match="opened for reading"):
        store.append("run/0", COUNT, [skipped("new")], now=NOW, actor="ana")
    with pytest.raises(LedgerUnavailableError, match="opened for reading"):
        store.load_raw([b"{}"], at=2 * COUNT)
    assert len(bucket.objects) == COUNT
