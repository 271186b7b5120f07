"""How far a supervisor is with storing what a stage left: a small file beside the attempt's lock, for a screen.

There is one only while a transfer goes on that takes longer than a moment, and it is a hint only: nothing is decided
from it, it may be absent, old or torn at any time, and a disk that takes no file is no trouble. What is hashed and
not sent yet counts as not done; what was in the store already, as done.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.agent.protocol import AttemptPaths
from launcher.storage.port import BlobInfo, ObjectStore

__all__ = ["Transfer", "told", "transfer_of"]

#: What takes less shows nothing.
_QUIET_SECONDS: Final = 1.0
_BETWEEN_SECONDS: Final = 0.5
#: The rate is that of the last so many seconds.
_WINDOW_SECONDS: Final = 10.0
#: A file that was not written for so long is of a supervisor that is gone, or has nothing to say.
_OLD_SECONDS: Final = 15.0

Ingest = Callable[[Path], BlobInfo]


@dataclass(frozen=True, slots=True)
class Transfer:
    """``total_bytes`` of the files that were begun up to now; ``rate`` in bytes a second."""

    done_bytes: int
    total_bytes: int
    rate: float


@contextmanager
def told(store: ObjectStore, paths: AttemptPaths) -> Iterator[Ingest]:
    """``store.ingest``, told to whoever looks; threads may call it. The file is gone afterwards."""
    teller = _Teller(paths.transfer)
    try:
        yield lambda source: store.ingest(source, teller.of(source))
    finally:
        if teller.has_told:
            with suppress(OSError):
                paths.transfer.unlink(missing_ok=True)


def transfer_of(paths: AttemptPaths) -> Transfer | None:
    """How far a supervisor on this machine is; None where it tells nothing."""
    try:
        moment = clock.parse_time(clock.now()).timestamp()
        if moment - paths.transfer.stat().st_mtime > _OLD_SECONDS:
            return None
        raw = json.loads(paths.transfer.read_bytes())
        return Transfer(int(raw["done_bytes"]), int(raw["total_bytes"]), float(raw["rate"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Teller:
    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.has_told = False
        self._files: dict[Path, tuple[int, int]] = {}
        self._began = self._written = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, source: Path) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            with self._lock:
                self._files[source] = (done, total)
                self._tell(time.monotonic())

        return progress

    def _tell(self, moment: float) -> None:
        done = sum(one for one, _ in self._files.values())
        self._seen.append((moment, done))
        while moment - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()
        quiet = moment - self._began < _QUIET_SECONDS
        if quiet or moment - self._written < _BETWEEN_SECONDS:
            return
        self._written = moment
        then, before = self._seen[0]
        rate = (done - before) / (moment - then) if moment > then else 0.0
        now = Transfer(done, sum(total for _, total in self._files.values()), rate)
        with suppress(OSError):
            self._path.write_text(json.dumps(asdict(now)))
            self.has_told = True
