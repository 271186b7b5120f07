"""A process that writes to a store in a folder and is killed on the way. ``python -m tests.fault.store_child``.

Arguments: the store's folder, what to do (``create``, ``ingest`` or ``fetch``), and when to die: the number
of a system call of ours (0 first; -1 prints them all and lives). It dies *before* that call.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher.storage.filesystem import FilesystemStore
from ledger.ids import check_digest
from tests.fault.effects import Effects

KEY = "pointers/student/00000001.json"
DATA = b"weights " * 500_000
CALLS = ("fsync", "fchmod", "link", "unlink", "replace", "mkdir", "write")


def main(folder: str, job: str, death: str) -> None:
    home = Path(folder)
    effects = Effects(int(death))
    effects.watch(os, *CALLS)
    store = FilesystemStore(home / "objects")
    if job == "create":
        store.create(KEY, DATA)
    elif job == "ingest":
        store.ingest(home / "source")
    else:
        digest = check_digest((home / "digest").read_text())
        store.fetch_blob(digest, home / "dest" / "x")
    print(" ".join(effects.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
