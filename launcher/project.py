"""The project root, and how paths, pointers and code are named relative to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
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

#: File systems whose files lie on another machine: locks and fsync there are not what SQLite needs.
_NETWORK: Final = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afpfs",
        "webdav",
        "davfs",
        "9p",
        "lustre",
        "glusterfs",
        "ceph",
        "afs",
        "beegfs",
        "gpfs",
        "orangefs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.rclone",
        "fuse.juicefs",
    )
)
#: What a git hook, or a shell inside one, leaves behind would make git look at another repository.
_GIT_PLACES: Final = frozenset(
    ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
)
_GIT_SECONDS: Final = 5


def relative_to_project(path: Path, root: Path) -> str:
    """``path`` as documents show it: relative (POSIX) inside ``root``, absolute elsewhere; links kept.

    Inside is what lies there by name, or under another name of ``root`` itself (a link to it).
    """
    absolute = os.path.normpath(root / path)
    if os.path.commonpath([absolute, root]) == str(root):
        return PurePosixPath(os.path.relpath(absolute, root)).as_posix()
    for above in Path(absolute).parents:
        if above.name and _same_folder(above, root):
            return PurePosixPath(os.path.relpath(absolute, above)).as_posix()
    return absolute


def _same_folder(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def is_file_target(target: str) -> bool:
    """Whether a target is a file that is kept in step, rather than a pointer's bare name."""
    return "/" in target or target.lower().endswith(CHECKPOINT_SUFFIXES)


def pointer_name(target: str, root: Path) -> str:
    """The pointer that a target names. Raises UsageError for a name outside the allowlist."""
    try:
        if not is_file_target(target):
            return check_pointer_name(target)
        if ".." in PurePosixPath(target).parts:
            raise InvalidNameError("pointer name", target, "no '..'")
        if target.startswith("-") or not target.isprintable():
            raise InvalidNameError("pointer name", target, "printable text, no leading dash")
        name = check_pointer_name(relative_to_project(root / target, root))
    except InvalidNameError as exc:
        raise UsageError(str(exc)) from exc
    if not is_file_target(name):
        raise UsageError(
            f"target {target} is a file in the project root without a checkpoint's suffix",
            f"name it like {name}.pt, or {name} alone for a pointer without a file",
        )
    if (root / name).is_dir():
        raise UsageError(f"target {target} is a folder")
    return name


def provenance(root: Path) -> Provenance:
    """Which code is in ``root``: commit and number of changed or untracked files, None outside git."""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return Provenance(launcher_version=__version__)
    status = _git(
        root,
        *("status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty"),
        settings=_without_filters(root),
    )
    return Provenance(
        source_commit=commit.strip(),
        dirty=None if status is None else _entries(status),
        launcher_version=__version__,
    )


def _entries(status: str) -> int:
    """How many entries ``git status --porcelain -z`` lists; a rename's old path follows as a part of its own."""
    parts = iter(status.split("\0"))
    count = 0
    for part in parts:
        if part:
            count += 1
            if part[0] in "RC":
                next(parts, None)
    return count


def _without_filters(root: Path) -> list[tuple[str, str]]:
    """Settings that take away the filter programs which the repository itself names; ``status`` would run them."""
    listed = _git(root, "config", "--list", "--show-scope", "--name-only", "-z") or ""
    fields = listed.split("\0")
    drivers = {
        name[len("filter.") : name.rindex(".")]
        for scope, name in zip(fields[::2], fields[1::2], strict=False)
        if scope in ("local", "worktree") and name.startswith("filter.") and name.count(".") > 1
    }
    taken = ("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")
    return [(f"filter.{d}.{key}", value) for d in sorted(drivers) for key, value in taken]


def _git(root: Path, *arguments: str, settings: Iterable[tuple[str, str]] = ()) -> str | None:
    # A repository's own settings could name a program for git to run; none of them is wanted here.
    environment = {k: v for k, v in os.environ.items() if k not in _GIT_PLACES}
    unwanted = [("core.fsmonitor", "false"), ("core.hooksPath", os.devnull), *settings]
    for number, (key, value) in enumerate(unwanted):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**environment, "GIT_CONFIG_COUNT": str(len(unwanted)), "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def network_filesystem(path: Path, mounts: Iterable[tuple[str, str]] | None = None) -> str | None:
    """The type of the network file system that ``path`` lies on, or None where it is local or unknown.

    ``mounts`` are (mount point, type), in the order in which they were mounted; None is this machine's own.
    """
    place = os.path.realpath(path)
    best = ("", "")
    for point, kind in _mounts() if mounts is None else mounts:
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # Of two at one point the later one covers the earlier.
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1] if best[1] in _NETWORK else None


def _mounts() -> list[tuple[str, str]]:
    import psutil  # here: only doctor asks

    return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
