"""Which store a setting names."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import UsageError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectStore

__all__ = ["is_bucket", "open_store"]


def is_bucket(place: str) -> bool:
    """Whether a setting names a bucket and not a folder."""
    return place.startswith("s3://")


def open_store(place: str | Path) -> ObjectStore:
    """The store at a folder's path or an ``s3://bucket/prefix`` URL. Does no I/O.

    Raises UsageError for a URL that is none.
    """
    if isinstance(place, str) and is_bucket(place):
        from launcher.storage.s3 import S3Store  # here: it is not needed for a folder

        return S3Store(place)
    if isinstance(place, str) and "://" in place:
        scheme = place.partition("://")[0]
        raise UsageError(f"no store is known under {scheme}://", "a folder, or s3://bucket/prefix")
    return FilesystemStore(Path(place))
