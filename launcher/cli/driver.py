"""What a driver's pod runs: ``python3 -m launcher.cli.driver RUN`` drives an open run where no launcher stays.

1. It ends with the run's own exit code, which ends its Job. Three codes mean that the pod is to be replaced:
   TRY_AGAIN, 137 and 143; a run whose own code is one of them ends it with 70, as one that has none.
2. Told to end, it ends at once: all that it knows is in the ledger, and whoever comes after it goes on.
3. It keeps no file of the project: documents and target files are brought in step by the next command that writes
   where the project is.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final

from k8s.driver import TRY_AGAIN
from launcher.cli.common import project_root
from launcher.cli.executing import runner_for
from launcher.cli.main import explain
from launcher.cli.progress import Screen, say_end
from launcher.cli.runs import config_of
from launcher.cli.terminal import echo
from launcher.errors import UsageError
from launcher.refs import find_run
from launcher.runner import NO_CODE
from launcher.settings import Settings
from launcher.workspace import open_workspace, translated

__all__ = ["main"]

_REPLACED: Final = (TRY_AGAIN, 137, 143)
#: Errors that only a person can mend: wrong use, which includes what is not permitted, and integrity.
_FINAL: Final = (2, 4)


def main(arguments: list[str]) -> int:
    """The exit code of the container."""
    signal.signal(signal.SIGTERM, _leave)  # the first process of a pod is not ended by it otherwise
    try:
        (run,) = arguments
        code = _drive(run)
    except Exception as exc:  # noqa: BLE001 - each is said, and most are tried again
        code = explain(exc)
        return code if code in _FINAL else TRY_AGAIN
    return NO_CODE if code in _REPLACED else code


def _drive(run: str) -> int:
    root = project_root()
    settings = Settings.from_environment(os.environ, root, {})
    ws = open_workspace(settings, root, writing=True, keeps_files=False)
    with translated():
        ws.attend()
        state = ws.journal.run(find_run(ws.journal, run))
        if state.request is None or state.request.executor != "kubernetes":
            raise UsageError(f"run {run} has no Jobs")
        screen = Screen(ws)
        runner = runner_for(ws, config_of(ws, state, {}), state, screen)
        screen.opening(state)
        with screen:
            outcome = runner.run(state.run_id)
        say_end(ws, outcome)
    return outcome.exit_code


def _leave(number: int, frame: FrameType | None) -> None:
    echo("told to end; its replacement goes on", err=True)
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
