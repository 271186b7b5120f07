"""A process that appends to a ledger in a bucket. ``python -m tests.fault.bucket_child FOLDER DEATH``.

It appends two events to ``run/a`` after version 1 and is killed before the object call of number DEATH (0
first; -1 prints them all and lives).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.stores.objects import ObjectsEventStore
from tests.ledger.log_objects import folder_objects
from tests.ledger.samples import NOW, skipped


class Watched:
    """Objects that count their calls, and where this process dies."""

    def __init__(self, folder: Path, death: int) -> None:
        self._inner, self._death = folder_objects(folder), death
        self.seen: list[str] = []
        self.where = self._inner.where

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if len(self.seen) == self._death:
                os.kill(os.getpid(), signal.SIGKILL)
            self.seen.append(name)
            return getattr(self._inner, name)(*args)

        return call


def main(folder: str, death: str) -> None:
    objects = Watched(Path(folder) / "objects", int(death))
    store = ObjectsEventStore(objects, Path(folder) / "cache", sleep=time.sleep)
    store.append("run/a", 1, [skipped("k0"), skipped("k1")], now=NOW, actor="first")
    # The answer, and what a launcher reads next, are calls too.
    store.read_stream("run/a")
    print(" ".join(objects.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
