"""Which file is the cache of a log now. Files are numbered, and a number is used once.

A file that is damaged, of another log, or written under another boot gives way to the next number; what
can be proved of its segments is carried over. Nobody else's open file is ever written anew under its name
(SQLite would mix up the two files' journals), so several processes may replace and read at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.stores._segment_cache import SegmentCache
from ledger.stores.segments import Segment

__all__ = ["SegmentCaches", "newest_file"]

_NAME: Final = re.compile(r"segments-([0-9]{6})\.db")
#: How often one process replaces a damaged file before it says so.
_RENEWALS: Final = 3


class SegmentCaches:
    """The cache in ``folder`` (None: in memory) of the log called ``log``, trusted under ``boot``."""

    def __init__(self, folder: Path | None, log: str, boot: str) -> None:
        self._folder, self._log, self._boot = folder, log, boot
        self._cache: SegmentCache | None = None
        self._number = 0
        self._renewals = 0

    def current(self) -> SegmentCache:
        """The cache in use, opened now if none is."""
        if self._cache is None:
            self._cache = self._opened()
        return self._cache

    def renew(self, *, salvage: bool) -> bool:
        """Put an empty cache in the place of this one, with what ``salvage`` can prove of it.

        False once that was done too often to help.
        """
        self._renewals += 1
        if self._renewals > _RENEWALS:
            return False
        old = self.current()
        try:
            self._cache = self._next(old if salvage else None)
        except LedgerUnavailableError:
            self.forget()
        old.close()
        return True

    def forget(self) -> bool:
        """Go on in memory, where no file can be used; False if that is so already."""
        if self._folder is None:
            return False
        self.close()
        self._folder = None
        return True

    def close(self) -> None:
        """Idempotent."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def _opened(self) -> SegmentCache:
        if self._folder is None:
            return self._made(None)
        try:
            self._number = max([1, *self._numbers()])
            try:
                cache = self._made(self._path(self._number))
            except LedgerDamagedError:
                return self._next(None)
            try:
                log, boot = cache.about()
            except LedgerDamagedError:
                log, boot = "", ""
            if (log, boot) == (self._log, self._boot):
                return cache
            try:
                return self._next(cache if log == self._log else None)
            finally:
                cache.close()
        except LedgerUnavailableError:
            self._folder = None
            return self._made(None)

    def _next(self, old: SegmentCache | None) -> SegmentCache:
        """The cache of the next number: perhaps made by another process that had the same reason."""
        if self._folder is None:
            return self._made(None)
        newest = max([0, *self._numbers()])
        self._number = newest if newest > self._number else self._number + 1
        cache = self._made(self._path(self._number))
        if old is not None:
            with suppress(LedgerDamagedError):
                cache.absorb(_readable(old, cache.tip().sequence))
        for number in self._numbers():
            if number < self._number:
                for name in (self._path(number), Path(f"{self._path(number)}-journal")):
                    with suppress(OSError):
                        name.unlink()
        return cache

    def _made(self, path: Path | None) -> SegmentCache:
        return SegmentCache(path, log=self._log, boot=self._boot)

    def _path(self, number: int) -> Path:
        return _file(self._folder or Path(), number)

    def _numbers(self) -> list[int]:
        return _numbers_in(self._folder) if self._folder else []


def newest_file(folder: Path) -> Path | None:
    """The file in ``folder`` that is the cache now; None where there is none. Raises LedgerUnavailableError."""
    numbers = _numbers_in(folder)
    return _file(folder, max(numbers)) if numbers else None


def _file(folder: Path, number: int) -> Path:
    return folder / f"segments-{number:06d}.db"


def _numbers_in(folder: Path) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise LedgerUnavailableError(str(folder), exc.strerror or str(exc)) from exc
    return [int(match[1]) for match in map(_NAME.fullmatch, names) if match]


def _readable(old: SegmentCache, after: int) -> Iterator[Segment]:
    """The old cache's segments up to the first that is damaged; ``absorb`` checks how they hang together."""
    with suppress(LedgerDamagedError, LedgerUnavailableError):
        yield from old.segments(after)
