"""The ledger's view of a store: four verbs, and the ledger's own errors. Makes one attempt per call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher import clock
from launcher.agent.protocol import boot_id
from launcher.errors import IntegrityError, UnavailableError
from launcher.storage.bucket_url import is_bucket
from launcher.storage.port import ObjectExistsError, ObjectNotFoundError, ObjectStore
from ledger.errors import LedgerDamagedError
from ledger.stores.log_port import KeyTakenError, NoAnswerError
from ledger.stores.objects import ObjectsEventStore

__all__ = ["LedgerObjects", "cache_folder", "open_ledger"]


class LedgerObjects:
    """``ledger.stores.log_port.LogObjects`` over any store. What is neither "no answer" nor damage passes as it is."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def where(self) -> str:
        """The store."""
        return self._store.where

    def create(self, key: str, data: bytes) -> None:
        """See the port."""
        with self._translated():
            try:
                self._store.create(key, data)
            except ObjectExistsError as exc:
                raise KeyTakenError(key) from exc

    def read(self, key: str) -> bytes | None:
        """See the port."""
        with self._translated():
            try:
                return self._store.read(key)
            except ObjectNotFoundError:
                return None
            except IntegrityError as exc:
                # The store asked for it again often enough.
                what = f"{key} does not come whole, or is not what its checksum says"
                raise LedgerDamagedError(self.where, what) from exc

    def list(self, prefix: str, after: str) -> Iterator[str]:
        """See the port."""
        with self._translated():
            for info in self._store.list(prefix, after):
                yield info.key

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except UnavailableError as exc:
            raise NoAnswerError(self.where, _without(str(exc), self.where)) from exc


def _without(text: str, place: str) -> str:
    """A message that begins with the place, less that: whoever shows it says the place first."""
    for between in (": ", " "):
        if text.startswith(place + between):
            return text.removeprefix(place + between)
    return text


def cache_folder(store: ObjectStore, caches: Path) -> Path:
    """Where under ``caches`` the cache of the ledger in ``store`` lies."""
    identity = getattr(store, "identity", store.where)
    return caches / hashlib.sha256(identity.encode()).hexdigest()[:16]


def open_ledger(
    store: ObjectStore, caches: Path | None, *, writing: bool, packed: bool = True
) -> ObjectsEventStore:
    """The ledger in ``store``; its cache is a folder of its own under ``caches``, or memory for None.

    ``packed`` False: every segment is read itself.
    """
    return ObjectsEventStore(
        LedgerObjects(store),
        cache_folder(store, caches) if caches else None,
        sleep=clock.sleep,
        # A bucket's client tries again by itself.
        tries=2 if is_bucket(store.where) else 6,
        boot=boot_id(),
        read_only=not writing,
        packed=packed,
    )
