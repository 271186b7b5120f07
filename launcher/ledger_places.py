"""Where a ledger may be, as a person names it: a file, a home, a store's folder, ``s3://bucket/prefix``.

Rules:

1. A folder that has a ``ledger.db`` is a home; one that has ``ledger/log/`` is a store that keeps a ledger; any
   other, and one that is not there, is a home to be. A path that ends in ``.db`` is a ledger's file.
2. A copy into a file that is not there yet is made beside it, in ``<name>.copying``, and gets its name when it is
   whole and was verified; stopped on the way it is found there and gone on with.
3. A bucket has no such second name: a copy that was stopped is a beginning, which ``open_workspace`` refuses to
   write to as long as the home's own file has more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import ConflictError, UnavailableError, UsageError
from launcher.storage.bucket_url import is_bucket
from launcher.storage.caches import user_cache
from launcher.storage.durable import take_name
from launcher.storage.ledger_objects import open_ledger
from launcher.storage.opening import open_store
from launcher.workspace import ledger_file
from ledger.stores.port import EventStore
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["Target", "copying_into", "open_source"]

_ASIDE: Final = ".copying"
_SQLITE_SIDES: Final = ("-journal", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Target:
    """``ledger`` is what is written to; ``where`` is what a person calls it once it is whole."""

    ledger: EventStore
    where: str


@contextmanager
def open_source(place: str, root: Path) -> Iterator[EventStore]:
    """The ledger at ``place``, for reading; empty where there is none. Raises UsageError, UnavailableError."""
    ledger = _in_store(place, root, writing=False)
    if ledger is None:
        ledger = SqliteEventStore(_file(place, root), read_only=True)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def copying_into(place: str, root: Path) -> Iterator[Target]:
    """The ledger at ``place``, to be copied into; a file gets its name when the block ends well.

    Raises ConflictError where somebody else made one there meanwhile.
    """
    ledger = _in_store(place, root, writing=True)
    if ledger is not None:
        try:
            yield Target(ledger, ledger.where)
        finally:
            ledger.close()
        return
    file = _file(place, root)
    aside = file if file.exists() else file.with_name(file.name + _ASIDE)
    sqlite = SqliteEventStore(aside)
    try:
        yield Target(sqlite, str(file))
    finally:
        sqlite.close()
    if aside != file:
        _name(aside, file)


def _name(aside: Path, file: Path) -> None:
    sides = [Path(f"{aside}{side}") for side in _SQLITE_SIDES]
    if any(side.exists() and side.stat().st_size for side in sides):
        raise UnavailableError(f"{aside} is still open elsewhere", "run it again")
    try:
        take_name(aside, file)
        for left in (aside, *sides):
            left.unlink(missing_ok=True)
    except FileExistsError as exc:
        raise ConflictError(f"{file} was made meanwhile", f"remove {aside}, or copy again") from exc
    except OSError as exc:
        raise UnavailableError(f"{file}: {exc.strerror}") from exc


def _in_store(place: str, root: Path, *, writing: bool) -> EventStore | None:
    """The ledger in a bucket, or in a store's folder; None where it is a file."""
    folder = root / place
    in_folder = not ledger_file(folder).exists() and (folder / "ledger" / "log").is_dir()
    if not is_bucket(place) and not in_folder:
        return None
    store = open_store(place if is_bucket(place) else str(folder))
    return open_ledger(store, user_cache("ledgers"), writing=writing)


def _file(place: str, root: Path) -> Path:
    if "://" in place:
        raise UsageError(
            f"{place.partition('://')[0]}://… is no place of a ledger", "s3://bucket/prefix"
        )
    path = Path(os.path.normpath(root / place))
    if path.is_file() or (path.suffix == ".db" and not path.is_dir()):
        return path
    return ledger_file(path)
