"""Names that are taken once, on file systems with and without hard links."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from launcher.storage import durable
from launcher.storage.filesystem import CreateOnlyUnsupportedError, FilesystemStore
from launcher.storage.port import ObjectExistsError


def refuse(code: int) -> None:
    raise OSError(code, os.strerror(code))


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, as FAT answers."""
    monkeypatch.setattr(os, "link", lambda *_: refuse(errno.EPERM))


@pytest.mark.usefixtures("no_links")
def test_without_links_a_name_is_still_taken_once(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path / "objects")
    store.create("a/b", b"first")
    with pytest.raises(ObjectExistsError):
        store.create("a/b", b"second")
    assert store.read("a/b") == b"first"
    assert store.verify_blob(store.ingest_bytes(b"weights").digest).size_bytes == 7
    assert list(store.stale_temporaries()) == []


@pytest.mark.usefixtures("no_links")
def test_without_links_one_of_many_threads_wins(tmp_path: Path) -> None:
    store, barrier, won = FilesystemStore(tmp_path), threading.Barrier(8), list[tuple[int, int]]()

    def create(who: int) -> None:
        for number in range(30):
            barrier.wait(30)
            try:
                store.create(f"p/{number}", bytes([who]) * 1000)
            except ObjectExistsError:
                continue
            won.append((number, who))

    threads = [threading.Thread(target=create, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in won) == list(range(30))
    assert all(store.read(f"p/{number}") == bytes([who]) * 1000 for number, who in won)


@pytest.mark.usefixtures("no_links")
def test_where_neither_works_the_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "rename_exclusively", lambda *_: refuse(errno.ENOTSUP))
    store = FilesystemStore(tmp_path)
    with pytest.raises(CreateOnlyUnsupportedError) as caught:
        store.create("a", b"x")
    assert (caught.value.where, caught.value.exit_code) == (str(tmp_path), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_landed_and_was_answered_with_exists_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS repeats a LINK whose answer was lost, and then says EEXIST of its own work."""
    link = os.link

    def twice(source: Path, final: Path) -> None:
        link(source, final)
        link(source, final)

    monkeypatch.setattr(os, "link", twice)
    store = FilesystemStore(tmp_path)
    store.create("a", b"x")
    assert store.read("a") == b"x"


def test_exists_is_said_only_of_what_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner may not have come to its fsync when the loser acts on what it read."""
    store = FilesystemStore(tmp_path / "objects")
    store.create("p/1", b"x")
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    with pytest.raises(ObjectExistsError):
        store.create("p/1", b"y")
    assert synced == [tmp_path / "objects" / "p"]


def test_every_new_folder_is_made_durable_from_the_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", noted)
    objects = tmp_path / "home" / "objects"
    FilesystemStore(objects).create("runs/a/result.json", b"x")
    made = [tmp_path, objects.parent, objects, objects / "runs"]
    file = objects / "runs" / "a" / "result.json"
    assert synced == [path.stat().st_ino for path in (*made, file, file.parent)]


def test_a_clone_is_a_copy_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("x+b") as target:
        done = durable.clone(source.fileno(), target.fileno())
    assert (tmp_path / "b").read_bytes() == (b"x" * 10_000 if done else b"")
