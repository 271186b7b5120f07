"""One SQLite file, opened well, and its errors in our words. Knows no table.

Rules:

1. Every error of sqlite3 leaves as LedgerUnavailableError (run it again once the cause is gone) or
   LedgerDamagedError (stop; nothing is ever repaired or reset here). Misuse of the API stays as it is.
2. A connection that met anything worse than a lock is dropped; the next use opens a fresh one.
3. A reader opens the file read-only. Only where a killed writer left a journal to roll back (or a WAL to
   recover) does it open it for writing, with ``query_only``, so that SQLite can do that and nothing else.
4. A connection is used by the process and thread that opened it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from ledger.errors import LedgerDamagedError, LedgerUnavailableError

__all__ = ["Connection"]

_READ_ONLY_FAILURES: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        # A table, index or trigger is not what we made, or refuses what only a damaged index can clash with.
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
_ADVICE: Final = (
    "nothing was changed; keep the file, put a copy from a backup in its place, and let "
    "`launcher audit` say what is intact"
)
_WORDS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it cannot be written",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_IOERR: "reading or writing failed",
}


class Connection:
    """``prepare`` gets each fresh sqlite3 connection before its first use, and may raise our errors.

    The file is never created here: a reader takes a missing one for an empty one, a writer fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool,
        busy_timeout_seconds: float,
        prepare: Callable[[sqlite3.Connection], None],
    ) -> None:
        self.path, self.read_only = path, read_only
        self._timeout, self._prepare = busy_timeout_seconds, prepare
        self._db: sqlite3.Connection | None = None
        self._pid = os.getpid()

    @property
    def where(self) -> str:
        return str(self.path)

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of one query; none where a reader finds no file."""
        try:
            with self.translated():
                db = self._open("ro" if self.read_only else "rw")
                return db.execute(sql, parameters).fetchall() if db else []
        except LedgerUnavailableError as exc:
            if not (self.read_only and _code(exc.__cause__) in _READ_ONLY_FAILURES):
                raise
        with self.translated():
            db = self._open("rw")
            return db.execute(sql, parameters).fetchall() if db else []

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE … COMMIT: durable once left; rolled back when left by an error."""
        with self.translated():
            db = self._open("rw")
            if db is None or self.read_only:
                raise LedgerUnavailableError(self.where, "it was opened for reading")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    # A roll-back that fails is made good by whoever opens the file next.
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
                raise

    def open(self) -> None:
        """Open now, so that what is wrong with the file is said at once."""
        self.rows("SELECT count(*) FROM sqlite_master")

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None and os.getpid() == self._pid:
            db.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn sqlite3's errors, and the file system's, into ours."""
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise
        except sqlite3.Error as exc:
            ours = self._ours(exc)
            if _code(exc) != sqlite3.SQLITE_BUSY:
                self.close()
            raise ours from exc
        except OSError as exc:
            raise LedgerUnavailableError(self.where, exc.strerror or str(exc)) from exc

    def _open(self, mode: Literal["ro", "rw"]) -> sqlite3.Connection | None:
        if os.getpid() != self._pid:
            raise RuntimeError("a SQLite ledger was carried over a fork: open it again")
        if self._db is None:
            if self.read_only and not self.path.exists():
                return None
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            db = sqlite3.connect(uri, uri=True, timeout=self._timeout, isolation_level=None)
            try:
                if self.read_only:
                    db.execute("PRAGMA query_only=ON")
                else:
                    db.execute("PRAGMA synchronous=FULL")
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _ours(self, exc: sqlite3.Error) -> LedgerDamagedError | LedgerUnavailableError:
        code = _code(exc)
        if code in _DAMAGE:
            return LedgerDamagedError(self.where, f"{exc}; {_ADVICE}")
        if code == sqlite3.SQLITE_BUSY:
            return LedgerUnavailableError(
                self.where,
                f"locked by another process for longer than {self._timeout:g} s; run it again",
            )
        return LedgerUnavailableError(self.where, f"{_WORDS.get(code, 'it failed')} ({exc})")


def _code(exc: BaseException | None) -> int:
    """The primary result code of an error of sqlite3; 0 for anything else."""
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF
