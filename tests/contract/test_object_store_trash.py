"""The trash of ``launcher.storage.port``, on every backend (see tests/contract/test_object_store.py)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launcher.errors import LauncherError, UsageError
from launcher.storage.port import (
    BlobDamagedError,
    BlobMissingError,
    ObjectStore,
    blob_key,
    trash_key,
)
from tests.contract.test_object_store import NOWHERE, Backend, keys
from tests.contract.test_object_store import backend as backend
from tests.contract.test_object_store import name as name
from tests.contract.test_object_store import store as store
from tests.rig.s3 import s3_server as s3_server

DAY, LATER = "2026-01-31", "2026-02-01"
#: More than a part of an upload, so that it goes up, and back, in parts.
BIG = b"\x07" * (9 * 1024 * 1024)


def blob_keys(store: ObjectStore) -> list[str]:
    return keys(store, "blobs/")


def in_trash(store: ObjectStore, date: str) -> list[str]:
    return [info.key for info in store.trashed(date)]


@pytest.mark.parametrize("data", [b"a checkpoint", b"", BIG], ids=["small", "empty", "big"])
def test_a_discarded_blob_is_read_where_it_lies(
    store: ObjectStore, tmp_path: Path, data: bytes
) -> None:
    blob = store.ingest_bytes(data)
    assert store.discard([blob], DAY) == {}
    assert (blob_keys(store), in_trash(store, DAY)) == ([], [blob_key(blob.digest)])
    assert store.trash_dates() == [DAY]
    assert store.stat_blob(blob.digest) == blob
    assert store.verify_blob(blob.digest) == blob
    assert store.read_blob(blob.digest) == data
    assert store.fetch_blob(blob.digest, tmp_path / "out") == blob
    assert (tmp_path / "out").read_bytes() == data
    assert blob_keys(store) == [], "reading writes nothing"


@pytest.mark.parametrize("data", [b"a checkpoint", b"", BIG], ids=["small", "empty", "big"])
def test_it_is_put_back_and_stays_in_the_trash(backend: Backend, data: bytes) -> None:
    store = backend.open()
    blob = store.ingest_bytes(data)
    store.discard([blob], DAY)
    assert backend.open().recover(blob.digest) == blob
    assert (blob_keys(store), in_trash(store, DAY)) == ([blob_key(blob.digest)],) * 2
    assert store.verify_blob(blob.digest) == blob
    assert store.empty(DAY, [blob.digest]) == {}
    assert store.read_blob(blob.digest) == data


def test_what_is_in_its_place_is_left_alone(store: ObjectStore) -> None:
    blob = store.ingest_bytes(b"here")
    [before] = store.list("")
    assert store.recover(blob.digest) == blob
    assert list(store.list("")) == [before]


def test_what_is_nowhere_is_not_recovered(store: ObjectStore) -> None:
    assert store.recover(NOWHERE) is None
    assert store.trash_dates() == list(store.trashed(DAY)) == keys(store, "") == []


def test_emptied_is_gone_and_only_what_was_named(store: ObjectStore) -> None:
    one, two = store.ingest_bytes(b"one"), store.ingest_bytes(b"two")
    store.discard([one, two], DAY)
    assert store.empty(DAY, [one.digest, NOWHERE]) == {}
    assert in_trash(store, DAY) == [blob_key(two.digest)]
    assert store.stat_blob(one.digest) is None
    with pytest.raises(BlobMissingError):
        store.read_blob(one.digest)
    store.empty(DAY, [two.digest])
    assert store.trash_dates() == keys(store, "") == []
    assert store.ingest_bytes(b"one") == one
    assert store.read_blob(one.digest) == b"one"


def test_a_discard_again_does_nothing(store: ObjectStore) -> None:
    blob = store.ingest_bytes(b"twice")
    for _ in range(2):
        assert store.discard([blob], DAY) == {}
    assert (blob_keys(store), in_trash(store, DAY)) == ([], [blob_key(blob.digest)])


@pytest.mark.parametrize("date", [DAY, LATER])
def test_what_was_put_back_can_be_discarded_again(store: ObjectStore, date: str) -> None:
    blob = store.ingest_bytes(b"again")
    store.discard([blob], DAY)
    store.recover(blob.digest)
    store.discard([blob], date)
    assert (blob_keys(store), in_trash(store, date)) == ([], [blob_key(blob.digest)])
    if date != DAY:
        store.empty(DAY, [blob.digest])
    assert store.read_blob(blob.digest) == b"again"
    assert store.trash_dates() == [date]


def test_an_upload_of_what_was_discarded_needs_no_trash(store: ObjectStore, tmp_path: Path) -> None:
    blob = store.ingest_bytes(BIG)
    store.discard([blob], DAY)
    source = tmp_path / "big"
    source.write_bytes(BIG)
    assert store.ingest(source) == blob
    store.empty(DAY, [blob.digest])
    assert store.verify_blob(blob.digest) == blob


def test_many_are_moved_together(store: ObjectStore) -> None:
    blobs = [store.ingest_bytes(b"%d" % number) for number in range(40)]
    stays = store.ingest_bytes(b"stays")
    store.discard(blobs, DAY)
    assert blob_keys(store) == [blob_key(stays.digest)]
    assert in_trash(store, DAY) == sorted(blob_key(b.digest) for b in blobs)
    assert sum(info.size_bytes for info in store.trashed(DAY)) == sum(b.size_bytes for b in blobs)


@pytest.mark.parametrize("data", [b"a checkpoint", BIG], ids=["small", "big"])
def test_a_damaged_copy_is_not_put_back(backend: Backend, data: bytes) -> None:
    store = backend.open()
    blob = store.ingest_bytes(data)
    store.discard([blob], DAY)
    backend.put(trash_key(DAY, blob.digest), data[:-1] + b"!")
    with pytest.raises(BlobDamagedError):
        store.recover(blob.digest)
    assert blob_keys(store) == []


def test_a_whole_copy_is_put_back_though_another_is_damaged(backend: Backend) -> None:
    store = backend.open()
    blob = store.ingest_bytes(b"whole")
    for date in (DAY, LATER):
        store.discard([blob], date)
        store.ingest_bytes(b"whole")
    store.discard([blob], LATER)
    backend.put(trash_key(LATER, blob.digest), b"other")
    assert store.recover(blob.digest) == blob
    assert store.read_blob(blob.digest) == b"whole"


@pytest.mark.parametrize("date", ["", "..", "2026-1-1", "2026-01-31/..", "today"])
def test_a_date_is_a_date(store: ObjectStore, date: str) -> None:
    blob = store.ingest_bytes(b"x")
    for what in (store.discard, store.empty):
        with pytest.raises(UsageError):
            what([blob], date) if what == store.discard else store.empty(date, [blob.digest])
    assert blob_keys(store) == [blob_key(blob.digest)]


def test_its_time_is_when_it_came_there(store: ObjectStore) -> None:
    before = store.clock()
    blob = store.ingest_bytes(b"timed")
    store.discard([blob], DAY)
    [info] = store.trashed(DAY)
    assert before - 2 <= info.modified <= store.clock() + 2


def test_the_clock_leaves_nothing(store: ObjectStore) -> None:
    assert store.clock() > 1.7e9
    assert keys(store, "") == []


def test_a_reader_never_misses_a_blob_that_is_moved_to_and_fro(backend: Backend) -> None:
    store = backend.open()
    blob = store.ingest_bytes(b"to and fro")
    stop, missed = threading.Event(), []

    def read() -> None:
        mine = backend.open()
        while not stop.is_set():
            try:
                assert mine.read_blob(blob.digest) == b"to and fro"
                assert mine.stat_blob(blob.digest) == blob
            except (LauncherError, AssertionError) as exc:
                missed.append(exc)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(25):
        store.discard([blob], LATER if number % 3 else DAY)
        store.recover(blob.digest)
    stop.set()
    for reader in readers:
        reader.join(60)
    assert not missed, missed[0]
