"""The project root: what lies in it, how its pointers are called, which code is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.project import (
    is_file_target,
    network_filesystem,
    pointer_name,
    provenance,
    relative_to_project,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "my project"
    (made / "checkpoints").mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("path", "shown"),
    [("a/b", "a/b"), ("a/../b", "b"), ("./a//b/", "a/b"), (".", "."), ("a b/ö", "a b/ö")],
)
def test_inside_is_relative(path: str, shown: str, root: Path) -> None:
    assert relative_to_project(Path(path), root) == shown
    assert relative_to_project(root / path, root) == shown


def test_outside_is_absolute(root: Path) -> None:
    assert relative_to_project(Path("/big/x"), root) == "/big/x"
    assert relative_to_project(Path("../x"), root) == str(root.parent / "x")
    twin = root.with_name("my project 2")
    assert relative_to_project(twin / "x", root) == str(twin / "x")
    assert relative_to_project(Path("/a/b"), Path("/")) == "a/b"


def test_links_are_kept_as_the_user_sees_them(root: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (root / "linked").symlink_to(tmp_path / "big")
    assert relative_to_project(root / "linked" / "x.pt", root) == "linked/x.pt"
    assert relative_to_project(tmp_path / "big" / "x.pt", root) == str(tmp_path / "big" / "x.pt")


def test_another_name_of_the_root_is_the_root(root: Path, tmp_path: Path) -> None:
    """One file has one pointer, whether it is reached through a link to the project or not."""
    link = tmp_path / "short"
    link.symlink_to(root)
    assert relative_to_project(link / "checkpoints/x.pt", root) == "checkpoints/x.pt"
    assert pointer_name(f"{link}/checkpoints/x.pt", root) == "checkpoints/x.pt"
    assert pointer_name(f"{link}/none/yet/x.pt", root) == "none/yet/x.pt"


@pytest.mark.parametrize(
    ("target", "is_file"),
    [
        ("student", False),
        ("student.v2", False),
        ("student.PT", True),
        ("a/b", True),
        ("x.safetensors", True),
    ],
)
def test_a_file_is_a_path_or_has_a_suffix(target: str, is_file: bool) -> None:
    assert is_file_target(target) is is_file


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("student", "student"),
        ("x.pt", "x.pt"),
        ("./x.pt", "x.pt"),
        ("checkpoints//stable/x.pt", "checkpoints/stable/x.pt"),
        ("checkpoints/größe 2.pt", "checkpoints/größe 2.pt"),
        ("/big/x.pt", "/big/x.pt"),
    ],
)
def test_a_pointer_is_called_after_its_target(target: str, name: str, root: Path) -> None:
    assert pointer_name(target, root) == name
    assert is_file_target(name) == is_file_target(target)


@pytest.mark.parametrize(
    "target",
    [
        *["", ".", "./student", "../x.pt", "a/../x.pt", "checkpoints/", "-x", "-x/y.pt"],
        *["a\n.pt", "a/\udcff", "a/" + "x" * 300],
    ],
)
def test_no_target(target: str, root: Path) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError) as caught:
        pointer_name(target, root)
    assert str(caught.value).isprintable()
    assert sorted(root.rglob("*")) == before


# --- git -----------------------------------------------------------------------------------------------


def git(root: Path, *args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, "-C", root, *args], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(root: Path) -> Path:
    git(root, "init", "-q")
    (root / "a.py").write_text("1\n2\n3\n")
    (root / "b.py").write_text("b")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    return root


def test_outside_git_there_is_no_commit(root: Path) -> None:
    found = provenance(root)
    assert (found.source_commit, found.dirty) == (None, None)


def test_a_checkout_without_a_commit_has_none(root: Path) -> None:
    git(root, "init", "-q")
    assert provenance(root).source_commit is None


def test_the_commit_and_what_differs_from_it(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert (provenance(checkout).source_commit, provenance(checkout).dirty) == (head, 0)
    (checkout / "b.py").write_text("changed")
    (checkout / "new file.py").write_text("")
    assert provenance(checkout).dirty == 2
    git(
        checkout, "mv", "a.py", "ab cd.py"
    )  # a rename is one change, whatever its old name looks like
    git(checkout, "mv", "ab cd.py", "z.py")
    assert provenance(checkout).dirty == 3
    (checkout / "sub").mkdir()
    assert provenance(checkout / "sub").dirty == 3
    git(checkout, "config", "status.showUntrackedFiles", "no")
    assert provenance(checkout).dirty == 3


def test_a_renamed_file_counts_once(checkout: Path) -> None:
    (checkout / "ab cd").write_text("x\n" * 50)
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "two")
    git(checkout, "mv", "ab cd", "ef gh")
    assert provenance(checkout).dirty == 1


def test_no_program_of_a_hostile_repository_is_run(checkout: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f'#!/bin/sh\ntouch "{tmp_path}/ran"\ncat\n')
    trap.chmod(0o755)
    (checkout / ".gitattributes").write_text("*.py filter=evil\nb.py filter=a=b.c\n")
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "filter.evil.clean",
        "filter.a=b.c.clean",
    ):
        git(checkout, "config", key, str(trap))
    (checkout / "included").write_text(f'[filter "evil"]\n process = {trap}\n required = true\n')
    git(checkout, "config", "include.path", "../included")
    for hook in (checkout / ".git/hooks").iterdir():
        hook.unlink()
    (checkout / ".git/hooks/post-index-change").symlink_to(trap)
    # Same size, new time: git has to look into the files, through their filter.
    for name in ("a.py", "b.py"):
        os.utime(checkout / name, (1, 1))
    found = provenance(checkout)
    assert found.source_commit
    assert found.dirty is not None
    assert not (tmp_path / "ran").exists()
    subprocess.run(["git", "-C", checkout, "status"], capture_output=True, check=False)
    assert (tmp_path / "ran").exists(), "the trap is none"


def test_a_hook_s_environment_does_not_lead_elsewhere(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other/index"))
    assert provenance(checkout).dirty == 0


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance(checkout).source_commit is None


# --- file systems --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ([("/", "ext4")], None),
        ([("/", "nfs4")], "nfs4"),
        ([("/", "nfs4"), ("/data", "ext4")], None),
        ([("/", "ext4"), ("/data", "lustre"), ("/data/my", "nfs")], "lustre"),
        ([("/", "ext4"), ("/dat", "nfs"), ("/data/my projects", "nfs")], None),
        ([("/data", "nfs"), ("/data", "ext4")], None),
        ([("/data", "ext4"), ("/data", "fuse.sshfs"), ("/", "ext4")], "fuse.sshfs"),
        ([], None),
    ],
)
def test_a_network_file_system_is_the_innermost_and_latest_mount(
    mounts: list[tuple[str, str]], kind: str | None
) -> None:
    assert network_filesystem(Path("/data/my project/runs"), mounts) == kind


def test_this_machine_s_own_mounts_are_read(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path) is None
