"""The contract of ``launcher.storage.port``, on every backend.

A backend is a ``Backend``: how to open the one store of a test, again and again, and how to change its bytes
behind its back. A new one is a row in ``BACKENDS``.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import UsageError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import (
    BlobDamagedError,
    BlobInfo,
    BlobMissingError,
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    blob_key,
)
from launcher.storage.s3 import S3Store
from ledger.errors import InvalidNameError
from tests.rig.s3 import s3_server as s3_server

CREATORS, ROUNDS = 8, 20
NOWHERE = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Backend:
    """``open`` opens the same store each time; ``put`` writes an object's bytes past its rules."""

    open: Callable[[], ObjectStore]
    put: Callable[[str, bytes], None]


def _folder(tmp_path: Path) -> Backend:
    root = tmp_path / "a home" / "objects"

    def put(key: str, data: bytes) -> None:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    return Backend(lambda: FilesystemStore(root), put)


def _s3(tmp_path: Path) -> Backend:
    """A bucket of the server that the environment names, in whichever process this is called."""
    bucket = "t-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    root = Path(os.environ["RIG_S3_BUCKETS"]) / bucket
    root.mkdir(exist_ok=True)

    def put(key: str, data: bytes) -> None:
        (root / "a home" / key).write_bytes(data)  # in place: the server keeps notes on the file

    return Backend(lambda: S3Store(f"s3://{bucket}/a home", marks=tmp_path / "marks"), put)


BACKENDS: dict[str, Callable[[Path], Backend]] = {"folder": _folder, "s3": _s3}


@pytest.fixture(params=sorted(BACKENDS))
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend's name, once it can be used from this process and its children."""
    if request.param == "s3":
        server = request.getfixturevalue("s3_server")
        monkeypatch.setenv("RIG_S3_BUCKETS", str(server.root))
        for variable, value in server.environment().items():
            monkeypatch.setenv(variable, value)
    return str(request.param)


@pytest.fixture
def backend(name: str, tmp_path: Path) -> Backend:
    return BACKENDS[name](tmp_path)


@pytest.fixture
def store(backend: Backend) -> ObjectStore:
    return backend.open()


def keys(store: ObjectStore, prefix: str, after: str = "") -> list[str]:
    return [info.key for info in store.list(prefix, after)]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_an_empty_store(store: ObjectStore) -> None:
    assert keys(store, "runs/") == keys(store, "pointers/student/") == []
    assert not store.exists("runs/a/result.json")
    assert store.stat_blob(NOWHERE) is None
    with pytest.raises(ObjectNotFoundError) as caught:
        store.read("runs/a/result.json")
    assert caught.value.key == "runs/a/result.json"


def test_an_object_is_created_once_and_never_changes(backend: Backend, store: ObjectStore) -> None:
    store.create("runs/a/result.json", b"first")
    with pytest.raises(ObjectExistsError) as caught:
        store.create("runs/a/result.json", b"second, and longer")
    assert caught.value.key == "runs/a/result.json"
    later = backend.open()
    assert later.read("runs/a/result.json") == b"first"
    assert later.exists("runs/a/result.json")
    assert keys(later, "") == ["runs/a/result.json"]


def test_the_same_bytes_again_change_nothing(store: ObjectStore) -> None:
    """A store far away may take them for its own success; it may not write them again."""
    store.create("runs/a/result.json", b"the same")
    [first] = store.list("")
    with contextlib.suppress(ObjectExistsError):
        store.create("runs/a/result.json", b"the same")
    assert list(store.list("")) == [first]


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.create("runs/a", b"")
    assert store.exists("runs/a")
    assert store.read("runs/a") == b""


def test_what_only_begins_other_keys_is_no_object(store: ObjectStore) -> None:
    store.create("runs/a/b", b"1")
    assert not store.exists("runs/a")
    with pytest.raises(ObjectNotFoundError):
        store.read("runs/a")


def test_a_view_is_replaced(store: ObjectStore) -> None:
    store.replace("pointers/student.json", b"long, long, long")
    store.replace("pointers/student.json", b"short")
    assert store.read("pointers/student.json") == b"short"
    assert keys(store, "pointers/") == ["pointers/student.json"]


def test_listings_ascend_by_code_point_and_know_sizes(store: ObjectStore) -> None:
    made = ["a/b", "a-b", "a/b/c".replace("b/", "bb/"), "a/ü", "a/B", "a/b-", "b/a", "a/%2F"]
    for key in made:
        store.create(key, b"x" * len(key))
    assert keys(store, "") == sorted(made)
    assert keys(store, "a/") == sorted(k for k in made if k.startswith("a/"))
    assert keys(store, "a/b") == ["a/b", "a/b-", "a/bb/c"]
    assert keys(store, "a/", after="a/b") == ["a/b-", "a/bb/c", "a/ü"]
    assert keys(store, "a/", after="a/b!") == ["a/b-", "a/bb/c", "a/ü"]
    assert keys(store, "nothing/") == []
    assert [i.size_bytes for i in store.list("b/")] == [3]


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\nb", "a\0b", "a\x7f", "a/.tmp-x",
     "x" * 256, "é" * 128, "a\udcff", "/".join(["x" * 200] * 6)],
)  # fmt: skip
def test_a_key_is_refused_before_anything_is_done(store: ObjectStore, key: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: store.create(key, b"x"),
        lambda: store.replace(key, b"x"),
        lambda: store.read(key),
        lambda: store.exists(key),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert keys(store, "") == []


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", "0" * 64, NOWHERE.upper()])
def test_a_digest_is_checked(store: ObjectStore, tmp_path: Path, digest: str) -> None:
    for call in (store.stat_blob, store.verify_blob, lambda d: store.fetch_blob(d, tmp_path / "x")):
        with pytest.raises(InvalidNameError):
            call(digest)


# --- blobs ---


@pytest.mark.parametrize("size_bytes", [0, 1, 1024 * 1024, 3 * 1024 * 1024 + 1])
def test_a_file_comes_back_as_it_went_in(
    backend: Backend, store: ObjectStore, tmp_path: Path, size_bytes: int
) -> None:
    data = os.urandom(size_bytes)
    source, dest = tmp_path / "größe of it.pt", tmp_path / "new" / "folder" / "x.pt"
    source.write_bytes(data)
    blob = store.ingest(source)
    assert blob == BlobInfo(sha256(data), size_bytes)
    later = backend.open()
    assert later.stat_blob(blob.digest) == later.verify_blob(blob.digest) == blob
    assert later.read(blob_key(blob.digest)) == later.read_blob(blob.digest) == data
    assert later.fetch_blob(blob.digest, dest) == blob
    assert dest.read_bytes() == source.read_bytes() == data
    assert [p.name for p in dest.parent.iterdir()] == ["x.pt"]


def test_bytes_are_stored_once_wherever_they_come_from(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"the same")
    found = {
        store.ingest(tmp_path / "a"),
        store.ingest_bytes(b"the same"),
        store.ingest(tmp_path / "b"),
    }
    assert found == {BlobInfo(sha256(b"the same"), 8)}
    assert keys(store, "") == [blob_key(sha256(b"the same"))]


def test_a_blob_shares_nothing_with_visible_files(store: ObjectStore, tmp_path: Path) -> None:
    """Writing to a hard link of a blob would change the blob."""
    source, dest = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"good" * 5000)
    blob = store.ingest(source)
    store.fetch_blob(blob.digest, dest)
    for file in (source, dest):
        with file.open("r+b") as opened:
            opened.write(b"evil")
        assert file.stat().st_nlink == 1
    assert store.verify_blob(blob.digest) == blob


@pytest.mark.parametrize("size_bytes", [0, 9, 9 * 1024 * 1024])
def test_progress_ascends_to_the_whole(store: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
    source = tmp_path / "x"
    source.write_bytes(bytes(size_bytes))
    up: list[tuple[int, int]] = []
    again: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []
    blob = store.ingest(source, lambda *heard: up.append(heard))
    store.ingest(source, lambda *heard: again.append(heard))
    store.fetch_blob(blob.digest, tmp_path / "y", lambda *heard: down.append(heard))
    for heard in (up, again, down):
        assert heard == sorted(heard)
        assert heard[-1] == (size_bytes, size_bytes)
        assert {total for _, total in heard} == {size_bytes}


def test_fetching_replaces_what_was_there(store: ObjectStore, tmp_path: Path) -> None:
    dest = tmp_path / "x"
    dest.write_bytes(b"old, and longer")
    store.fetch_blob(store.ingest_bytes(b"new").digest, dest)
    assert dest.read_bytes() == b"new"
    with pytest.raises(UsageError):
        store.fetch_blob(store.ingest_bytes(b"new").digest, tmp_path)


def test_a_small_blob_is_read_within_its_limit(store: ObjectStore) -> None:
    digest = store.ingest_bytes(b"12345").digest
    assert store.read_blob(digest, 5) == b"12345"
    with pytest.raises(UsageError, match="5 bytes, more than 4"):
        store.read_blob(digest, 4)


def test_a_missing_blob_is_named(store: ObjectStore, tmp_path: Path) -> None:
    dest = tmp_path / "x"
    dest.write_bytes(b"old")
    for call in (store.verify_blob, store.read_blob, lambda d: store.fetch_blob(d, dest)):
        with pytest.raises(BlobMissingError) as caught:
            call(NOWHERE)
        assert (caught.value.digest, caught.value.where) == (NOWHERE, store.where)
    assert dest.read_bytes() == b"old"


@pytest.mark.parametrize("size_bytes", [9, 2 * 1024 * 1024])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "longer", "empty"])
def test_a_damaged_blob_is_found_on_every_read(
    backend: Backend, store: ObjectStore, tmp_path: Path, damage: str, size_bytes: int
) -> None:
    data = bytes(size_bytes)
    bad = {
        "truncated": data[:-1],
        "flipped": data[:-1] + b"\1",
        "longer": data + b"\0",
        "empty": b"",
    }[damage]
    digest = store.ingest_bytes(data).digest
    backend.put(blob_key(digest), bad)
    dest = tmp_path / "fetched" / "x"
    dest.parent.mkdir()
    dest.write_bytes(b"old")
    for call in (store.verify_blob, store.read_blob, lambda d: store.fetch_blob(d, dest)):
        with pytest.raises(BlobDamagedError) as caught:
            call(digest)
        assert caught.value.digest == digest
        assert digest in str(caught.value)
        assert caught.value.exit_code == 4
    assert {p.name: p.read_bytes() for p in dest.parent.iterdir()} == {"x": b"old"}


def test_storing_bytes_again_does_not_hide_a_truncated_blob(
    backend: Backend, store: ObjectStore, tmp_path: Path
) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"whole")
    digest = store.ingest(source).digest
    backend.put(blob_key(digest), b"who")
    calls: list[Callable[[], BlobInfo]] = [
        lambda: store.ingest(source),
        lambda: store.ingest_bytes(b"whole"),
    ]
    for call in calls:
        with pytest.raises(BlobDamagedError) as caught:
            call()
        assert caught.value.digest == digest


def test_only_whole_regular_files_are_ingested(store: ObjectStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("absent", "pipe", "dangling", ""):
        with pytest.raises(UsageError) as caught:
            store.ingest(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    assert keys(store, "") == []


def test_a_symlink_is_ingested_as_its_file(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"weights")
    (tmp_path / "latest").symlink_to("x")
    assert store.ingest(tmp_path / "latest").digest == sha256(b"weights")


def test_a_file_that_grows_while_it_is_read_is_not_stored(
    store: ObjectStore, tmp_path: Path
) -> None:
    source, stop = tmp_path / "x", threading.Event()
    source.write_bytes(bytes(8 * 1024 * 1024))

    def grow() -> None:
        with source.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more")

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(UsageError, match="still being written"):
            store.ingest(source)
    finally:
        stop.set()
        writer.join()
    assert keys(store, "") == []
    assert store.ingest(source).size_bytes == source.stat().st_size


def test_free_space_is_a_number_even_before_the_first_write(store: ObjectStore) -> None:
    free = store.free_bytes()
    assert free is None or free > 0


# --- together ---


def _create_many(
    name: str, folder: Path, who: int, barrier: Any, results: multiprocessing.Queue[Any]
) -> None:
    store = BACKENDS[name](folder).open()
    won = []
    for number in range(ROUNDS):
        barrier.wait(60)
        try:
            store.create(f"pointers/student/{number:08d}.json", f"{who}".encode() * 5000)
        except ObjectExistsError:
            # The loser reads at once who won: it must be all there.
            if len(set(store.read(f"pointers/student/{number:08d}.json"))) != 1:
                raise
        else:
            won.append(number)
        store.ingest_bytes(f"one blob for all {number}".encode())
    results.put((who, won))


def test_of_many_creators_one_wins(name: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(CREATORS), context.Queue()
    creators = [
        context.Process(target=_create_many, args=(name, tmp_path, who, barrier, results))
        for who in range(CREATORS)
    ]
    for creator in creators:
        creator.start()
    won = dict(results.get(timeout=90) for _ in creators)
    for creator in creators:
        creator.join(30)
    assert [creator.exitcode for creator in creators] == [0] * CREATORS
    assert sorted(number for numbers in won.values() for number in numbers) == list(range(ROUNDS))
    store = BACKENDS[name](tmp_path).open()
    for who, numbers in won.items():
        for number in numbers:
            data = store.read(f"pointers/student/{number:08d}.json")
            assert data == f"{who}".encode() * 5000
    assert len(keys(store, "pointers/")) == len(keys(store, "blobs/")) == ROUNDS
