"""The native sidecar: keeps checkpoints while the command runs, and what it left when it has ended.

``python -m launcher.agent.collect --store=… --task=sha256:… --workspace=… --handover=…``

It ends when it is told to, with 0, and is started again by Kubernetes wherever else it ends: all that it has to know
is in the handover folder and in the store. Its exit codes are those of ``launcher.agent.fetch``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launcher.agent.pod_door import Told, given, run, say

__all__ = ["main"]

_PROGRAM = "collect"


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect until told to end; returns the exit code."""
    told = Told()
    asked = given(_PROGRAM, arguments)

    def work() -> int:
        from launcher.agent.pod_collect import (
            Collector,
        )  # here: a signal that comes before is heard

        return Collector(asked, told, lambda text: say(_PROGRAM, text)).run()

    return run(_PROGRAM, work)


if __name__ == "__main__":
    sys.exit(main())
