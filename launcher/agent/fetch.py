"""The init container: brings code, inputs and what earlier stages left, before the command starts.

``python -m launcher.agent.fetch --store=… --task=sha256:… --workspace=… --handover=…``

| exit code | means                                                                          |
|-----------|--------------------------------------------------------------------------------|
| 0         | all of it is there, verified                                                   |
| 2         | what was asked for makes no sense, or the store does not let us in             |
| 3         | something is in the way in the workspace, or the attempt has its result        |
| 4         | something that is needed is damaged or gone: another try meets the same        |
| 5         | the store, or the disk, was away for longer than it may: another try may do it |
| 143       | told to end                                                                    |
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from k8s.wrapper import TERMINATED
from launcher.agent.pod_door import given, run, say

__all__ = ["main"]

_PROGRAM = "fetch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch; returns the exit code."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    asked = given(_PROGRAM, arguments)

    def work() -> int:
        from launcher.agent.pod_fetch import Fetch  # here: a signal that comes before is heard

        say(_PROGRAM, Fetch(asked, lambda text: say(_PROGRAM, text)).run())
        return 0

    return run(_PROGRAM, work)


def _leave(*_: Any) -> None:
    """At once: nothing here has its name before it is whole, and the workspace goes with the pod."""
    say(_PROGRAM, "told to end")
    os._exit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
