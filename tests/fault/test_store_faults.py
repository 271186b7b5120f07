"""Whatever happens to a writer, under a name lies the whole object or nothing, and what is damaged is named."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.errors import UnavailableError
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import BlobDamagedError, ObjectExistsError, ObjectStore, blob_key
from tests.fault.store_child import DATA, KEY

BLOB = digest_bytes(DATA)


def run_child(folder: Path, job: str, death: int) -> subprocess.CompletedProcess[str]:
    child = [sys.executable, "-m", "tests.fault.store_child", str(folder), job, str(death)]
    return subprocess.run(child, capture_output=True, text=True, timeout=60, check=False)


def prepare(folder: Path, job: str) -> FilesystemStore:
    """A store as ``job`` finds it."""
    folder.mkdir()
    store = FilesystemStore(folder / "objects")
    if job == "ingest":
        (folder / "source").write_bytes(DATA)
    if job == "fetch":
        (folder / "digest").write_text(store.ingest_bytes(DATA).digest)
        (folder / "dest").mkdir()
        (folder / "dest" / "x").write_bytes(b"old")
    return store


def whole_or_nothing(store: ObjectStore, folder: Path, job: str) -> bool:
    """Whether the job's object is there, in which case it is whole."""
    if job == "create":
        assert [i.key for i in store.list("")] == ([KEY] if store.exists(KEY) else [])
        return store.exists(KEY) and store.read(KEY) == DATA
    if job == "ingest":
        listed = [i.key for i in store.list("")]
        there = store.stat_blob(BLOB.digest) is not None
        assert listed == ([blob_key(BLOB.digest)] if there else [])
        return there and store.verify_blob(BLOB.digest) == BLOB
    content = (folder / "dest" / "x").read_bytes()
    assert content in (b"old", DATA)
    return content == DATA


@pytest.mark.parametrize("job", ["create", "ingest", "fetch"])
def test_killed_before_any_of_its_calls(tmp_path: Path, job: str) -> None:
    prepare(tmp_path / "whole", job)
    calls = run_child(tmp_path / "whole", job, -1).stdout.split()
    taken = calls.index("replace" if job == "fetch" else "link")
    assert "fsync" in calls[:taken]
    assert "fsync" in calls[taken + 1 :]
    for death in range(len(calls)):
        folder = tmp_path / str(death)
        store = prepare(folder, job)
        child = run_child(folder, job, death)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert whole_or_nothing(store, folder, job) is (death > taken), (calls, death)
        again(store, folder, job)
        assert whole_or_nothing(store, folder, job)


def again(store: ObjectStore, folder: Path, job: str) -> None:
    """The same thing once more, by somebody who was not killed."""
    if job == "ingest":
        assert store.ingest(folder / "source") == BLOB
    elif job == "fetch":
        store.fetch_blob(BLOB.digest, folder / "dest" / "x")
    else:
        try:
            store.create(KEY, DATA)
        except ObjectExistsError:
            assert store.read(KEY) == DATA


def test_what_a_killed_writer_leaves_is_shown_to_who_asks(tmp_path: Path) -> None:
    prepare(tmp_path / "whole", "create")
    calls = run_child(tmp_path / "whole", "create", -1).stdout.split()
    store = prepare(tmp_path / "x", "create")
    run_child(tmp_path / "x", "create", calls.index("link"))
    [left] = store.stale_temporaries()
    assert left.key.startswith("pointers/student/.tmp-")
    assert left.size_bytes == len(DATA)
    assert list(store.list("")) == []


# --- a disk that is full or says no ---


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process grows past ``size_bytes`` (EFBIG; Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room_bytes", [0, 1, 4096, len(DATA) - 1])
@pytest.mark.parametrize("job", ["create", "ingest", "fetch"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, job: str, room_bytes: int) -> None:
    folder = tmp_path / "x"
    store = prepare(folder, job)
    with file_size_limit(room_bytes), pytest.raises(UnavailableError) as caught:
        again(store, folder, job)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 5
    assert not whole_or_nothing(store, folder, job)
    assert list(store.stale_temporaries()) == []
    assert [p.name for p in (folder / "dest").glob("*")] in ([], ["x"])
    again(store, folder, job)
    assert whole_or_nothing(store, folder, job)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("call", ["link", "fsync", "fchmod", "mkdir"])
def test_any_call_that_fails_is_no_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    store = FilesystemStore(tmp_path / "objects")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(UnavailableError) as caught:
            store.create(KEY, b"x")
    assert str(store.root) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert not store.exists(KEY)
    store.create(KEY, b"x")
    assert store.read(KEY) == b"x"


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pointer whose generations cannot be listed must not look as if it had none."""
    store = FilesystemStore(tmp_path)
    store.create(KEY, b"x")
    scandir = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("student"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UnavailableError, match="student"):
        list(store.list("pointers/student/"))


def test_a_read_that_fails_in_the_middle_is_unavailable_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(tmp_path / "x", "fetch")

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("launcher.storage.filesystem.copy_and_hash", failing)
    for call in (store.verify_blob, lambda d: store.fetch_blob(d, tmp_path / "x" / "dest" / "x")):
        with pytest.raises(UnavailableError):
            call(BLOB.digest)
    assert (tmp_path / "x" / "dest" / "x").read_bytes() == b"old"


# --- damage behind our back ---


@pytest.mark.parametrize("at", [0, 1024 * 1024, len(DATA) // 2, len(DATA) - 1])
def test_one_flipped_bit_anywhere_stops_the_fetch(tmp_path: Path, at: int) -> None:
    store = prepare(tmp_path / "x", "fetch")
    path = store.root / blob_key(BLOB.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    dest = tmp_path / "x" / "dest" / "x"
    with pytest.raises(BlobDamagedError) as caught:
        store.fetch_blob(BLOB.digest, dest)
    assert caught.value.digest == BLOB.digest
    assert [(p.name, p.read_bytes()) for p in dest.parent.iterdir()] == [("x", b"old")]


def test_objects_are_not_for_writing(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path)
    store.create(KEY, b"x")
    digest = store.ingest_bytes(b"y").digest
    for key in (KEY, blob_key(digest)):
        assert (tmp_path / key).stat().st_mode & 0o777 == 0o444
