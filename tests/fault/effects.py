"""A process that counts its effects, and dies *before* a chosen one: what the children of the fault tests share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

__all__ = ["Effects", "effects_of"]


class Effects:
    """``seen`` names the effects so far, in order. ``death``: the number of the one before which to die, 0 first;
    one that never comes means to live."""

    def __init__(self, death: int) -> None:
        self.seen: list[str] = []
        self._death = death

    def count(self, name: str) -> None:
        """An effect is about to happen."""
        if self._death == len(self.seen):
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(name)

    def watch(self, owner: Any, *names: str, called: str = "") -> None:
        """Count every call of these functions of ``owner`` from now on, by their names or as ``called``."""
        for name in names:
            setattr(owner, name, self._counted(called or name, getattr(owner, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            self.count(name)
            return call(*args, **kwargs)

        return instead


def effects_of(job: Callable[[], Effects]) -> list[str] | None:
    """The effects of ``job``, done by a fork of this process; None if it was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, json.dumps(job().seen).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, f"it failed: wait status {status}"
    return [str(name) for name in json.loads(said)]
