"""Buckets for tests of the ledger in a bucket: one in memory, and folders through the launcher's own adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import LedgerObjects
from ledger.stores.log_port import KeyTakenError, LogObjects


class MemoryObjects:
    """Create-only objects in a dict; ``objects`` is open to a test that tampers."""

    def __init__(self, where: str = "memory://bucket") -> None:
        self.where = where
        self.objects: dict[str, bytes] = {}
        self._lock = Lock()

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            if self.objects.setdefault(key, data) is not data:
                raise KeyTakenError(key)

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        with self._lock:
            keys = sorted(k for k in self.objects if k.startswith(prefix) and k > after)
        return iter(keys)


def folder_objects(folder: Path) -> LogObjects:
    """A store in ``folder``, as the launcher has it."""
    return LedgerObjects(FilesystemStore(folder))
