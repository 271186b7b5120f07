"""A collector as a fork of this process, killed *before* a chosen effect: an object that gets its name in the
store, a file of the handover folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.agent import collect, pod_collect
from tests.fault.effects import Effects
from tests.launcher.agent.pods import Pod, hears, until

__all__ = ["Doomed", "doomed"]


class Doomed:
    """One such process. ``steps`` are its effects so far, by the names that they make."""

    def __init__(self, pod: Pod, death: int) -> None:
        self._steps = pod.folder / "steps"
        self._steps.write_text("")
        self._pod, self.gone = pod, False
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.environ.update(pod.agent_environment)
                self._count(death)
                pod_collect._LOOK_SECONDS = 0.1  # type: ignore[misc] # the tests wait for each look
                code = collect.main(pod.arguments)
            finally:
                os._exit(code)

    @property
    def steps(self) -> list[str]:
        return self._steps.read_text().split()

    def ended(self) -> bool:
        """Whether it was killed, or has said ``collected`` and waits."""
        if not self.gone:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                assert os.WIFSIGNALED(status), f"it failed: wait status {status}"
                assert os.WTERMSIG(status) == signal.SIGKILL
                self.gone = True
        return self.gone or (self._pod.handover / "collected").exists()

    def end(self) -> bool:
        """Tell it to end once it is done; returns whether it was killed before."""
        until(self.ended)
        return self.tell()

    def tell(self) -> bool:
        """Tell it to end now; returns whether it was killed by then, or meanwhile."""
        if not self.gone:
            until(lambda: hears(self.pid) or (self.ended() and self.gone))
        if not self.gone:
            os.kill(self.pid, signal.SIGTERM)
            _, status = os.waitpid(self.pid, 0)
            assert status in (0, signal.SIGKILL)
            self.gone = True
            return status != 0
        return True

    def _count(self, death: int) -> None:
        effects = Effects(death)
        link, replace = os.link, Path.replace

        def count(final: Any) -> None:
            effects.count(Path(final).name)
            with self._steps.open("a") as steps:
                steps.write(f"{Path(final).name}\n")

        def linked(source: Any, final: Any, **more: Any) -> None:
            count(final)
            link(source, final, **more)

        def replaced(this: Path, target: Any) -> Path:
            count(target)
            return replace(this, target)

        os.link = linked  # type: ignore[assignment]
        Path.replace = replaced  # type: ignore[method-assign, assignment]


@contextmanager
def doomed(pod: Pod, death: int) -> Iterator[Doomed]:
    """Gone at the end of the block."""
    process = Doomed(pod, death)
    try:
        yield process
    finally:
        if not process.gone:
            try:
                os.kill(process.pid, signal.SIGKILL)
                os.waitpid(process.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
