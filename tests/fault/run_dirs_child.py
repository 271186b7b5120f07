"""A launcher that is killed while it removes or restores a run's folder. ``python -m tests.fault.run_dirs_child``.

Arguments: when to die (the number of a call, 0 first; -1 prints them all and lives), then the command's own. The
calls are those that change a file, and appends to the ledger. It dies *before* that call.
"""

from __future__ import annotations

import os
import sys

from launcher.cli.main import main
from launcher.journal import Journal
from tests.fault.effects import Effects

CALLS = ("unlink", "rmdir", "replace", "utime")


def run(death: str, arguments: list[str]) -> None:
    effects = Effects(int(death))
    effects.watch(os, *CALLS)
    effects.watch(Journal, "record_storage", called="append")
    try:
        main(arguments)
    finally:
        print("\n" + " ".join(effects.seen))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
