"""What the ledger survives: killed writers, full and read-only disks, locks, damage.

The oracle: every acknowledged event is there exactly once, the kept root is the root of what is there, a
retry gives the first record, and nothing damaged is ever repaired or reset.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.errors import LedgerDamagedError, LedgerUnavailableError, NewerSchemaError
from ledger.stores.sqlite import SqliteEventStore, wal_is_safe
from ledger.transparency.merkle import tree_root
from tests.fault.ledger_child import batch
from tests.ledger.samples import LATER, NOW, skipped

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of one event, ``run/a`` at version 1."""
    made = tmp_path / "ledger.db"
    store = SqliteEventStore(made)
    store.append("run/a", 0, [skipped("k")], now=NOW, actor="ana")
    store.close()
    return made


def child(path: Path, count: int, death: str | int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fault.ledger_child", str(path), str(count), str(death)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def ids(path: Path, *, read_only: bool) -> list[str]:
    """The ids in the ledger, whose kept head must be of exactly these events."""
    store = SqliteEventStore(path, read_only=read_only)
    try:
        found = list(store.read_all())
        assert store.head().size == len(found)
        assert store.head().root == tree_root(stored.raw for stored in store.read_raw())
        return [record.id for record in found]
    finally:
        store.close()


def retry(path: Path, count: int) -> set[str]:
    """Append the child's batch again; who said it first."""
    store = SqliteEventStore(path)
    events = [skipped(key, "x" * 2000) for key in batch(count)]
    again = store.append("run/a", 1, events, now=LATER, actor="second")
    store.close()
    return {record.actor for record in again}


# --- killed ---------------------------------------------------------------------------------------


def test_killed_at_each_statement_of_an_append(path: Path, tmp_path: Path) -> None:
    dry = tmp_path / "dry.db"
    shutil.copy(path, dry)
    statements = child(dry, 2, -1).stdout.splitlines()
    assert statements[0] == "BEGIN IMMEDIATE"
    assert statements[-1] == "COMMIT"
    for number in range(len(statements)):
        copy = tmp_path / f"{number}.db"
        shutil.copy(path, copy)
        assert child(copy, 2, number).returncode == -signal.SIGKILL
        assert ids(copy, read_only=True) == ["k"], statements[number]
        assert retry(copy, 2) == {"second"}
        assert ids(copy, read_only=False) == ["k", "k0", "k1"]


def test_killed_after_the_commit_and_before_the_answer(path: Path) -> None:
    assert child(path, 2, "answer").returncode == -signal.SIGKILL
    assert ids(path, read_only=True) == ["k", "k0", "k1"]
    assert retry(path, 2) == {"first"}
    assert ids(path, read_only=False) == ["k", "k0", "k1"]


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_hot_journal_is_rolled_back_by_whoever_comes_next(path: Path, reader_first: bool) -> None:
    before = path.stat().st_size
    assert child(path, 300, "commit").returncode == -signal.SIGKILL
    # The half-made append reached the file itself: without its journal the ledger would be torn.
    assert path.stat().st_size > before
    assert path.with_name("ledger.db-journal").stat().st_size > 0
    assert ids(path, read_only=reader_first) == ["k"]
    assert retry(path, 300) == {"second"}
    assert ids(path, read_only=True) == ["k", *batch(300)]


def test_a_reader_that_was_open_before_the_writer_died_reads_on(path: Path) -> None:
    reader = SqliteEventStore(path, read_only=True)
    assert reader.head().size == 1
    assert child(path, 300, "commit").returncode == -signal.SIGKILL
    assert [record.id for record in reader.read_all()] == ["k"]


def test_a_torn_write_ahead_log_loses_only_its_torn_tail(path: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.db"
    shutil.copy(path, torn)
    with sqlite3.connect(torn) as db:
        assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    db.close()
    assert child(torn, 2, "answer").returncode == -signal.SIGKILL
    log = torn.with_name("torn.db-wal")
    os.truncate(log, log.stat().st_size - 10)
    assert ids(torn, read_only=True) == ["k"]
    assert retry(torn, 2) == {"second"}
    assert ids(torn, read_only=False) == ["k", "k0", "k1"]


def test_killed_while_it_was_made_there_is_no_ledger_yet(tmp_path: Path) -> None:
    # Made beside and linked: what a killed maker leaves has another name.
    (tmp_path / ".ledger.db.1.new").write_bytes(b"half")
    assert ids(tmp_path / "ledger.db", read_only=True) == []
    assert not (tmp_path / "ledger.db").exists()
    assert ids(tmp_path / "ledger.db", read_only=False) == []


# --- full, read-only, locked ----------------------------------------------------------------------


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process grows past ``size_bytes`` (EFBIG; Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room_bytes", [0, 100, 4096, 40_000])
def test_a_write_that_fails_is_not_acknowledged(path: Path, room_bytes: int) -> None:
    store = SqliteEventStore(path)
    events = [skipped(key, "x" * 2000) for key in batch(60)]
    with file_size_limit(room_bytes), pytest.raises(LedgerUnavailableError) as caught:
        store.append("run/a", 1, events, now=NOW, actor="first")
    assert str(path) in str(caught.value)
    assert [record.id for record in store.read_all()] == ["k"]
    store.append("run/a", 1, events, now=LATER, actor="second")
    store.close()
    assert ids(path, read_only=True) == ["k", *batch(60)]


def test_a_full_disk_is_said_and_reading_goes_on(path: Path) -> None:
    full = True

    def limit(db: sqlite3.Connection) -> None:
        if full:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            db.execute(f"PRAGMA max_page_count={pages}")

    store = SqliteEventStore(path, on_connect=limit)
    with pytest.raises(LedgerUnavailableError, match="disk is full"):
        store.append("run/a", 1, [skipped("k0", "x" * 60_000)], now=NOW, actor="first")
    assert [record.id for record in store.read_stream("run/a")] == ["k"]
    full = False
    store.close()
    store.append("run/a", 1, [skipped("k0", "x" * 60_000)], now=NOW, actor="first")
    assert ids(path, read_only=True) == ["k", "k0"]


@pytest.fixture
def guarded(path: Path) -> Iterator[Path]:
    """The ledger in a folder in which this test may not write, even where it runs as root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        shutil.copy(path, folder)
        yield folder / path.name


@contextmanager
def no_writing(path: Path) -> Iterator[None]:
    path.chmod(0o444)
    path.parent.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.parent.chmod(0o755)
        path.chmod(0o644)


def test_a_read_only_folder_can_be_read_and_not_written(guarded: Path) -> None:
    with no_writing(guarded):
        assert ids(guarded, read_only=True) == ["k"]
        store = SqliteEventStore(guarded)
        with pytest.raises(LedgerUnavailableError, match="cannot be written"):
            store.append("run/a", 1, [skipped("k0")], now=NOW, actor="first")
        assert [record.id for record in store.read_all()] == ["k"]
        with pytest.raises(LedgerUnavailableError):
            SqliteEventStore(guarded.with_name("other.db"))
        assert ids(guarded.with_name("other.db"), read_only=True) == []
    assert ids(guarded, read_only=False) == ["k"]


def test_a_hot_journal_that_may_not_be_rolled_back_is_said(guarded: Path) -> None:
    assert child(guarded, 300, "commit").returncode == -signal.SIGKILL
    with no_writing(guarded), pytest.raises(LedgerUnavailableError, match="cannot be written"):
        SqliteEventStore(guarded, read_only=True)
    assert ids(guarded, read_only=True) == ["k"]


def test_a_lock_held_too_long_is_said_and_the_same_append_goes_through_later(path: Path) -> None:
    store = SqliteEventStore(path, busy_timeout_seconds=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailableError, match=r"locked .* 0\.05 s"):
        store.append("run/a", 1, [skipped("k0")], now=NOW, actor="first")
    other.execute("ROLLBACK")
    other.close()
    store.append("run/a", 1, [skipped("k0")], now=NOW, actor="first")
    assert ids(path, read_only=True) == ["k", "k0"]


def test_a_store_carried_over_a_fork_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteEventStore(path)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"):
        store.head()
    monkeypatch.undo()
    assert store.head().size == 1


# --- damaged --------------------------------------------------------------------------------------


def _refused(path: Path) -> LedgerDamagedError:
    """Reading and writing are refused, and not a byte changes."""
    before = path.read_bytes()
    errors = []
    for read_only in (True, False):
        with pytest.raises(LedgerDamagedError) as caught:
            list(SqliteEventStore(path, read_only=read_only).read_all())
        errors.append(caught.value)
    with pytest.raises(LedgerDamagedError):
        SqliteEventStore(path).append("run/a", 1, [skipped("k0")], now=NOW, actor="ana")
    assert path.read_bytes() == before
    assert str(path) in str(errors[0])
    return errors[0]


@pytest.mark.parametrize("left_bytes", [0, 50, 4096, 3 * 4096, -1])
def test_a_file_cut_short(path: Path, left_bytes: int) -> None:
    os.truncate(path, left_bytes if left_bytes >= 0 else path.stat().st_size - 4096)
    _refused(path)


def test_a_file_of_something_else(path: Path) -> None:
    path.write_bytes(b"not a database, but quite long enough to look like a file of one " * 40)
    assert "backup" in str(_refused(path))
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE runs (id)")
    db.close()
    assert "no ledger" in str(_refused(path))


def _page_of(path: Path, table: str) -> int:
    """The offset of a table's root page."""
    with sqlite3.connect(path) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    return int((page - 1) * size)


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("table", ["events", "heads"])
def test_a_page_of_noise(path: Path, table: str) -> None:
    _overwrite(path, _page_of(path, table), b"\xa5" * 512)
    before = path.read_bytes()
    store = SqliteEventStore(path)
    with pytest.raises(LedgerDamagedError):
        store.append("run/a", 1, [skipped("k0")], now=NOW, actor="ana")
    with pytest.raises(LedgerDamagedError):
        list(store.read_all() if table == "events" else store.kept_heads())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"), [(b'"version":1', b'"version":2'), (b'"schema":1', b'"schema";1')]
)
def test_an_event_edited_behind_our_back_names_its_position(
    path: Path, old: bytes, new: bytes
) -> None:
    store = SqliteEventStore(path)
    store.append("run/b", 0, [skipped("b")], now=NOW, actor="ana")
    store.close()
    content = path.read_bytes()
    assert content.count(old) == 2
    # Rows fill a page from its end: the first event is the last in the file.
    _overwrite(path, content.rindex(old), new)
    with pytest.raises(LedgerDamagedError) as caught:
        list(SqliteEventStore(path, read_only=True).read_all())
    assert caught.value.position == 0


def test_an_edit_that_still_reads_shows_in_the_root(path: Path) -> None:
    _overwrite(path, path.read_bytes().rindex(b"no command"), b"no commend")
    store = SqliteEventStore(path, read_only=True)
    assert [record.data.reason for record in store.read_all()] == ["no commend"]
    assert tree_root(stored.raw for stored in store.read_raw()) != store.head().root


@pytest.mark.parametrize("table", ["events", "heads"])
def test_a_row_taken_away_stops_the_next_append(path: Path, table: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"DROP TRIGGER {table}_delete")
        db.execute(f"DELETE FROM {table}")
    db.close()
    with pytest.raises(LedgerDamagedError, match="newest tree head"):
        SqliteEventStore(path).append("run/a", 1, [skipped("k0")], now=NOW, actor="ana")


STATEMENTS = [
    "UPDATE events SET raw = x'00'",
    "DELETE FROM events",
    "INSERT OR REPLACE INTO events (rowid, id, stream, version, raw) VALUES (1, 'k', 'run/a', 1, x'')",
    "INSERT OR REPLACE INTO events (rowid, id, stream, version, raw) VALUES (2, 'k', 'run/a', 2, x'')",
    "INSERT OR REPLACE INTO events (rowid, id, stream, version, raw) VALUES (2, 'n', 'run/a', 1, x'')",
    "INSERT OR IGNORE INTO events (rowid, id, stream, version, raw) VALUES (3, 'n', 'run/a', 2, x'')",
    "INSERT INTO events (id, stream, version, raw) VALUES ('n', 'run/b', 1, x'')",
    "INSERT INTO events (rowid, id, stream, version, raw) VALUES (1, 'k', 'run/a', 1, x'')"
    " ON CONFLICT DO UPDATE SET raw = x''",
    "UPDATE heads SET root = x'00'",
    "DELETE FROM heads",
    "INSERT OR REPLACE INTO heads VALUES (1, x'', x'')",
    "INSERT OR REPLACE INTO heads VALUES (2, x'', x'')",
    "UPDATE schemas SET schema = 9",
    "DELETE FROM schemas",
    "INSERT OR REPLACE INTO schemas SELECT * FROM schemas",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_tables_are_append_only_even_by_hand(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement)
    db.close()
    assert ids(path, read_only=True) == ["k"]


def test_a_later_layout_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    for read_only in (True, False):
        with pytest.raises(NewerSchemaError, match="upgrade"):
            SqliteEventStore(path, read_only=read_only)


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_it_loses_nothing(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


def test_every_connection_is_durable(path: Path) -> None:
    connections: list[sqlite3.Connection] = []
    SqliteEventStore(path, on_connect=connections.append)
    (db,) = connections
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    mode = "wal" if wal_is_safe() else "truncate"
    assert db.execute("PRAGMA journal_mode").fetchone() == (mode,)
