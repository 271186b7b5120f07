"""The embedded ledger: one SQLite file.

Its layout is in _sqlite_layout: an event's row is its position + 1.

Durability: synchronous=FULL. WAL only where the linked SQLite has the fix for lost commits (3.51.3,
3.50.7, 3.44.6); elsewhere the rollback journal in TRUNCATE mode, whose truncation is synced under FULL,
whereas DELETE mode leaves the unlinking of the journal to the next flush of the folder, so that a power
cut may roll an acknowledged commit back.

One object belongs to one process and one thread; several processes may hold the file at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ledger import records
from ledger.errors import LedgerDamagedError, NewerSchemaError, VersionConflictError
from ledger.events import Recorded
from ledger.ids import check_stream
from ledger.stores._sqlite_connection import Connection
from ledger.stores._sqlite_layout import APPLICATION_ID, LAYOUT, create, wal_is_safe
from ledger.stores.port import NewEvent, StoredEvent, TreeHead
from ledger.transparency.merkle import EMPTY_ROOT, Frontier, leaf_hash

__all__ = ["SqliteEventStore", "wal_is_safe"]

#: Rows read at a time, so that a slow reader never keeps a writer from committing.
_PAGE: Final = 500
_STORED: Final = "SELECT rowid - 1, id, stream, version, raw FROM events"
#: Events, the newest head's size and frontier (0 and none for none), a stream's version.
_TIP: Final = (
    "SELECT (SELECT coalesce(max(rowid), 0) FROM events), coalesce(max(size), 0),"
    " coalesce(frontier, x''),"
    " (SELECT coalesce(max(version), 0) FROM events WHERE stream = ?) FROM heads"
)


class SqliteEventStore:
    """An EventStore in one file. A writer creates it, and its folder, where absent.

    A reader changes nothing and takes a missing file for an empty ledger. ``on_connect`` gets every fresh
    sqlite3 connection before its first use (for tests that trace or limit it).
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        busy_timeout_seconds: float = 30,
        on_connect: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        self._on_connect = on_connect
        self._kept = Frontier()
        self._seen_size = -1
        self._newer: tuple[str, int, str | None] | None = None
        self._schemas: set[tuple[str, int]] = set()
        self._file = Connection(
            path,
            read_only=read_only,
            busy_timeout_seconds=busy_timeout_seconds,
            prepare=self._prepare,
        )
        if not read_only:
            with self._file.translated():
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    create(path)
        self._file.open()

    @property
    def where(self) -> str:
        return self._file.where

    def close(self) -> None:
        self._file.close()

    # --- opening ---

    def _prepare(self, db: sqlite3.Connection) -> None:
        if self._on_connect:
            self._on_connect(db)
        owner, layout = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if owner != APPLICATION_ID:
            raise LedgerDamagedError(self.where, "it is no ledger, or not any more; left as it is")
        if layout > LAYOUT:
            raise NewerSchemaError("a file layout", layout, LAYOUT, None)
        # An existing file keeps working in WAL mode, whoever chose it.
        if not self._file.read_only and db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            db.execute("PRAGMA journal_mode=TRUNCATE")

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
        raws = records.prepare(stream, expected_version, events, now=now, actor=actor)
        with self._file.transaction() as db:
            frontier, actual = self._tip(db, stream)
            self._look_for_newer(frontier.size, db)
            records.refuse_newer(self._newer)
            said = records.settle_known(
                events,
                self._known(db, [event.id for event in events]),
                stream=stream,
                expected=expected_version,
                actual=actual,
            )
            if said is not None:
                return said
            written = [
                records.recorded(
                    event,
                    position=frontier.size + i,
                    stream=stream,
                    version=expected_version + 1 + i,
                    now=now,
                    actor=actor,
                )
                for i, event in enumerate(events)
            ]
            frontier = self._write(db, frontier, written, raws)
        self._kept = frontier
        self._schemas.update((r.type, r.schema) for r in written)
        newer = any(records.is_newer(r.type, r.schema) for r in written)
        self._seen_size = -1 if newer else frontier.size
        return written

    def load_raw(self, *batches: Sequence[bytes], at: int = 0) -> None:
        with self._file.transaction() as db:
            frontier, _ = self._tip(db, "")
            if frontier.size != at:
                raise VersionConflictError("the ledger", at, frontier.size)
            for raws in batches:
                written = [
                    records.parse(frontier.size + i, raw, self.where) for i, raw in enumerate(raws)
                ]
                self._refuse_misfits(db, written)
                frontier = self._write(db, frontier, written, raws)
        self._kept, self._seen_size = frontier, -1

    def _refuse_misfits(self, db: sqlite3.Connection, written: Sequence[Recorded[Any]]) -> None:
        """Raises VersionConflictError unless versions go on where the ledger is and ids are new."""
        versions: dict[str, int] = {}
        known = self._known(db, [record.id for record in written])
        for record, same in zip(written, known, strict=True):
            if record.stream not in versions:
                query = "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?"
                (versions[record.stream],) = db.execute(query, (record.stream,)).fetchone()
            actual = versions[record.stream]
            if record.version != actual + 1 or same:
                raise VersionConflictError(record.stream, record.version - 1, actual)
            versions[record.stream] = record.version

    def _write(
        self,
        db: sqlite3.Connection,
        frontier: Frontier,
        written: Sequence[Recorded[Any]],
        raws: Sequence[bytes],
    ) -> Frontier:
        for record, raw in zip(written, raws, strict=True):
            db.execute(
                "INSERT INTO events (rowid, id, stream, version, raw) VALUES (?, ?, ?, ?, ?)",
                (record.position + 1, record.id, record.stream, record.version, raw),
            )
            frontier = frontier.append(leaf_hash(raw))
        db.execute(
            "INSERT INTO heads (size, root, frontier) VALUES (?, ?, ?)",
            (frontier.size, frontier.root(), frontier.to_bytes()),
        )
        first = {(r.type, r.schema): r.position for r in reversed(written)}
        for (type_, schema), position in first.items():
            if (type_, schema) not in self._schemas:
                db.execute(
                    "INSERT INTO schemas (rowid, type, schema, position)"
                    " SELECT (SELECT coalesce(max(rowid), 0) + 1 FROM schemas), ?1, ?2, ?3"
                    " WHERE NOT EXISTS (SELECT 1 FROM schemas WHERE type = ?1 AND schema = ?2)",
                    (type_, schema, position),
                )
        return frontier

    def _known(self, db: sqlite3.Connection, ids: list[str]) -> list[Recorded[Any] | None]:
        """The record under each id, or None."""
        found: dict[str, Recorded[Any]] = {}
        for first in range(0, len(ids), _PAGE):
            page = ids[first : first + _PAGE]
            marks = ",".join("?" * len(page))
            for row in db.execute(f"{_STORED} WHERE id IN ({marks})", page):
                found[row[1]] = records.parse_stored(StoredEvent(*row), self.where)
        return [found.get(id_) for id_ in ids]

    def _tip(self, db: sqlite3.Connection, stream: str) -> tuple[Frontier, int]:
        """The frontier of the newest head, which must be of all events; the stream's version."""
        count, size, kept, actual = db.execute(_TIP, (stream,)).fetchone()
        if size == self._kept.size and kept == self._kept.to_bytes():
            frontier = self._kept
        else:
            frontier = self._frontier((size, kept))
        if frontier.size != count:
            raise LedgerDamagedError(
                self.where,
                f"it holds {count} events, its newest tree head is of {frontier.size}",
                min(count, frontier.size),
            )
        return frontier, actual

    def _frontier(self, row: tuple[int, bytes] | None) -> Frontier:
        try:
            return Frontier.from_bytes(*row) if row else Frontier()
        except ValueError as exc:
            raise LedgerDamagedError(self.where, f"a kept tree head: {exc}") from exc

    # --- reading ---

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        check_stream(stream)
        rows = self._file.rows(
            f"{_STORED} WHERE stream = ? AND version > ? ORDER BY version", (stream, after_version)
        )
        found = [records.parse_stored(StoredEvent(*row), self.where) for row in rows]
        for version, record in enumerate(found, start=after_version + 1):
            if record.version != version:
                raise LedgerDamagedError(
                    self.where, f"{stream} lacks its version {version}", record.position
                )
        return found

    def read_all(self, from_position: int = 0) -> Iterator[Recorded[Any]]:
        for position, stored in enumerate(self.read_raw(from_position), start=from_position):
            if stored.position != position:
                raise LedgerDamagedError(self.where, "an event is missing", position)
            yield records.parse_stored(stored, self.where)

    def read_raw(self, from_position: int = 0) -> Iterator[StoredEvent]:
        after = from_position
        while rows := self._file.rows(
            f"{_STORED} WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, _PAGE)
        ):
            for row in rows:
                yield StoredEvent(*row)
            after = rows[-1][0] + 1

    def streams(self, prefix: str = "") -> list[str]:
        # The partial index answers this alone, however large the events are.
        rows = self._file.rows("SELECT stream FROM events WHERE version = 1 ORDER BY +rowid")
        return [name for (name,) in rows if name.startswith(prefix)]

    def head(self) -> TreeHead:
        rows = self._file.rows("SELECT size, root FROM heads ORDER BY size DESC LIMIT 1")
        return TreeHead(*rows[0]) if rows else TreeHead(0, EMPTY_ROOT)

    def kept_heads(self) -> list[TreeHead]:
        return [
            TreeHead(*row) for row in self._file.rows("SELECT size, root FROM heads ORDER BY size")
        ]

    def root_at(self, size: int) -> bytes:
        total = self.head().size
        if not 0 <= size <= total:
            raise ValueError(f"the ledger has {total} events, not {size}")
        below = self._file.rows(
            "SELECT size, frontier FROM heads WHERE size <= ? ORDER BY size DESC LIMIT 1", (size,)
        )
        frontier = self._frontier(below[0] if below else None)
        for (raw,) in self._file.rows(
            "SELECT raw FROM events WHERE rowid > ? AND rowid <= ? ORDER BY rowid",
            (frontier.size, size),
        ):
            frontier = frontier.append(leaf_hash(raw))
        return frontier.root()

    # --- what a newer program wrote ---

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        self._look_for_newer(self.head().size)
        return self._newer

    def _look_for_newer(self, size: int, db: sqlite3.Connection | None = None) -> None:
        """Look again only where somebody appended since the last look."""
        if size == self._seen_size or self._newer:
            return

        def rows(sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
            return (
                db.execute(sql, parameters).fetchall() if db else self._file.rows(sql, parameters)
            )

        for type_, schema, position in rows("SELECT type, schema, position FROM schemas"):
            self._schemas.add((type_, schema))
            if self._newer is None and records.is_newer(type_, schema):
                raws = rows(
                    "SELECT raw FROM events WHERE rowid = ?1 OR version = 1 AND stream ="
                    " (SELECT stream FROM events WHERE rowid = ?1) ORDER BY rowid DESC",
                    (position + 1,),
                )
                self._newer = (type_, schema, records.written_by(*(raw for (raw,) in raws)))
        self._seen_size = size
