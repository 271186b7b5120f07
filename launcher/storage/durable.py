"""The file-system calls that the folder store stands on. They raise OSError; callers translate it.

Rules:

1. A name is taken once: by ``link``, or where there are no hard links by a rename that refuses to replace.
2. What is there is durable before anybody hears of it, the answer "it is taken" included.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["clone", "make_folder", "sync_file", "sync_folder", "take_name"]

#: What ``link`` says on file systems without hard links (FAT, some FUSE and SMB mounts).
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
#: From <linux/fs.h>: _IOW(0x94, 9, int).
_FICLONE: Final = 0x40049409
#: From <linux/fcntl.h> and <linux/fs.h>.
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
#: From macOS's <sys/stdio.h>.
_RENAME_EXCL: Final = 4


def sync_file(fd: int) -> None:
    """Make a file's bytes durable, past the disk's own cache: F_FULLFSYNC on macOS, fsync(2) elsewhere."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(fd, full)
    else:
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable, where the file system has a call for it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some FUSE and SMB mounts
            raise
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, each durable; one that is there already is left as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def take_name(temporary: Path, final: Path) -> None:
    """Give the file ``temporary`` the name ``final``, durably, unless that is taken.

    Afterwards ``temporary`` may or may not be there. Raises FileExistsError once what is there is
    durable too, OSError(ENOTSUP) where the file system can do neither a link nor such a rename.
    """
    try:
        try:
            os.link(temporary, final)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            rename_exclusively(temporary, final)
    except FileExistsError:
        # A link over NFS that landed is answered with EEXIST when its first answer was lost.
        ours = temporary.exists() and temporary.samefile(final)
        sync_folder(final.parent)
        if not ours:
            raise
    else:
        sync_folder(final.parent)


def rename_exclusively(source: Path, final: Path) -> None:
    """Rename without replacing: renameat2(2) on Linux, renamex_np(2) on macOS.

    Raises FileExistsError, OSError(ENOTSUP) where there is no such call.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(final)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, ctypes.c_uint(_RENAME_EXCL))
        else:
            here = ctypes.c_int(_AT_FDCWD)
            flags = ctypes.c_uint(_RENAME_NOREPLACE)
            failed = libc.renameat2(here, names[0], here, names[1], flags)
    except AttributeError as exc:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(final)) from exc
    if failed:
        code = ctypes.get_errno()
        unsupported = code in (errno.EINVAL, errno.ENOSYS)
        code = errno.ENOTSUP if unsupported else code
        raise OSError(code, os.strerror(code), str(final))


def clone(source: int, target: int) -> bool:
    """Make the empty file ``target`` share ``source``'s blocks, copied when either is written to.

    Both are descriptors. False where the file system cannot (ioctl_ficlone(2)); ``target`` is then empty.
    """
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
