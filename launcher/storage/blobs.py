"""Hashing: one pass, streaming, for every backend."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from launcher.errors import UnavailableError, UsageError
from launcher.storage.port import BlobInfo

__all__ = [
    "CHUNK_BYTES",
    "StillWrittenError",
    "copy_and_hash",
    "digest_bytes",
    "digest_file",
    "open_source",
]

CHUNK_BYTES: Final = 1024 * 1024
#: What a path that leads to no readable file answers; ENXIO is a socket's.
_NOT_READABLE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}
)


class StillWrittenError(UsageError):
    """A file changed while it was read, more than once; nothing of it was kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is still being written", "try again when it is whole")
        self.path = path


def digest_bytes(data: bytes) -> BlobInfo:
    """The digest and size of bytes."""
    return BlobInfo("sha256:" + hashlib.sha256(data).hexdigest(), len(data))


def copy_and_hash(source: BinaryIO, write: Callable[[bytes], object] | None = None) -> BlobInfo:
    """Read ``source`` to its end, in chunks; hash what is read and hand it to ``write``."""
    sha, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        sha.update(chunk)
        size += len(chunk)
        if write is not None:
            write(chunk)
    return BlobInfo("sha256:" + sha.hexdigest(), size)


def digest_file(path: Path) -> BlobInfo:
    """The digest and size of a file. Raises UsageError (no readable file), UnavailableError (I/O)."""
    with open_source(path) as (file, _):
        try:
            return copy_and_hash(file)
        except OSError as exc:
            raise UnavailableError(f"cannot read {path}: {exc.strerror}") from exc


@contextmanager
def open_source(path: Path) -> Iterator[tuple[BinaryIO, Callable[[BlobInfo], bool]]]:
    """A regular file, open for reading, and whether what was read of it is what it is now.

    The answer is no where the path names another file by then, or the file's size or time changed.
    Raises UsageError for anything that is no regular file, or may not be read; UnavailableError (I/O).
    """
    with _opened(path) as file:
        before = os.fstat(file.fileno())

        def unchanged(read: BlobInfo) -> bool:
            try:
                after = path.stat()
            except OSError:
                return False
            return _identity(before) == _identity(after) and read.size_bytes == after.st_size

        yield file, unchanged


def _opened(path: Path) -> BinaryIO:
    try:
        # Not blocking, so that a pipe that takes the file's place is refused and not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        error = UsageError if exc.errno in _NOT_READABLE else UnavailableError
        raise error(f"cannot read {path}: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is not a file")
    return open(fd, "rb")


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
