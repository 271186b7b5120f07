"""A process that appends to a ledger and is killed on the way. ``python -m tests.fault.ledger_child``.

Arguments: the ledger's path, how many events, and when to die: the number of a statement of the append
(0 first; -1 prints them all and lives), ``commit`` (at COMMIT, with the changed pages already spilled to
the file) or ``answer`` (after the append, before anybody hears of it).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path

from ledger.stores.sqlite import SqliteEventStore
from tests.ledger.samples import NOW, skipped


def batch(count: int) -> list[str]:
    """The ids that are appended: k0, k1, …"""
    return [f"k{i}" for i in range(count)]


def main(path: str, count: str, death: str) -> None:
    seen: list[str] = []
    connections: list[sqlite3.Connection] = []

    def traced(statement: str) -> None:
        if death == str(len(seen)) or (death == "commit" and statement == "COMMIT"):
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(" ".join(statement.split())[:40])

    store = SqliteEventStore(Path(path), on_connect=connections.append)
    if death == "commit":
        connections[0].execute("PRAGMA cache_size=4")
    connections[0].set_trace_callback(traced)
    events = [skipped(key, "x" * 2000) for key in batch(int(count))]
    store.append("run/a", 1, events, now=NOW, actor="first")
    if death == "answer":
        os.kill(os.getpid(), signal.SIGKILL)
    print("\n".join(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
