"""A launcher that is killed while it removes or restores a run's folder. ``python -m tests.fault.run_dirs_child``.

Arguments: when to die (the number of a call, 0 first; -1 prints them all and lives), then the command's own. The
calls are those that change a file, and appends to the ledger. It dies *before* that call.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from launcher.cli.main import main
from launcher.journal import Journal

CALLS = ("unlink", "rmdir", "replace", "utime")


def run(death: str, arguments: list[str]) -> None:
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
    Journal.record_storage = watched("append", Journal.record_storage)  # type: ignore[method-assign]
    try:
        main(arguments)
    finally:
        print("\n" + " ".join(seen))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
