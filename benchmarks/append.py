"""Single durable appends: the ledger against raw sqlite3 with the same pragmas and the same event bytes.

``python -m benchmarks.append [--rounds 1000] [--folder DIR]``. Both run in one process, turn by turn, on
the same disk. The peer is what one would write by hand: one table with the same columns and unique
indexes, BEGIN IMMEDIATE, one INSERT of bytes made beforehand, COMMIT; no envelope, no hashing, no tree
heads, no triggers, no look at ids or versions. Ratio = appends a second of the ledger / of the peer.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from ledger import events as e
from ledger import records
from ledger.stores.port import NewEvent
from ledger.stores.sqlite import SqliteEventStore

NOW = "2026-01-31T02:00:00.000250Z"
STREAM = "run/20260131T020000Z-7f30"
TARGET_RATIO = 0.8


def event(number: int) -> NewEvent:
    """A stage's success, with an id spread over the index as UUIDs are."""
    data = e.StageSucceeded(
        stage="retrain",
        attempt=1 + number,
        manifest_digest="sha256:" + "ab" * 32,
        log_digest="sha256:" + "cd" * 32,
        seconds=e.StageSeconds(running=91.25, collecting=0.125),
        gpus=2,
    )
    return NewEvent(f"{number * 2654435761 % 2**32:08x}-7f30-5000-8000-000000000000", data)


def peer(path: Path, journal_mode: str) -> sqlite3.Connection:
    """Raw sqlite3 with the ledger's pragmas."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={journal_mode}")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(
        "CREATE TABLE events (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL,"
        " version INTEGER NOT NULL, raw BLOB NOT NULL, UNIQUE (stream, version))"
    )
    return db


def measure(folder: Path, rounds: int) -> tuple[list[float], list[float], str]:
    """Seconds of each append, of the ledger and of the peer, and the journal mode of both."""
    connections: list[sqlite3.Connection] = []
    store = SqliteEventStore(folder / "ledger.db", on_connect=connections.append)
    mode = str(connections[0].execute("PRAGMA journal_mode").fetchone()[0])
    raw_db = peer(folder / "peer.db", mode)
    ours: list[float] = []
    theirs: list[float] = []

    def append(number: int, new: NewEvent) -> None:
        begun = time.perf_counter()
        store.append(STREAM, number, [new], now=NOW, actor="bench")
        ours.append(time.perf_counter() - begun)

    def insert(number: int, new: NewEvent, raw: bytes) -> None:
        begun = time.perf_counter()
        raw_db.execute("BEGIN IMMEDIATE")
        raw_db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            (number + 1, new.id, STREAM, number + 1, raw),
        )
        raw_db.execute("COMMIT")
        theirs.append(time.perf_counter() - begun)

    for number in range(rounds):
        new = event(number)
        raw = records.encode(new, stream=STREAM, version=number + 1, now=NOW, actor="bench")
        # Turn about, so that neither always follows the other's flush.
        if number % 2:
            append(number, new)
        insert(number, new, raw)
        if not number % 2:
            append(number, new)
    store.close()
    raw_db.close()
    return ours, theirs, mode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        ours, theirs, mode = measure(Path(name), options.rounds)
    print(
        f"SQLite {sqlite3.sqlite_version}, journal_mode={mode}, synchronous=FULL, {len(ours)} each"
    )
    print(f"{'':10}{'median ms':>11}{'p95 ms':>9}{'per s':>8}")
    for label, seconds in (("ledger", ours), ("raw", theirs)):
        median, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[18]
        rate = len(seconds) / sum(seconds)
        print(f"{label:10}{median * 1e3:>11.3f}{p95 * 1e3:>9.3f}{rate:>8.0f}")
    ratio = sum(theirs) / sum(ours)
    verdict = "at least" if ratio >= TARGET_RATIO else "BELOW"
    medians = statistics.median(theirs) / statistics.median(ours)
    print(f"ratio {ratio:.2f} (of medians {medians:.2f}), {verdict} the target of {TARGET_RATIO}")
    return 0 if ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
