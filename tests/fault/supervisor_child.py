"""A supervisor that is killed on the way. ``python tests/fault/supervisor_child.py DEATH``, a spec on stdin.

DEATH is ``stage:n``: in the first attempt at that stage it dies *before* its n-th step, 0 first: an object
that gets its name, the command's start, its end. ``stage:-1`` writes the steps to ``steps`` in the
project's root and lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.agent import command, supervisor


def main(death: str) -> int:
    stage, _, number = death.partition(":")
    seen: list[str] = []
    doomed = False

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if doomed:
                if number == str(len(seen)):
                    os.kill(os.getpid(), signal.SIGKILL)
                seen.append(name)
            return call(*args, **kwargs)

        return instead

    class Doomed(supervisor.Supervisor):
        def run(self) -> int:
            nonlocal doomed
            doomed = self.spec.stage == stage and self.spec.attempt == 1
            code = super().run()
            if doomed:
                Path(self.spec.cwd, "steps").write_text(" ".join(seen))
            return code

    os.link = watched("link", os.link)
    command.Command.__init__ = watched("start", command.Command.__init__)  # type: ignore[method-assign]
    command.Command.end = watched("end", command.Command.end)  # type: ignore[method-assign]
    supervisor.Supervisor = Doomed  # type: ignore[misc]
    return supervisor.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
