"""Paths that others wrote are never trusted: nothing is written outside of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import ConflictError, IntegrityError, LauncherError
from launcher.restoring import restore_folder
from launcher.run_contents import Contents, Kept, place_of
from launcher.storage.filesystem import FilesystemStore


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "objects")


def kept(store: FilesystemStore, data: bytes = b"evil") -> Kept:
    blob = store.ingest_bytes(data)
    return Kept(blob.digest, blob.size_bytes, None)


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/x", "a//x", "./x", "", ".", "..", "a/", "a\0b", "/etc/passwd"]
)
def test_a_path_that_leaves_the_folder(store: FilesystemStore, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "top" / "run"
    contents = Contents({"artifacts/good": kept(store, b"good"), path: kept(store)})
    with pytest.raises(IntegrityError, match="is no path inside"):
        restore_folder(contents, store, folder, force=True)
    assert not (tmp_path / "top").exists(), "all is looked at before anything is written"


def test_a_link_in_the_way_even_one_that_comes_later(
    store: FilesystemStore, tmp_path: Path
) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    outside.mkdir()
    folder.mkdir()
    (folder / "checkpoints").symlink_to(outside)
    with pytest.raises(ConflictError, match="symlink"):
        place_of(folder, "checkpoints/deep/s.pt")
    contents = Contents({"checkpoints/s.pt": kept(store)})
    with pytest.raises(ConflictError, match="symlink"):
        restore_folder(contents, store, folder, force=True)
    # One manifest's file is another one's folder.
    both = Contents({"artifacts/a": kept(store), "artifacts/a/b": kept(store)})
    (folder / "checkpoints").unlink()
    with pytest.raises(LauncherError):
        restore_folder(both, store, folder, force=True)
    assert list(outside.iterdir()) == []


def test_a_folder_that_is_a_link_itself_is_the_users_own(
    store: FilesystemStore, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    done = restore_folder(Contents({"artifacts/a": kept(store)}), store, tmp_path / "run")
    assert (done.written, done.equal) == (1, 0)
    assert (tmp_path / "scratch" / "artifacts" / "a").read_bytes() == b"evil"


def test_progress_and_documents(store: FilesystemStore, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    contents = Contents({f"artifacts/{n}": kept(store, b"x" * n) for n in range(1, 20)})
    documents = {"metadata.json": b"{}\n"}
    folder = tmp_path / "run"

    def again(*, force: bool = False) -> None:
        restore_folder(
            contents,
            store,
            folder,
            documents=documents,
            force=force,
            progress=lambda done, total: heard.append((done, total)),
        )

    again()
    assert heard[-1] == (190, 190)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert (folder / "metadata.json").read_bytes() == b"{}\n"
    (folder / "metadata.json").write_bytes(b"mine")
    (folder / "artifacts" / "3").unlink()
    with pytest.raises(ConflictError, match=r"metadata\.json is there"):
        again()
    assert not (folder / "artifacts" / "3").exists()
    again(force=True)
    assert (folder / "metadata.json").read_bytes() == b"{}\n"
    assert (folder / "artifacts" / "3").read_bytes() == b"xxx"
