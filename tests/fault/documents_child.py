"""A process that writes a run's documents and is killed on the way. ``python -m tests.fault.documents_child``.

Arguments: the project's folder, the run, and when to die: the number of a system call of ours (0 first; -1
prints them all and lives). It dies *before* that call.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.launcher.small_runs import open_project

CALLS = ("fsync", "unlink", "replace", "ftruncate", "pwrite")


def main(folder: str, run_id: str, death: str) -> None:
    ws = open_project(Path(folder))
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
    ws.documents.write(run_id)
    print(" ".join(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
