"""Packs of segments: what lies in them, who leaves them, and that nobody believes one that is not the log's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.stores.log_port import LogObjects
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.packs import PACKED, pack_key
from ledger.stores.segments import segment_key
from tests.ledger.log_objects import FaultyObjects, MemoryObjects
from tests.ledger.samples import NOW, skipped


def opened(objects: LogObjects, cache: Path | None = None, **more: bool) -> ObjectsEventStore:
    return ObjectsEventStore(objects, cache, sleep=lambda seconds: None, **more)


def append(store: ObjectsEventStore, numbers: Iterable[int], stream: str = "run/a") -> None:
    for number in numbers:
        store.append(stream, number, [skipped(f"{stream}{number}")], now=NOW, actor="ana")


def log_of(count: int, stream: str = "run/a") -> MemoryObjects:
    """A bucket with so many segments of one event each, and the packs that come of them."""
    bucket = MemoryObjects()
    append(opened(bucket), range(count), stream)
    return bucket


def packs_in(bucket: MemoryObjects) -> list[str]:
    return sorted(key for key in bucket.objects if not key.startswith("ledger/log/"))


def segments_in(bucket: MemoryObjects, first: int, last: int) -> bytes:
    return b"".join(bucket.objects[segment_key(n)] for n in range(first, last + 1))


@pytest.fixture(scope="module")
def made() -> MemoryObjects:
    """150 segments; copy it before you change it."""
    return log_of(150)


@pytest.fixture
def bucket(made: MemoryObjects) -> MemoryObjects:
    copy = MemoryObjects()
    copy.objects = dict(made.objects)
    return copy


def read_by_stranger(bucket: MemoryObjects) -> tuple[list[str], list[str]]:
    """(ids of all events, calls) of a reader with no cache."""
    line = FaultyObjects(bucket)
    return [event.id for event in opened(line, read_only=True).read_all()], line.calls


def test_a_pack_is_64_segments_laid_end_to_end(bucket: MemoryObjects) -> None:
    assert packs_in(bucket) == ["ledger/packs/64/000000000064", "ledger/packs/64/000000000128"]
    for last in (64, 128):
        assert bucket.objects[pack_key(last)] == segments_in(bucket, last - 63, last)


def test_the_append_that_fills_it_leaves_it() -> None:
    bucket = log_of(63)
    assert packs_in(bucket) == []
    append(opened(bucket), [63])
    assert packs_in(bucket) == [pack_key(64)]


def test_a_batch_is_one_segment_in_it() -> None:
    bucket = MemoryObjects()
    store = opened(bucket)
    for number in range(PACKED):
        batch = [skipped(f"{number}-{i}") for i in range(number % 3 + 1)]
        store.append(f"run/{number}", 0, batch, now=NOW, actor="ana")
    ids, _ = read_by_stranger(bucket)
    assert ids == [event.id for event in store.read_all()]
    assert bucket.objects[pack_key(64)] == segments_in(bucket, 1, 64)


def test_who_comes_from_afar_reads_packs(bucket: MemoryObjects) -> None:
    ids, calls = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]
    reads = sorted(call for call in set(calls) if call.startswith("read"))
    wanted = [*(pack_key(n) for n in (64, 128)), *map(segment_key, (64, *range(128, 151)))]
    assert reads == sorted(f"read {key}" for key in wanted)
    # Whether there are many, then the packs, then the segments past those; nothing of what the packs have.
    assert [call for call in calls if call.startswith("list")] == [
        f"list {segment_key(0)}",
        f"list {pack_key(0)}",
        f"list {segment_key(127)}",
    ]


def test_who_was_away_for_a_little_asks_for_no_packs(bucket: MemoryObjects, tmp_path: Path) -> None:
    store = opened(bucket, tmp_path)
    store.head()
    append(opened(bucket), range(150, 155))
    line = FaultyObjects(bucket)
    assert opened(line, tmp_path).head().size == 155
    assert [call for call in line.calls if "packs" in call] == []


@pytest.mark.parametrize("known", [0, 1, 30, 63, 64, 65, 100, 128, 149, 150])
@pytest.mark.parametrize("follows", [False, True])
def test_from_wherever_one_goes_on_the_log_is_the_same(
    made: MemoryObjects, known: int, follows: bool, tmp_path: Path
) -> None:
    """``follows``: it was open all the time; else it comes back with its cache."""
    beginning, line = MemoryObjects(), FaultyObjects(made)
    beginning.objects = {
        key: data for key, data in made.objects.items() if key <= segment_key(known)
    }
    line.inner = beginning
    store = opened(line, tmp_path)
    assert store.head().size == known
    line.inner = made
    if not follows:
        store.close()
    assert [event.id for event in store.read_all()] == [f"run/a{n}" for n in range(150)]
    singly = opened(made, packed=False)
    assert (store.head(), store.kept_heads()) == (singly.head(), singly.kept_heads())
    if known <= 30:
        assert f"read {pack_key(128)}" in line.calls
        assert f"read {segment_key(100)}" not in line.calls


def test_a_follower_of_a_quiet_log_asks_for_nothing_more(bucket: MemoryObjects) -> None:
    line = FaultyObjects(bucket)
    store = opened(line)
    store.head()
    line.calls.clear()
    store.head()
    assert line.calls == [f"read {segment_key(151)}"]


@pytest.mark.parametrize("behind", [1, 3, 4, 5, 12, 13, 14, 70, 77, 78, 149])
def test_a_follower_reads_what_is_new_and_one_more(made: MemoryObjects, behind: int) -> None:
    """Nothing beyond the end, however far away that is."""
    line = FaultyObjects(MemoryObjects())
    line.inner.objects |= {  # type: ignore[attr-defined]
        key: made.objects[key] for key in map(segment_key, range(1, 151 - behind))
    }
    store = opened(line)
    store.head()
    line.inner, line.calls = made, []
    assert store.head().size == 150
    beyond = [call for call in line.calls if call == f"read {segment_key(151)}"]
    assert len(beyond) == (behind < 4)
    assert f"read {segment_key(152)}" not in line.calls


def test_a_follower_takes_no_emptied_segment_for_an_absent_one(bucket: MemoryObjects) -> None:
    store = opened(bucket)
    store.head()
    bucket.objects[segment_key(151)] = b""
    with pytest.raises(LedgerDamagedError, match="is no segment"):
        store.head()


def test_no_pack_will_do_where_each_segment_is_wanted(bucket: MemoryObjects) -> None:
    line = FaultyObjects(bucket)
    assert opened(line, packed=False).head().size == 150
    raw = list(opened(line).read_raw())
    assert len(raw) == 150
    assert not [call for call in line.calls if "packs" in call]


# --- packs that are not the log's ---


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0), change=st.sampled_from(["flip", "cut", "add", "empty", "twice", "line"]))
def test_a_damaged_pack_is_passed_over(made: MemoryObjects, at: int, change: str) -> None:
    bucket = MemoryObjects()
    bucket.objects = dict(made.objects)
    good = bucket.objects[pack_key(64)]
    at %= len(good)
    bad = {
        "flip": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
        "cut": good[:at],
        "add": good + good[:at] + b"{",
        "empty": b"",
        "twice": good + good,
        "line": good.replace(b"\n", b"\n\n", 1),
    }[change]
    bucket.objects[pack_key(64)] = bad
    ids, calls = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]
    assert f"read {segment_key(17)}" in calls
    assert f"read {segment_key(100)}" not in calls


def test_a_pack_of_another_log_is_passed_over(bucket: MemoryObjects) -> None:
    """It hangs together in itself; its last segment is not this log's."""
    other = log_of(128, "run/other")
    for last in (64, 128):
        bucket.objects[pack_key(last)] = other.objects[pack_key(last)]
    ids, _ = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]


def test_a_pack_that_ends_well_and_began_elsewhere_is_passed_over(bucket: MemoryObjects) -> None:
    other = log_of(64, "run/other")
    forged = segments_in(other, 1, 63) + bucket.objects[segment_key(64)]
    bucket.objects[pack_key(64)] = forged
    ids, _ = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]


def test_packs_exchanged_are_passed_over(bucket: MemoryObjects) -> None:
    keys = (pack_key(64), pack_key(128))
    first, second = (bucket.objects[key] for key in keys)
    bucket.objects |= dict(zip(keys, (second, first), strict=True))
    ids, calls = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]
    assert f"read {segment_key(100)}" in calls


def test_what_else_lies_there_is_passed_over(bucket: MemoryObjects) -> None:
    for name in ("64/000000000100", "64/notes.txt", "64/0000000000640", "4096/000000004096"):
        bucket.objects[f"ledger/packs/{name}"] = b"whatever"
    ids, _ = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]


# --- segments that are not there ---


@pytest.mark.parametrize("gone", [1, 17, 63, 100])
def test_a_segment_lost_inside_a_pack_stops_nobody_but_the_auditor(
    bucket: MemoryObjects, gone: int
) -> None:
    del bucket.objects[segment_key(gone)]
    ids, _ = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(150)]
    with pytest.raises(LedgerDamagedError, match=f"{segment_key(gone)} is gone") as caught:
        list(opened(bucket).read_raw())
    assert caught.value.position == gone - 1
    # What was lost is in the pack, byte for byte, between its neighbours.
    with pytest.raises(LedgerDamagedError, match=f"{segment_key(gone)} is gone"):
        opened(bucket, packed=False).head()


@pytest.mark.parametrize("change", ["gone", "another's"])
def test_a_pack_whose_last_segment_is_not_there_is_not_believed(
    bucket: MemoryObjects, change: str
) -> None:
    key = segment_key(64)
    if change == "gone":
        del bucket.objects[key]
    else:
        bucket.objects[key] = log_of(64, "run/other").objects[key]
    said = key if change == "gone" else "one of the two was changed"
    with pytest.raises(LedgerDamagedError, match=said) as caught:
        list(opened(bucket).read_all())
    assert caught.value.position == 63


@pytest.mark.parametrize("left", [0, 59, 64, 100])
def test_a_log_whose_end_was_cut_off_is_what_is_left_and_goes_on(
    bucket: MemoryObjects, left: int
) -> None:
    """As it is without packs: to whoever had not read it. The packs of what was cut off are nobody's."""
    for number in range(left + 1, 151):
        del bucket.objects[segment_key(number)]
    assert read_by_stranger(bucket)[0] == [f"run/a{n}" for n in range(left)]
    store = opened(bucket)
    for number in range(left, 150):
        store.append("run/a", number, [skipped(f"new{number}")], now=NOW, actor="bob")
    ids, _ = read_by_stranger(bucket)
    assert ids == [f"run/a{n}" for n in range(left)] + [f"new{n}" for n in range(left, 150)]


# --- packs that nobody left ---


class WithoutPacks(MemoryObjects):
    """A bucket that takes no pack, as long as ``refuses``: its policy says so, or nobody answers."""

    def __init__(self, why: Exception) -> None:
        super().__init__()
        self.why, self.refuses = why, True

    def create(self, key: str, data: bytes) -> None:
        if self.refuses and key.startswith("ledger/packs/"):
            raise self.why
        super().create(key, data)


@pytest.mark.parametrize("why", [LedgerUnavailableError("bucket", "denied"), OSError("no room")])
def test_an_append_is_acknowledged_whatever_becomes_of_the_pack(why: Exception) -> None:
    bucket = WithoutPacks(why)
    append(opened(bucket), range(130))
    assert packs_in(bucket) == []
    assert read_by_stranger(bucket)[0] == [f"run/a{n}" for n in range(130)]
    bucket.refuses = False
    append(opened(bucket), range(130, 192))
    assert packs_in(bucket) == [pack_key(n) for n in (64, 128, 192)]


def test_what_lacks_from_long_ago_is_made_up_for_little_by_little(bucket: MemoryObjects) -> None:
    append(opened(bucket), range(150, 64 * 11 - 1))
    for key in packs_in(bucket):
        del bucket.objects[key]
    append(opened(bucket), range(64 * 11 - 1, 64 * 11))
    assert packs_in(bucket) == [pack_key(64 * n) for n in range(4, 12)]
    append(opened(bucket), range(64 * 11, 64 * 12))
    assert packs_in(bucket) == [pack_key(64 * n) for n in range(1, 13)]


def test_two_that_leave_the_same_pack(bucket: MemoryObjects) -> None:
    store = opened(bucket)
    append(store, range(150, 191))
    good = bucket.objects[pack_key(128)]
    taken = pack_key(192)
    bucket.objects[taken] = b"of somebody who was quicker"
    append(store, [191])
    assert (bucket.objects[pack_key(128)], bucket.objects[taken]) == (
        good,
        b"of somebody who was quicker",
    )
    assert store.head().size == 192


def test_who_only_reads_leaves_none(bucket: MemoryObjects) -> None:
    for key in packs_in(bucket):
        del bucket.objects[key]
    opened(bucket, read_only=True).head()
    opened(bucket).head()
    assert packs_in(bucket) == []
