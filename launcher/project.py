"""The project root, and how paths, pointers and code are named relative to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Final

from launcher import __version__
from launcher.errors import UsageError
from launcher.storage.manifest import CHECKPOINT_SUFFIXES
from ledger.errors import InvalidNameError
from ledger.events import Provenance
from ledger.ids import check_pointer_name

__all__ = [
    "is_file_target",
    "network_filesystem",
    "pointer_name",
    "provenance",
    "relative_to_project",
]

_NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "fuse.sshfs",
        "9p",
        "lustre",
        "glusterfs",
        "ceph",
        "afs",
    }
)
_GIT_SECONDS: Final = 5


def relative_to_project(path: Path, root: Path) -> str:
    """``path`` as documents show it: relative (POSIX) inside ``root``, absolute elsewhere; links kept."""
    absolute = os.path.normpath(root / path)
    if os.path.commonpath([absolute, root]) == str(root):
        return PurePosixPath(os.path.relpath(absolute, root)).as_posix()
    return absolute


def is_file_target(target: str) -> bool:
    """Whether a target is a file that is kept in step, rather than a pointer's bare name."""
    return "/" in target or target.lower().endswith(CHECKPOINT_SUFFIXES)


def pointer_name(target: str, root: Path) -> str:
    """The pointer that a target names. Raises UsageError for a name outside the allowlist."""
    try:
        if (
            target.startswith("-")
            or any(ord(c) < 32 or ord(c) == 127 for c in target)
            or not target
        ):
            check_pointer_name(target)
            raise UsageError(f"target {target!r} is not allowed")
        if not is_file_target(target):
            return check_pointer_name(target)
        if ".." in PurePosixPath(target).parts:
            raise InvalidNameError("pointer name", target, "no '..'")
        name = check_pointer_name(relative_to_project(root / target, root))
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc
    if (root / name).is_dir():
        raise UsageError(f"target {target} is a folder")
    return name


def provenance(root: Path) -> Provenance:
    """Which code is in ``root``: commit and number of changed or untracked files, None outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "-z") if commit else None
    dirty = None if status is None else sum(len(s) > 3 and s[2] == " " for s in status.split("\0"))
    return Provenance(
        source_commit=commit.strip() if commit else None, dirty=dirty, launcher_version=__version__
    )


def _git(root: Path, *arguments: str) -> str | None:
    # A repository's own settings could name a program for git to run; none of them is wanted here.
    command = [
        "git",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "-C",
        str(root),
    ]
    try:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def network_filesystem(path: Path) -> str | None:
    """The type of the network file system that ``path`` lies on, or None where it is local or unknown."""
    import psutil

    place = os.path.realpath(path)
    best = ("", "")
    for part in psutil.disk_partitions(all=True):
        inside = os.path.commonpath([place, part.mountpoint]) == part.mountpoint
        if inside and len(part.mountpoint) > len(best[0]):
            best = (part.mountpoint, part.fstype)
    return best[1] if best[1] in _NETWORK else None
