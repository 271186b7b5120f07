"""A process that writes to a store in a folder and is killed on the way. ``python -m tests.fault.store_child``.

Arguments: the store's folder, what to do (``create``, ``ingest`` or ``fetch``), and when to die: the number
of a system call of ours (0 first; -1 prints them all and lives). It dies *before* that call.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.storage.filesystem import FilesystemStore
from ledger.ids import check_digest

KEY = "pointers/student/00000001.json"
DATA = b"weights " * 500_000
CALLS = ("fsync", "fchmod", "link", "unlink", "replace", "mkdir", "write")


def main(folder: str, job: str, death: str) -> None:
    home = Path(folder)
    seen: list[str] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if death == str(len(seen)):
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(name)
            return call(*args, **kwargs)

        return instead

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    store = FilesystemStore(home / "objects")
    if job == "create":
        store.create(KEY, DATA)
    elif job == "ingest":
        store.ingest(home / "source")
    else:
        digest = check_digest((home / "digest").read_text())
        store.fetch_blob(digest, home / "dest" / "x")
    print(" ".join(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
