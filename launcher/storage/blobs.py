"""Hashing: one pass, streaming, for every backend."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from launcher.errors import UnavailableError, UsageError
from launcher.storage.port import BlobInfo

__all__ = ["CHUNK_BYTES", "copy_and_hash", "digest_bytes", "digest_file"]

CHUNK_BYTES: Final = 1024 * 1024


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
    """The digest and size of a file. Raises UsageError (no regular file), UnavailableError (I/O)."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            return copy_and_hash(file)
    except OSError as exc:
        raise UnavailableError(f"cannot read {path}: {exc.strerror}") from exc
