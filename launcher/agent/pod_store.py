"""A store for collecting within a pod's memory: of files that are not small only so many at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from launcher.storage.port import BlobInfo, ObjectStore, Progress

__all__ = ["sparing"]

_SMALL_BYTES: Final = 1024 * 1024
#: Measured: 26 MiB each, of 8 MiB, on their way into a bucket.
_AT_ONCE: Final = 3


def sparing(store: ObjectStore) -> ObjectStore:
    """``store``, for several threads that ingest files of any size."""
    return cast("ObjectStore", _Sparing(store))


class _Sparing:
    """All else is the store's own."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._room = threading.BoundedSemaphore(_AT_ONCE)

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        """See the port."""
        try:
            is_small = source.stat().st_size <= _SMALL_BYTES
        except OSError:
            is_small = True  # what is wrong with it, the store says
        if is_small:
            return self._store.ingest(source, progress)
        with self._room:
            return self._store.ingest(source, progress)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)
