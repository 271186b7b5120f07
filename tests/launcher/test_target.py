"""The target file: what it becomes, what is kept of it, and whose lock is waited for."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import UnavailableError, UsageError
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import BlobMissingError
from launcher.target import TargetFile, locked
from ledger.events import Generation, PreviousGeneration

OLD, NEW = b"old weights", b"new weights"


@pytest.fixture
def file(tmp_path: Path) -> TargetFile:
    """A target in a folder with a space that holds OLD; the store has NEW."""
    path = tmp_path / "my models" / "student.pt"
    path.parent.mkdir()
    path.write_bytes(OLD)
    store = FilesystemStore(tmp_path / "objects")
    store.ingest_bytes(NEW)
    return TargetFile(path, store, lock_wait_seconds=0.2)


def live(data: bytes | None) -> Generation:
    return Generation(
        name="student.pt", project="p", generation=1, kind="promotion", automatic=False, origin=1,
        digest=digest_bytes(data).digest if data is not None else None, size_bytes=None, run_id="r",
        promotion_id="id", actor="ana", previous=PreviousGeneration(generation=0, digest=None),
        time="2026-01-31T02:00:00.000000Z",
    )  # fmt: skip


def beside(file: TargetFile) -> dict[str, bytes]:
    found = {p.name: p.read_bytes() for p in file.path.parent.iterdir() if p.is_file()}
    return {n: d for n, d in found.items() if not n.endswith(".lock")}


def folders(file: TargetFile) -> list[Path]:
    return [p for p in file.path.parent.iterdir() if p.is_dir()]


def test_the_file_becomes_what_is_live_and_the_old_one_is_kept(file: TargetFile) -> None:
    file.path.chmod(0o664)
    kept = file.sync(lambda: live(NEW), "r")
    assert kept == file.path.with_name("student.pt.bak.r")
    assert beside(file) == {"student.pt": NEW, "student.pt.bak.r": OLD}
    assert file.path.stat().st_mode & 0o777 == 0o664
    assert file.sync(lambda: live(NEW), "r") is None
    assert folders(file) == []


def test_backups_are_never_overwritten(file: TargetFile) -> None:
    for number, content in enumerate((b"1", b"2", b"3"), start=1):
        file.path.write_bytes(content)
        kept = file.sync(lambda: live(NEW), "r")
        assert kept is not None
        assert kept.name == "student.pt.bak.r" + (f".{number}" if number > 1 else "")
    assert beside(file) == {
        "student.pt": NEW,
        "student.pt.bak.r": b"1",
        "student.pt.bak.r.2": b"2",
        "student.pt.bak.r.3": b"3",
    }


def test_a_backup_that_holds_these_bytes_already_is_enough(file: TargetFile) -> None:
    file.path.with_name("student.pt.bak.r").write_bytes(OLD)
    file.path.with_name("student.pt.bak.s").symlink_to("student.pt")
    assert file.sync(lambda: live(NEW), "r") == file.path.with_name("student.pt.bak.r")
    file.path.write_bytes(OLD)
    # A name that is a symlink is no copy of its own.
    assert file.sync(lambda: live(NEW), "s") == file.path.with_name("student.pt.bak.s.2")


def test_nothing_live_leaves_the_file(file: TargetFile) -> None:
    assert file.sync(lambda: live(None), "r") is None
    assert file.sync(lambda: None, "r") is None
    assert beside(file) == {"student.pt": OLD}


def test_the_pointer_is_asked_again_after_the_swap(file: TargetFile) -> None:
    """Whoever was stopped between the asking and the swap brings what became live meanwhile."""
    file.store.ingest_bytes(b"newest")
    asked: list[bytes] = []

    def moving() -> Generation:
        asked.append(NEW if not asked else b"newest")
        return live(asked[-1])

    assert file.sync(moving, "r") == file.path.with_name("student.pt.bak.r.2")
    assert file.path.read_bytes() == b"newest"
    assert asked == [NEW, b"newest", b"newest"]


def test_a_prepared_copy_is_used_if_it_is_wanted_and_removed_if_not(file: TargetFile) -> None:
    prepared = file.prepare(digest_bytes(NEW).digest)
    assert prepared.path.read_bytes() == NEW
    inode = prepared.path.stat().st_ino
    file.sync(lambda: live(NEW), "r", prepared=prepared)
    prepared.discard()
    assert file.path.stat().st_ino == inode

    unwanted = file.prepare(digest_bytes(NEW).digest)
    file.store.ingest_bytes(b"newest")
    file.sync(lambda: live(b"newest"), "r", prepared=unwanted)
    assert file.path.read_bytes() == b"newest"
    unwanted.discard()
    assert folders(file) == []


def test_a_missing_blob_leaves_everything(file: TargetFile) -> None:
    for attempt in (
        lambda: file.sync(lambda: live(b"gone"), "r"),
        lambda: file.prepare(digest_bytes(b"gone").digest),
    ):
        with pytest.raises(BlobMissingError):
            attempt()
    assert beside(file) == {"student.pt": OLD}
    assert folders(file) == []


# --- whether it is in step ------------------------------------------------------------------------


def test_a_glance_is_enough_only_for_what_was_seen(file: TargetFile) -> None:
    digest = digest_bytes(NEW).digest
    assert not file.in_step(digest)
    file.sync(lambda: live(NEW), "r")
    assert file.in_step(digest)
    assert not file.in_step(digest_bytes(OLD).digest)
    kept = file.path.stat()
    file.path.write_bytes(b"NEW weights")  # as long as it was
    os.utime(file.path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert not file.in_step(digest)
    file.sync(lambda: live(NEW), "r")
    assert file.path.read_bytes() == NEW
    file.path.unlink()
    assert not file.in_step(digest)


@pytest.mark.parametrize("note", [b"", b"[]", b"1", b"{", b'{"digest": 1}', b"\xff"])
def test_a_note_that_is_none_is_looked_past(file: TargetFile, note: bytes) -> None:
    lock = file.path.with_name(".student.pt.lock")
    lock.write_bytes(note)
    assert not file.in_step(digest_bytes(OLD).digest)
    assert file.digest() == digest_bytes(OLD).digest
    assert file.in_step(digest_bytes(OLD).digest)


def test_a_change_while_it_is_hashed_is_a_change(
    file: TargetFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher import target

    def slow(path: Path) -> Any:
        found = digest_bytes(path.read_bytes())
        path.write_bytes(b"changed meanwhile")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(target, "digest_file", slow)
        file.digest()
    assert file.digest() == digest_bytes(b"changed meanwhile").digest


# --- symlinks -------------------------------------------------------------------------------------


def test_a_symlink_is_replaced_and_what_it_led_to_is_left_alone(file: TargetFile) -> None:
    mine = file.path.with_name("v12.pt")
    file.path.rename(mine)
    file.path.symlink_to("v12.pt")
    assert file.digest() == digest_bytes(OLD).digest
    kept = file.sync(lambda: live(NEW), "r")
    assert kept is not None
    assert not file.path.is_symlink()
    assert (file.path.read_bytes(), mine.read_bytes()) == (NEW, OLD)
    mine.write_bytes(b"trained further")
    assert (kept.is_symlink(), kept.read_bytes()) == (False, OLD)


def test_a_symlink_to_nowhere_is_no_file(file: TargetFile) -> None:
    file.path.unlink()
    file.path.symlink_to("nowhere.pt")
    assert file.digest() is None
    assert file.plan_backup("r") is None
    assert file.sync(lambda: live(NEW), "r") is None
    assert (file.path.is_symlink(), file.path.read_bytes()) == (False, NEW)


def test_a_folder_that_is_a_symlink(file: TargetFile, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file.path.parent)
    through = TargetFile(tmp_path / "link" / "student.pt", file.store)
    through.sync(lambda: live(NEW), "r")
    assert beside(file) == {"student.pt": NEW, "student.pt.bak.r": OLD}


# --- file systems without links, disks that say no ------------------------------------------------


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_links_the_backup_is_a_copy_made_whole_first(
    file: TargetFile, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    link = os.link

    def refused(source: Any, dest: Any, **kwargs: Any) -> None:
        if Path(source) == file.path:
            raise OSError(code, os.strerror(code), str(source))
        link(source, dest, **kwargs)

    monkeypatch.setattr(os, "link", refused)
    assert file.sync(lambda: live(NEW), "r") == file.path.with_name("student.pt.bak.r")
    assert beside(file) == {"student.pt": NEW, "student.pt.bak.r": OLD}
    assert folders(file) == []


@pytest.mark.parametrize("call", ["link", "replace", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_call_that_fails_leaves_the_file_and_names_the_place(
    file: TargetFile, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)

    def refused(*args: Any, **kwargs: Any) -> Any:
        if any(str(file.path.parent) in str(a) for a in args):
            raise OSError(code, os.strerror(code), str(args[0]))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(UnavailableError) as caught:
            file.sync(lambda: live(NEW), "r")
    assert str(file.path.parent) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert file.path.read_bytes() == OLD
    file.sync(lambda: live(NEW), "r")
    assert beside(file) == {"student.pt": NEW, "student.pt.bak.r": OLD}


def test_a_folder_in_the_files_place(file: TargetFile) -> None:
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(UsageError, match="is not a file"):
        file.sync(lambda: live(NEW), "r")


# --- locks and leftovers --------------------------------------------------------------------------


def test_a_lock_is_waited_for_only_so_long(file: TargetFile) -> None:
    lock = file.path.with_name(".student.pt.lock")
    with (
        locked(lock),
        pytest.raises(UnavailableError, match=r"locked by another process") as caught,
    ):
        file.sync(lambda: live(NEW), "r")
    assert str(lock) in str(caught.value)
    assert caught.value.exit_code == 5
    assert file.path.read_bytes() == OLD
    file.sync(lambda: live(NEW), "r")
    assert file.path.read_bytes() == NEW


def test_a_lock_is_free_once_its_holder_is_gone(file: TargetFile) -> None:
    lock = file.path.with_name(".student.pt.lock")
    program = (
        "import pathlib, sys, time\n"
        "from launcher.target import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UnavailableError):
        file.digest()
    holder.kill()
    holder.communicate()
    assert file.digest() == digest_bytes(OLD).digest


def test_copies_of_the_dead_are_removed_and_those_of_the_living_are_not(file: TargetFile) -> None:
    digest = digest_bytes(NEW).digest
    alive = file.prepare(digest)
    dead = file.path.with_name(".student.pt.0badcafe.new")
    shutil.copytree(alive.path.parent, dead)
    half_made = file.path.with_name(".student.pt.0badf00d.new")
    half_made.mkdir()
    other = file.path.with_name(".student.pt.new")
    other.mkdir()
    mine = file.prepare(digest)
    assert {*folders(file)} == {alive.path.parent, mine.path.parent, other}
    assert alive.path.read_bytes() == NEW
    alive.discard()
    mine.discard()
    assert folders(file) == [other]
