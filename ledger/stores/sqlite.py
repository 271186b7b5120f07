"""The embedded ledger: one SQLite file.

Layout: table ``events`` (position, id, stream, version, raw; rowid = position + 1) and table ``heads``
(size, root, frontier), one row per append. Triggers refuse UPDATE, DELETE and replacing inserts on both.

Durability: synchronous=FULL. WAL only where the linked SQLite has the fix for lost commits (3.51.3,
3.50.7, 3.44.6); elsewhere the rollback journal in TRUNCATE mode, whose truncation is synced under FULL,
whereas DELETE mode leaves the unlinking of the journal to the next flush of the folder, so that a power
cut may roll an acknowledged commit back.

One object belongs to one process and one thread; several processes may hold the file at once.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ledger import records
from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.events import Recorded
from ledger.ids import check_stream
from ledger.stores.port import NewEvent, StoredEvent, TreeHead
from ledger.transparency.merkle import EMPTY_ROOT, Frontier, leaf_hash

__all__ = ["SqliteEventStore", "wal_is_safe"]

#: "DLed": says whose file this is (PRAGMA application_id).
_APPLICATION_ID: Final = 0x444C6564
_LAYOUT: Final = 1
_PAGE: Final = 500

_TRIGGERS: Final = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
  BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
  BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
  WHEN {clash}
  BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
_EVENTS_CLASH: Final = (
    "EXISTS (SELECT 1 FROM events WHERE position = NEW.position OR id = NEW.id"
    " OR (stream = NEW.stream AND version = NEW.version))"
)
_HEADS_CLASH: Final = "EXISTS (SELECT 1 FROM heads WHERE size = NEW.size)"


def wal_is_safe(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite has the fix for commits that WAL could lose."""
    return (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )


class SqliteEventStore:
    """An EventStore in one file. A writer creates it where it is absent; a reader never changes anything."""

    def __init__(
        self, path: Path, *, read_only: bool = False, busy_timeout_seconds: float = 30
    ) -> None:
        self._path, self._read_only = path, read_only
        self._frontier: Frontier | None = None
        self._checked_newer = 0
        self._newer: tuple[str, int, str | None] | None = None
        self._db: sqlite3.Connection | None = None
        with self._translated():
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            if not read_only or path.exists():
                self._db = self._connect(busy_timeout_seconds)
                self._prepare(self._db)

    @property
    def where(self) -> str:
        return str(self._path)

    # --- opening ---

    def _connect(self, busy_timeout_seconds: float) -> sqlite3.Connection:
        mode = "rw" if self._read_only and os.access(self._path.parent, os.W_OK) else "rwc"
        mode = "ro" if self._read_only and not os.access(self._path, os.W_OK) else mode
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, timeout=busy_timeout_seconds, isolation_level=None)
        if self._read_only:
            db.execute("PRAGMA query_only=ON")
        db.execute("PRAGMA synchronous=FULL")
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        layout = db.execute("PRAGMA user_version").fetchone()[0]
        empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty and not self._read_only:
            self._create(db)
        elif not empty and owner != _APPLICATION_ID:
            raise LedgerDamagedError(
                self.where, "this SQLite file is not a ledger; nothing was changed"
            )
        elif layout > _LAYOUT:
            raise LedgerUnavailableError(
                self.where,
                f"it has layout {layout}, this program knows {_LAYOUT}: upgrade distill-ledger",
            )
        if empty and self._read_only:
            self.close()
        elif not self._read_only and db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            db.execute("PRAGMA journal_mode=TRUNCATE")

    def _create(self, db: sqlite3.Connection) -> None:
        import sqlite_utils

        db.execute(f"PRAGMA journal_mode={'WAL' if wal_is_safe() else 'TRUNCATE'}")
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                tables = sqlite_utils.Database(db)
                self._create_tables(tables)
                db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={_LAYOUT}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _create_tables(self, tables: Any) -> None:
        db = tables.conn
        db.execute(
            "CREATE TABLE events (rowid INTEGER PRIMARY KEY, position INTEGER NOT NULL UNIQUE"
            " CHECK (rowid = position + 1), id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL,"
            " version INTEGER NOT NULL, raw BLOB NOT NULL, UNIQUE (stream, version))"
        )
        db.execute(
            "CREATE TABLE heads (size INTEGER PRIMARY KEY, root BLOB NOT NULL, frontier BLOB NOT NULL)"
        )
        for table, clash in (("events", _EVENTS_CLASH), ("heads", _HEADS_CLASH)):
            for statement in _TRIGGERS.format(table=table, clash=clash).split("END;\n"):
                if statement.strip():
                    db.execute(statement + "END")

    # --- appending ---

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[NewEvent],
        *,
        now: str,
        actor: str,
    ) -> list[Recorded[Any]]:
        check_stream(stream)
        if not events or len({e.id for e in events}) != len(events):
            raise ValueError("a batch has at least one event, each with an id of its own")
        if self._db is None or self._read_only:
            raise LedgerUnavailableError(self.where, "it was opened for reading")
        db = self._db
        with self._translated():
            db.execute("BEGIN IMMEDIATE")
            try:
                recorded = self._append(db, stream, expected_version, events, now, actor)
                db.execute("COMMIT")
            except BaseException:
                self._frontier = None
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        return recorded

    def _append(
        self,
        db: sqlite3.Connection,
        stream: str,
        expected: int,
        events: Sequence[NewEvent],
        now: str,
        actor: str,
    ) -> list[Recorded[Any]]:
        records.refuse_newer(self.newer_schema())
        row = db.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()
        actual: int = row[0] or 0
        said = records.settle_known(
            events,
            [self._by_id(db, event.id) for event in events],
            stream=stream,
            expected=expected,
            actual=actual,
        )
        if said is not None:
            return said
        frontier = self._tip(db)
        recorded = []
        for version, event in enumerate(events, start=actual + 1):
            raw = records.encode(event, stream=stream, version=version, now=now, actor=actor)
            position = frontier.size
            db.execute(
                "INSERT INTO events (rowid, position, id, stream, version, raw) VALUES (?, ?, ?, ?, ?, ?)",
                (position + 1, position, event.id, stream, version, raw),
            )
            frontier = frontier.append(leaf_hash(raw))
            recorded.append(
                Recorded(
                    position=position,
                    id=event.id,
                    type=event.data.type,
                    schema=event.data.schema_version,
                    stream=stream,
                    version=version,
                    time=now,
                    actor=actor,
                    data=event.data,
                )
            )
        db.execute(
            "INSERT INTO heads (size, root, frontier) VALUES (?, ?, ?)",
            (frontier.size, frontier.root(), frontier.to_bytes()),
        )
        self._frontier = frontier
        return recorded

    def _by_id(self, db: sqlite3.Connection, id_: str) -> Recorded[Any] | None:
        row = db.execute("SELECT position, raw FROM events WHERE id = ?", (id_,)).fetchone()
        return records.parse(row[0], row[1], self.where) if row else None

    def _tip(self, db: sqlite3.Connection) -> Frontier:
        """The frontier of the newest head; the one in memory if nobody appended since."""
        size = db.execute("SELECT max(rowid) FROM events").fetchone()[0] or 0
        if self._frontier is not None and self._frontier.size == size:
            return self._frontier
        row = db.execute("SELECT size, frontier FROM heads ORDER BY size DESC LIMIT 1").fetchone()
        try:
            kept = Frontier.from_bytes(row[0], row[1]) if row else Frontier()
        except ValueError as exc:
            raise LedgerDamagedError(self.where, str(exc), size) from exc
        if kept.size != size:
            raise LedgerDamagedError(
                self.where,
                f"{size} events, but its newest tree head is of {kept.size}",
                min(size, kept.size),
            )
        return kept

    # --- reading ---

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        check_stream(stream)
        rows = self._rows(
            "SELECT position, raw FROM events WHERE stream = ? AND version > ? ORDER BY version",
            (stream, after_version),
        )
        return [records.parse(position, raw, self.where) for position, raw in rows]

    def read_all(self, from_position: int = 0) -> Iterator[Recorded[Any]]:
        for stored in self.read_raw(from_position):
            yield records.parse(stored.position, stored.raw, self.where)

    def read_raw(self, from_position: int = 0) -> Iterator[StoredEvent]:
        # By pages, so that a slow reader never keeps a writer from committing.
        after = from_position
        while rows := self._rows(
            "SELECT position, id, stream, version, raw FROM events"
            " WHERE rowid > ? ORDER BY rowid LIMIT ?",
            (after, _PAGE),
        ):
            for row in rows:
                yield StoredEvent(*row)
            after = rows[-1][0] + 1

    def streams(self, prefix: str = "") -> list[str]:
        rows = self._rows(
            "SELECT stream FROM events WHERE version = 1 AND stream >= ? AND stream < ? ORDER BY rowid",
            (prefix, prefix + "\U0010ffff"),
        )
        return [row[0] for row in rows]

    def head(self) -> TreeHead:
        rows = self._rows("SELECT size, root FROM heads ORDER BY size DESC LIMIT 1")
        return TreeHead(*rows[0]) if rows else TreeHead(0, EMPTY_ROOT)

    def kept_heads(self) -> list[TreeHead]:
        return [TreeHead(*row) for row in self._rows("SELECT size, root FROM heads ORDER BY size")]

    def root_at(self, size: int) -> bytes:
        rows = self._rows("SELECT root FROM heads WHERE size = ?", (size,))
        if rows:
            return bytes(rows[0][0])
        total = self.head().size
        if not 0 <= size <= total:
            raise ValueError(f"the ledger has {total} events, not {size}")
        below = self._rows(
            "SELECT size, frontier FROM heads WHERE size < ? ORDER BY size DESC LIMIT 1", (size,)
        )
        frontier = Frontier.from_bytes(*below[0]) if below else Frontier()
        for (raw,) in self._rows(
            "SELECT raw FROM events WHERE rowid > ? AND rowid <= ? ORDER BY rowid",
            (frontier.size, size),
        ):
            frontier = frontier.append(leaf_hash(raw))
        return frontier.root()

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        # Only events that were added since the last look need one.
        rows = self._rows(
            "SELECT rowid, json_extract(CAST(raw AS TEXT), '$.type'),"
            " json_extract(CAST(raw AS TEXT), '$.schema') FROM events WHERE rowid > ?"
            " AND json_valid(CAST(raw AS TEXT)) ORDER BY rowid",
            (self._checked_newer,),
        )
        for rowid, type_, schema in rows:
            self._checked_newer = rowid
            if self._newer is None and records.is_newer(type_, schema):
                self._newer = (type_, schema, self._written_by())
        return self._newer

    def _written_by(self) -> str | None:
        rows = self._rows(
            "SELECT json_extract(CAST(raw AS TEXT), '$.data.provenance.launcher_version') AS v FROM events"
            " WHERE json_valid(CAST(raw AS TEXT)) AND v IS NOT NULL ORDER BY rowid DESC LIMIT 1"
        )
        return str(rows[0][0]) if rows else None

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        if self._db is None:
            return []
        with self._translated():
            return self._db.execute(sql, parameters).fetchall()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise self._ours(exc) from exc
        except OSError as exc:
            detail = exc.strerror or errno.errorcode.get(exc.errno or 0, "input/output error")
            raise LedgerUnavailableError(self.where, detail) from exc

    def _ours(self, exc: sqlite3.Error) -> LedgerDamagedError | LedgerUnavailableError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return LedgerDamagedError(
                self.where,
                f"{exc}; nothing was changed. Keep the file, put a copy from a backup in its place; "
                "rollback works without it",
            )
        if code == sqlite3.SQLITE_BUSY:
            return LedgerUnavailableError(
                self.where, "another process keeps it locked; run it again"
            )
        return LedgerUnavailableError(self.where, str(exc))
