"""Who follows a pointer: words in a store, how they are read, and how a follower stands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launcher.consumers import (
    Consumer,
    Roll,
    Standing,
    consumer_key,
    pending,
    roll,
    rolls,
    served,
    standing,
)
from launcher.errors import UsageError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectInfo

NOW = datetime.now(UTC)
G41, G42 = "sha256:" + "41" * 32, "sha256:" + "42" * 32
DAY = 86400.0


class CountedStore(FilesystemStore):
    """Counts what it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listings: list[str] = []
        self.reads: list[str] = []

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self.listings.append(prefix)
        return super().list(prefix, after)

    def read(self, key: str) -> bytes:
        self.reads.append(key)
        return super().read(key)


@pytest.fixture
def store(tmp_path: Path) -> CountedStore:
    (tmp_path / "store").mkdir()
    return CountedStore(tmp_path / "store")


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def word(host: str = "gpu-7", generation: int = 42, ago: float = 5.0) -> Consumer:
    return Consumer(
        host=host,
        generation=generation,
        digest=G42,
        time=at(ago),
        state="applied",
        dest="/srv/student.pt",
        applied=generation,
        applied_digest=G42,
    )


FAILED = replace(word(), state="failed", applied=41, applied_digest=G41, exit_code=7, message="x")


def say(store: FilesystemStore, word: Consumer, name: str = "student") -> str:
    key = consumer_key(store, name, word.host)
    store.replace(key, word.to_bytes())
    return key


def aged(store: CountedStore, key: str, seconds: float, tmp_path: Path) -> None:
    then = NOW.timestamp() - seconds
    os.utime(tmp_path / "store" / key, (then, then))


@pytest.mark.parametrize("one", [word(), FAILED, replace(word(), applied=None)])
def test_a_word_comes_back_as_it_was_said(one: Consumer) -> None:
    assert Consumer.from_bytes(one.to_bytes()) == one


def test_a_word_of_a_later_version_is_read_for_what_is_known_of_it() -> None:
    more = {**json.loads(word().to_bytes()), "zone": "eu-1", "load": [1, 2]}
    assert Consumer.from_bytes(json.dumps(more).encode()) == word()


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": "42"},
        {"generation": True},
        {"generation": None},
        {"applied": "41"},
        {"exit_code": [1]},
        {"host": 7},
        {"host": None},
        {"dest": {}},
        {"message": 1},
        {"state": None},
        {"time": "yesterday"},
        {"time": 5},
        {"digest": "sha256:42"},
        {"digest": None},
        {"digest": 42},
        {"applied_digest": "none"},
    ],
    ids=str,
)
def test_a_word_with_something_wrong_in_it_is_none(wrong: dict[str, object]) -> None:
    said = {**json.loads(word().to_bytes()), **wrong}
    with pytest.raises(ValueError, match=r".+"):
        Consumer.from_bytes(json.dumps(said).encode())


@pytest.mark.parametrize("field", ["host", "generation", "digest", "time", "state", "dest"])
def test_a_word_with_something_left_out_is_none(field: str) -> None:
    said = {k: v for k, v in json.loads(word().to_bytes()).items() if k != field}
    with pytest.raises(ValueError, match=r".+"):
        Consumer.from_bytes(json.dumps(said).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"null", b"7", b"\xff\xfe", b"[" * 100_000], ids=lambda d: d[:2]
)
def test_what_is_no_word_is_said_so(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Consumer.from_bytes(data)


@pytest.mark.parametrize("name", ["", "a/../b", "new\nline"])
def test_a_name_that_no_follower_can_have(store: CountedStore, name: str) -> None:
    with pytest.raises(UsageError):
        consumer_key(store, "student", name)
    with pytest.raises(UsageError):
        consumer_key(store, "student", "x" * 251)


@pytest.mark.parametrize(
    ("one", "live", "stands"),
    [
        (word(), 42, "on"),
        (word(), 43, "behind"),
        (word(), 41, "on"),  # it was quicker than our look
        (FAILED, 42, "failed"),
        (FAILED, 43, "failed"),
        (word(ago=899), 42, "on"),
        (word(ago=901), 42, "silent"),
        (word(ago=901), 43, "silent"),
        (replace(FAILED, time=at(901)), 42, "silent"),
        (word(ago=-600), 42, "on"),  # its clock is ahead
    ],
)
def test_how_a_follower_stands(one: Consumer, live: int, stands: Standing) -> None:
    assert standing(one, live, NOW) == stands


def test_the_followers_of_one_pointer_by_host(store: CountedStore) -> None:
    for host in ("gpu-9", "gpu 7", "a~b", "gpu/8"):
        say(store, word(host))
    say(store, word("other"), name="student-2")
    say(store, word("another"), name="checkpoints/stable/student_latest.pt")
    hosts = ["a~b", "gpu 7", "gpu-9", "gpu/8"]
    assert [w.host for w in roll(store, "student").words] == hosts
    found = rolls(store)
    assert sorted(found) == ["checkpoints/stable/student_latest.pt", "student", "student-2"]
    assert [w.host for w in found["student"].words] == hosts
    assert not roll(store, "nobody")
    assert rolls(FilesystemStore(Path("nowhere"))) == {}


def test_a_screen_costs_one_listing_and_at_most_200_reads_of_the_newest(
    store: CountedStore, tmp_path: Path
) -> None:
    for number in range(210):
        key = say(store, word(f"h{number:03d}"), name=f"p{number % 3}")
        aged(store, key, 3600.0 if number < 10 else 1.0, tmp_path)
    store.listings.clear()
    found = rolls(store)
    assert store.listings == ["consumers/"]
    assert len(store.reads) == 200
    assert sum(len(r.words) for r in found.values()) == 200
    assert {r.unread for r in found.values()} == {3, 4}
    read = {w.host for r in found.values() for w in r.words}
    assert min(read) == "h010", "the oldest ones are those left out"


def test_what_cannot_be_read_is_counted_and_hides_no_other(store: CountedStore) -> None:
    say(store, word())
    store.replace(consumer_key(store, "student", "torn"), b'{"host": ')
    assert roll(store, "student") == Roll((word(),), unread=1)
    store.replace("consumers/stray.json", b"not of any pointer")
    store.replace("consumers/student/deeper/x.json", b"nor this")
    assert rolls(store) == {"student": Roll((word(),), unread=1)}


def test_one_that_said_nothing_for_a_quarter_is_gone(store: CountedStore, tmp_path: Path) -> None:
    old = say(store, word("old"))
    aged(store, old, 91 * DAY, tmp_path)
    say(store, word("copied", ago=91 * DAY))
    say(store, word("still", ago=89 * DAY))
    assert [w.host for w in roll(store, "student").words] == ["still"]
    assert old not in store.reads


def test_who_is_waited_for(
    store: CountedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who is waited for is asked of the clock: it must not be that of the tests' end.
    monkeypatch.setattr(sys.modules[__name__], "NOW", datetime.now(UTC))
    on = say(store, word("on", 43))
    say(store, word("behind", 42))
    say(store, replace(FAILED, host="failed", generation=43, time=at(5)))
    say(store, word("silent", 42, ago=901))
    gone = say(store, word("gone", 42))
    aged(store, gone, 2 * DAY, tmp_path)
    store.replace(consumer_key(store, "student", "torn"), b"{")
    done: set[str] = set()
    assert [w.host for w in pending(store, "student", 43, done)] == ["behind", "failed"]
    assert done == {on}
    assert gone not in store.reads
    say(store, word("behind", 43))
    say(store, word("failed", 44))
    say(store, word("new", 42))
    store.reads.clear()
    assert [w.host for w in pending(store, "student", 43, done)] == ["new"]
    assert on not in store.reads


def test_what_is_served(store: CountedStore) -> None:
    say(store, word())
    say(store, FAILED, name="other")
    store.replace(consumer_key(store, "torn", "x"), b"{")
    say(store, word("old", ago=91 * DAY), name="old")
    found = served(store, NOW.timestamp())
    assert sorted(found) == ["other", "student", "torn"]
    assert found["student"].digests == {G42}
    assert found["other"].digests == {G41, G42}
    [doubt] = found["torn"].doubts
    assert doubt.startswith("consumers/torn/x.json in ")
    assert served(store, NOW.timestamp() + 91 * DAY) == {}
