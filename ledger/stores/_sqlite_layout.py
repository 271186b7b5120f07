"""How the embedded ledger's file is laid out, and how an empty one is made.

Tables: ``events`` (rowid = position + 1, id, stream, version, raw), ``heads`` (size, root, frontier), one
row per append, and ``schemas`` (type, schema, position of the first such event), so that a newer event is
noticed without reading them all. Triggers refuse UPDATE, DELETE and replacing or out-of-order inserts on
each.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["APPLICATION_ID", "LAYOUT", "create", "wal_is_safe"]

#: "DLed": says whose file this is (PRAGMA application_id).
APPLICATION_ID: Final = 0x444C6564
LAYOUT: Final = 1
#: table -> when an insert is not the next in order, or would replace a row.
_CLASHES: Final = {
    "events": "NEW.rowid <> (SELECT coalesce(max(rowid), 0) + 1 FROM events)"
    " OR NEW.version <> (SELECT coalesce(max(version), 0) + 1 FROM events WHERE stream = NEW.stream)"
    " OR EXISTS (SELECT 1 FROM events WHERE id = NEW.id)",
    "heads": "NEW.size <> (SELECT coalesce(max(rowid), 0) FROM events)"
    " OR NEW.size <= (SELECT coalesce(max(size), 0) FROM heads)",
    "schemas": "EXISTS (SELECT 1 FROM schemas WHERE type = NEW.type AND schema = NEW.schema)"
    " OR NEW.rowid <> (SELECT coalesce(max(rowid), 0) + 1 FROM schemas)",
}


def wal_is_safe(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite has the fix for commits that WAL could lose."""
    return (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )


def create(path: Path) -> None:
    """Make an empty ledger at ``path``, create-only: whole, or not there; whoever is first made it.

    So a file without our tables is damage, never a ledger half made.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.execute("BEGIN IMMEDIATE")
            _create_tables(db)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={LAYOUT}")
            db.execute("COMMIT")
            if wal_is_safe():
                db.execute("PRAGMA journal_mode=WAL")
        finally:
            db.close()
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        _sync_folder(folder)


def _create_tables(db: sqlite3.Connection) -> None:
    # Heavy, and needed once in a ledger's life.
    import sqlite_utils

    tables: Any = sqlite_utils.Database(db, recursive_triggers=False)
    tables["events"].create(
        {"rowid": int, "id": str, "stream": str, "version": int, "raw": bytes},
        pk="rowid",
        not_null={"id", "stream", "version", "raw"},
    )
    tables["events"].create_index(["id"], unique=True)
    tables["events"].create_index(["stream", "version"], unique=True)
    db.execute("CREATE INDEX stream_starts ON events (stream) WHERE version = 1")
    tables["heads"].create(
        {"size": int, "root": bytes, "frontier": bytes}, pk="size", not_null={"root", "frontier"}
    )
    tables["schemas"].create(
        {"rowid": int, "type": str, "schema": int, "position": int},
        pk="rowid",
        not_null={"type", "schema", "position"},
    )
    for table, clash in _CLASHES.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for moment in ("BEFORE UPDATE", "BEFORE DELETE"):
            name = f"{table}_{moment.split()[1].lower()}"
            db.execute(f"CREATE TRIGGER {name} {moment} ON {table} {refuse}")
        db.execute(f"CREATE TRIGGER {table}_insert BEFORE INSERT ON {table} WHEN {clash} {refuse}")


def _sync_folder(folder: Path) -> None:
    """Make a new entry of ``folder`` outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
