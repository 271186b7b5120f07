"""Buckets for tests of the ledger in a bucket: one in memory, and folders through the launcher's own adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import LedgerObjects
from ledger.stores.log_port import KeyTakenError, LogObjects, NoAnswerError


class MemoryObjects:
    """Create-only objects in a dict; ``objects`` is open to a test that tampers."""

    def __init__(self, where: str = "memory://bucket") -> None:
        self.where = where
        self.objects: dict[str, bytes] = {}
        self._lock = Lock()

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            if key in self.objects:
                raise KeyTakenError(key)
            self.objects[key] = data

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        with self._lock:
            keys = sorted(k for k in self.objects if k.startswith(prefix) and k > after)
        return iter(keys)


def folder_objects(folder: Path) -> LogObjects:
    """A store in ``folder``, as the launcher has it."""
    return LedgerObjects(FilesystemStore(folder))


class FaultyObjects:
    """A bucket behind a bad line. ``plan`` says, create by create, what becomes of it; then all is well.

    ``lost``: refused or dropped before it was applied. ``landed``: applied, not answered. ``late``: not
    answered, applied when ``deliver`` is called. ``deaf``: landed, and the next read is not answered either.
    """

    def __init__(self, inner: LogObjects, plan: Iterable[str] = ()) -> None:
        self.inner, self.plan = inner, list(plan)
        self.calls: list[str] = []
        self._late: list[tuple[str, bytes]] = []
        self._deaf = False

    @property
    def where(self) -> str:
        return self.inner.where

    def create(self, key: str, data: bytes) -> None:
        self.calls.append(f"create {key}")
        fault = self.plan.pop(0) if self.plan else "well"
        if fault == "late":
            self._late.append((key, data))
        elif fault != "lost":
            self.inner.create(key, data)
        if fault != "well":
            self._deaf = fault == "deaf"
            raise NoAnswerError(self.where, "no answer")

    def read(self, key: str) -> bytes | None:
        self.calls.append(f"read {key}")
        if self._deaf:
            self._deaf = False
            raise NoAnswerError(self.where, "no answer")
        return self.inner.read(key)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        self.calls.append(f"list {after}")
        return self.inner.list(prefix, after)

    def deliver(self) -> int:
        """Let the late creates arrive; how many of them were applied."""
        late, self._late = self._late, []
        applied = 0
        for key, data in late:
            with suppress(KeyTakenError):
                self.inner.create(key, data)
                applied += 1
        return applied
