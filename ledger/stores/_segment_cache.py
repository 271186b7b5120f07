"""The local copy of a log in a bucket: its segments, byte for byte, and an index of their events.

Rules:

1. Nothing here is the truth: the file may be deleted at any moment and is made again from the bucket.
2. A segment enters whole, in order, and only once it follows its predecessor (chain, positions, versions,
   ids, root). So every process may write to one file, and what one has checked all may use.
3. A segment's digest is checked whenever it is read, an event's index against its bytes; what does not fit
   is a LedgerDamagedError whose ``where`` is this file, never the log.
4. No fsync: a commit outlives its process, not a power cut. So the file names the boot that it was
   written under, and whoever finds another checks everything again (``segments``) before use.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from ledger import records
from ledger.errors import LedgerDamagedError
from ledger.stores._sqlite_connection import Connection
from ledger.stores.packs import PACKED
from ledger.stores.port import StoredEvent, TreeHead
from ledger.stores.segments import Segment, Tip, digest_of, parse_segment
from ledger.transparency.merkle import Frontier

__all__ = ["SegmentCache"]

#: "DLsc": says whose file this is (PRAGMA application_id).
_APPLICATION_ID: Final = 0x444C7363
_LAYOUT: Final = 1
_PAGE: Final = 500
#: How many parsed segments a reader holds on to.
_HELD: Final = 64
_STORED: Final = "SELECT position, id, stream, version, sequence FROM events"
_TIP: Final = "SELECT sequence, digest, size, frontier FROM segments"
_NEWEST: Final = "ORDER BY sequence DESC LIMIT 1"
_TABLES: Final = (
    "CREATE TABLE about (log TEXT NOT NULL, boot TEXT NOT NULL)",
    "CREATE TABLE segments (sequence INTEGER PRIMARY KEY, size INTEGER NOT NULL UNIQUE,"
    " digest TEXT NOT NULL, root BLOB NOT NULL, frontier BLOB NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE events (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL,"
    " version INTEGER NOT NULL, sequence INTEGER NOT NULL, UNIQUE (stream, version))",
    "CREATE INDEX stream_starts ON events (stream) WHERE version = 1",
    "CREATE TABLE schemas (type TEXT, schema INTEGER, position INTEGER NOT NULL,"
    " PRIMARY KEY (type, schema))",
)


class SegmentCache:
    """``log`` is the log's own name, ``boot`` what tells this boot of the machine from others.

    ``path`` None keeps everything in memory. Raises LedgerUnavailableError, LedgerDamagedError. One
    process and thread.
    """

    def __init__(self, path: Path | None, *, log: str, boot: str) -> None:
        self.log, self._boot = log, boot
        self._held: dict[int, Segment] = {}
        #: What the table of schemas holds for certain.
        self._schemas: set[tuple[str, int]] = set()
        kind = Connection if path else _InMemory
        self._file = kind(
            path or Path(":memory:"),
            read_only=False,
            busy_timeout_seconds=30,
            prepare=self._prepare,
        )
        if path:
            with self._file.translated():
                path.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
                    _make_tables(db, log, boot)
        self._file.open()

    @property
    def where(self) -> str:
        """The file."""
        return self._file.where

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def about(self) -> tuple[str, str]:
        """(log, boot) under which the file was made."""
        rows = self._file.rows("SELECT log, boot FROM about")
        if len(rows) != 1:
            raise LedgerDamagedError(self.where, "it does not say of which log it is")
        return str(rows[0][0]), str(rows[0][1])

    def _prepare(self, db: sqlite3.Connection) -> None:
        if self._file.where == ":memory:":
            _make_tables(db, self.log, self._boot)
        owner, layout = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if (owner, layout) != (_APPLICATION_ID, _LAYOUT):
            raise LedgerDamagedError(self.where, "it is no cache of a ledger")
        db.execute("PRAGMA journal_mode=TRUNCATE")
        db.execute("PRAGMA synchronous=OFF")

    # --- taking over ---

    def tip(self) -> Tip:
        """Where the cached log ends."""
        return self._as_tip(self._file.rows(f"{_TIP} {_NEWEST}"))

    def _as_tip(self, rows: Sequence[Any]) -> Tip:
        if not rows:
            return Tip()
        sequence, digest, size, frontier = rows[0]
        try:
            return Tip(sequence, digest, Frontier.from_bytes(size, frontier))
        except (ValueError, TypeError) as exc:
            raise LedgerDamagedError(self.where, f"segment {sequence}: {exc}") from exc

    def absorb(self, segments: Iterable[Segment]) -> None:
        """Take over what follows, all or none; what is there already is passed over.

        Raises LedgerDamagedError, naming the log and the segment, if one does not follow.
        """
        with self._file.transaction() as db:
            tip = self._as_tip(db.execute(f"{_TIP} {_NEWEST}").fetchall())
            versions: dict[str, int] = {}
            for segment in segments:
                if segment.sequence <= tip.sequence:
                    continue
                tip = tip.follow(segment, self.log)
                db.execute(
                    "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        tip.sequence,
                        tip.size,
                        tip.digest,
                        segment.root,
                        tip.frontier.to_bytes(),
                        segment.data,
                    ),
                )
                for position, raw in enumerate(segment.raws, start=segment.first):
                    self._index(db, segment.sequence, position, raw, versions)

    def _index(
        self,
        db: sqlite3.Connection,
        sequence: int,
        position: int,
        raw: bytes,
        versions: dict[str, int],
    ) -> None:
        said = records.envelope(position, raw, self.log)
        id_, stream, version = said["id"], said["stream"], said["version"]
        if stream not in versions:
            query = "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?"
            (versions[stream],) = db.execute(query, (stream,)).fetchone()
        if version != versions[stream] + 1:
            detail = f"{stream} goes from version {versions[stream]} to {version}"
            raise LedgerDamagedError(self.log, detail, position)
        versions[stream] = version
        row = (position, id_, stream, version, sequence)
        # Position, stream and version are new for certain, so only the id can stand in the way.
        if db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", row).rowcount == 0:
            raise LedgerDamagedError(self.log, f"event {id_} is there a second time", position)
        schema = (said["type"], said["schema"])
        if schema not in self._schemas:
            db.execute("INSERT OR IGNORE INTO schemas VALUES (?, ?, ?)", (*schema, position))

    # --- reading ---

    def segments(self, after: int = 0) -> Iterator[Segment]:
        """The cached segments after number ``after``, each checked against its digest, not the chain."""
        while rows := self._file.rows(
            "SELECT sequence FROM segments WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, _PAGE),
        ):
            for (sequence,) in rows:
                yield self.segment(sequence)
            after = rows[-1][0]

    def packed(self, last: int) -> list[Segment]:
        """The cached segments of the pack that ends with number ``last``."""
        return list(islice(self.segments(last - PACKED), PACKED))

    def segment(self, sequence: int) -> Segment:
        """One segment, checked against its digest."""
        held = self._held.get(sequence)
        if held is None:
            rows = self._file.rows(
                "SELECT data, digest FROM segments WHERE sequence = ?", (sequence,)
            )
            data, digest = rows[0] if rows else (None, None)
            if not isinstance(data, bytes) or digest_of(data) != digest:
                raise LedgerDamagedError(self.where, f"segment {sequence} is not what was kept")
            held = parse_segment(sequence, data, self.where)
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[sequence] = held
        return held

    def tip_at(self, size: int) -> Tip:
        """Where the log ended when it had at most ``size`` events."""
        # The two grow together; by sequence SQLite would sort all segments up to there first.
        newest = f"{_TIP} WHERE size <= ? ORDER BY size DESC LIMIT 1"
        return self._as_tip(self._file.rows(newest, (size,)))

    def version(self, stream: str) -> int:
        """The version of a stream; 0 for an unknown one."""
        query = "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?"
        return int(self._file.rows(query, (stream,))[0][0])

    def known(self, ids: Sequence[str]) -> list[StoredEvent | None]:
        """The event under each id, or None."""
        found: dict[str, StoredEvent] = {}
        for first in range(0, len(ids), _PAGE):
            page = ids[first : first + _PAGE]
            marks = ",".join("?" * len(page))
            rows = self._file.rows(f"{_STORED} WHERE id IN ({marks})", tuple(page))
            found.update((row[1], self._stored(row)) for row in rows)
        return [found.get(id_) for id_ in ids]

    def stream(self, stream: str, after_version: int) -> list[StoredEvent]:
        """Events of one stream, ascending version, contiguous from ``after_version`` + 1."""
        rows = self._file.rows(
            f"{_STORED} WHERE stream = ? AND version > ? ORDER BY version", (stream, after_version)
        )
        found = [self._stored(row) for row in rows]
        if [e.version for e in found] != [
            *range(after_version + 1, after_version + 1 + len(found))
        ]:
            raise LedgerDamagedError(self.where, f"{stream} lacks a version")
        return found

    def page(self, from_position: int) -> list[StoredEvent]:
        """The next events of all streams, contiguous from ``from_position``; empty past the end."""
        # Asked first: another process may add to the file at any moment.
        size = self.tip().size
        rows = self._file.rows(
            f"{_STORED} WHERE position >= ? ORDER BY position LIMIT ?", (from_position, _PAGE)
        )
        found = [self._stored(row) for row in rows]
        end = from_position + len(found)
        if [e.position for e in found] != [*range(from_position, end)] or (
            len(found) < _PAGE and end < size
        ):
            raise LedgerDamagedError(self.where, f"it lacks events from {from_position} on")
        return found

    def _stored(self, row: Any) -> StoredEvent:
        position, id_, stream, version, sequence = row
        segment = self.segment(sequence)
        if type(position) is int and 0 <= position - segment.first < len(segment.raws):
            raw = segment.raws[position - segment.first]
            said = records.envelope(position, raw, self.where)
            if (said["id"], said["stream"], said["version"]) == (id_, stream, version):
                return StoredEvent(position, id_, stream, version, raw)
        raise LedgerDamagedError(self.where, f"event {position} is not the one its index names")

    def streams(self) -> list[str]:
        """Every stream, by the position of its first event."""
        rows = self._file.rows("SELECT stream FROM events WHERE version = 1 ORDER BY position")
        return [name for (name,) in rows]

    def heads(self) -> list[TreeHead]:
        """The tree head of each segment, ascending."""
        rows = self._file.rows("SELECT size, root FROM segments ORDER BY sequence")
        return [TreeHead(*row) for row in rows]

    def root_at(self, size: int) -> bytes:
        """The root over the first ``size`` events, of which there are as many at least."""
        below = self.tip_at(size)
        if below.size == size:
            return below.frontier.root()
        segment = self.segment(below.sequence + 1)
        return below.grown(segment.raws[: size - below.size]).root()

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        """See the port of stores."""
        rows = self._file.rows("SELECT type, schema, position FROM schemas ORDER BY position")
        self._schemas.update((type_, schema) for type_, schema, _ in rows)
        for type_, schema, position in rows:
            if records.is_newer(type_, schema):
                (row,) = self._file.rows(f"{_STORED} WHERE position = ?", (position,))
                event = self._stored(row)
                (row,) = self._file.rows(
                    f"{_STORED} WHERE stream = ? AND version = 1", (event.stream,)
                )
                first = self._stored(row)
                return type_, schema, records.written_by(event.raw, first.raw)
        return None


class _InMemory(Connection):
    """A database without a file, empty again once an error closed it."""

    def _open(self, mode: Literal["ro", "rw"]) -> sqlite3.Connection | None:
        if self._db is None:
            db = sqlite3.connect(":memory:", isolation_level=None)
            self._prepare(db)
            self._db = db
        return self._db


def _make_tables(db: sqlite3.Connection, log: str, boot: str) -> None:
    """Make the tables of an empty database, all or none; whoever is first made them."""
    db.execute("BEGIN IMMEDIATE")
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        for statement in _TABLES:
            db.execute(statement)
        db.execute("INSERT INTO about VALUES (?, ?)", (log, boot))
        db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={_LAYOUT}")
    db.execute("COMMIT")
