"""A process that writes a run's documents and is killed on the way. ``python -m tests.fault.documents_child``.

Arguments: the project's folder, the run, and when to die: the number of a system call of ours (0 first; -1
prints them all and lives). It dies *before* that call.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fault.effects import Effects
from tests.launcher.small_runs import open_project

CALLS = ("fsync", "unlink", "replace", "ftruncate", "pwrite")


def main(folder: str, run_id: str, death: str) -> None:
    ws = open_project(Path(folder))
    effects = Effects(int(death))
    effects.watch(os, *CALLS)
    ws.documents.write(run_id)
    print(" ".join(effects.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
