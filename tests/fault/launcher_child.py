"""A launcher that is killed on the way. ``python tests/fault/launcher_child.py DEATH SUPERVISOR_DEATH ARGS…``

DEATH is the number of one of its steps, 0 first, or the name of the first one of a kind: ``append`` to the
ledger, ``link`` and ``replace`` (an object or file gets its name), ``spawn`` (a supervisor is told what to
do). It dies *before* that step; -1 prints them all and lives.
SUPERVISOR_DEATH is handed on to the supervisors, see ``supervisor_child``; ``-`` leaves them alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.cli.main import main as launcher
from launcher.executors import spawn
from ledger.stores.sqlite import SqliteEventStore


def main(death: str, supervisor_death: str, *arguments: str) -> None:
    seen: list[str] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if death in (name, str(len(seen))):
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(name)
            return call(*args, **kwargs)

        return instead

    os.link = watched("link", os.link)
    os.replace = watched("replace", os.replace)
    SqliteEventStore.append = watched("append", SqliteEventStore.append)  # type: ignore[method-assign]
    spawn.Spawner.spawn = watched("spawn", spawn.Spawner.spawn)  # type: ignore[method-assign]
    if supervisor_death != "-":
        child = Path(__file__).with_name("supervisor_child.py")
        spawn.SUPERVISOR = (sys.executable, str(child), supervisor_death)  # type: ignore[misc]
    try:
        launcher(list(arguments))
    finally:
        if death == "-1":
            print("steps:", *seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
