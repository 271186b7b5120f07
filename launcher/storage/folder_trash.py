"""The trash of a store in a folder: ``trash/<date>/``, by rename. Raises OSError; the store translates it.

Rules:

1. A blob is moved by one rename, so it is in one place or the other whatever happens. The copy of a blob that
   was moved back keeps its name in the trash: whoever removed that name could take the last one away from under
   somebody who moves the blob out again.
2. A blob that is moved gets the moment of the move as its time, so a date in a wrong clock is not all that says
   how long it has lain there; one that is moved back is as young as one that was just stored.
3. What is moved is durable before anybody hears of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from launcher.errors import UsageError
from launcher.storage.blobs import copy_and_hash
from launcher.storage.durable import sync_folder, take_name
from launcher.storage.port import blob_key, trash_key, trash_prefix
from ledger.ids import check_digest

__all__ = ["FolderTrash"]


class FolderTrash:
    """Blobs out of use, under ``root``. ``make`` makes a folder durably."""

    def __init__(self, root: Path, make: Callable[[Path], None]) -> None:
        self._root, self._make = root, make

    def dates(self) -> list[str]:
        """Ascending; anything else that lies there is nobody's trash."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(p.name for p in (self._root / "trash").iterdir() if _is_date(p.name))
        return []

    def places(self, digest: str) -> Iterator[Path]:
        """Where a blob may lie, its own place first and, as it may be moved back meanwhile, last."""
        key = blob_key(check_digest(digest))
        yield self._root / key
        for date in reversed(self.dates()):
            yield self._root / trash_prefix(date) / key
        yield self._root / key

    def discard(self, digests: Iterable[str], date: str) -> None:
        """Move blobs to the trash of ``date``; what is not there is passed over."""
        left, taken = set[Path](), set[Path]()
        try:
            for digest in digests:
                source = self._root / blob_key(check_digest(digest))
                target = self._root / trash_key(date, digest)
                if self._moved(source, target):
                    left.add(source.parent)
                    taken.add(target.parent)
        finally:
            for folder in (*sorted(taken), *sorted(left)):
                sync_folder(folder)

    def put_back(self, digest: str) -> str | None:
        """Give a blob its place again, if the trash of any date has it whole.

        Returns what is wrong with what the trash has, where that is all there is.
        """
        final, *places, _ = self.places(digest)
        damaged = None
        for place in places:
            try:
                with place.open("rb") as file:
                    found = copy_and_hash(file)
                if found.digest != digest:
                    damaged = f"its {found.size_bytes} bytes in the trash hash to {found.digest}"
                    continue
                self._make(final.parent)
                _touch(place)
                take_name(place, final)
            except FileNotFoundError:
                continue  # never there, or emptied just now
            except FileExistsError:
                pass  # somebody put it there meanwhile
            return None
        return damaged

    def empty(self, date: str, digests: Iterable[str]) -> None:
        """Delete blobs from the trash of a date, and the folders that are empty then."""
        top = self._root / trash_prefix(date)
        for digest in digests:
            (self._root / trash_key(date, digest)).unlink(missing_ok=True)
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # something is in it
                os.rmdir(folder)  # noqa: PTH106

    def _moved(self, source: Path, target: Path) -> bool:
        for _ in range(2):
            self._make(target.parent)
            if _same(source, target):
                source.unlink(missing_ok=True)  # rename(2) leaves two names of one file as they are
                return True
            _touch(source)
            try:
                os.rename(source, target)  # noqa: PTH104
            except FileNotFoundError:
                if not source.exists():
                    return False
                continue  # somebody emptied the trash of this date, folders and all
            return True
        return False


def _touch(path: Path) -> None:
    with suppress(OSError):  # another user's file keeps its time
        os.utime(path)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_date(name: str) -> bool:
    try:
        trash_prefix(name)
    except UsageError:
        return False
    return True
