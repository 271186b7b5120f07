"""Bytes from S3: ranges side by side, handed on in order, within bounded memory and time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Final

from launcher.retry import retried
from launcher.storage.s3.client import Client

__all__ = ["RANGE_BYTES", "Downloads"]

RANGE_BYTES: Final = 8 * 1024 * 1024
_WORKERS: Final = 6
#: Ranges in memory, of all downloads of a store together: 80 MiB.
_RANGES: Final = 10
#: A range is a read and can be asked for as often as one likes.
_ATTEMPTS: Final = 5
_DEADLINE_SECONDS: Final = 120.0

Sink = Callable[[bytes, int], object]


class Downloads:
    """Reads big objects of one bucket. Threads may share it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="s3-get")
        self._room = BoundedSemaphore(_RANGES)

    def blocks(self, key: str, size_bytes: int, sink: Sink | None = None) -> Iterator[bytes]:
        """The bytes of an object, in order. ``sink`` gets each block and its place first, in any order.

        Raises what ``Client.get`` raises, after some attempts, and what ``sink`` raises.
        """
        waiting: deque[Future[bytes]] = deque()
        starts = iter(range(0, size_bytes, RANGE_BYTES))
        # The oldest block that waits is always one of those that have room, so nobody waits for ever.
        try:
            while True:
                while len(waiting) < _WORKERS + 2 and self._room.acquire(blocking=not waiting):
                    start = next(starts, None)
                    if start is None:
                        self._room.release()
                        break
                    stop = min(start + RANGE_BYTES, size_bytes)
                    waiting.append(self._pool.submit(self._block, key, start, stop, sink))
                if not waiting:
                    return
                yield self._taken(waiting)
        finally:
            for future in waiting:
                future.cancel()
            while waiting:
                self._given_up(waiting)

    def _taken(self, waiting: deque[Future[bytes]]) -> bytes:
        try:
            return waiting.popleft().result()
        finally:
            self._room.release()

    def _given_up(self, waiting: deque[Future[bytes]]) -> None:
        future = waiting.popleft()
        if not future.cancelled():
            future.exception()
        self._room.release()

    def _block(self, key: str, start: int, stop: int, sink: Sink | None) -> bytes:
        def attempt() -> bytes:
            return self._client.get(key, stop - start, start, stop).data

        data = retried(attempt, attempts=_ATTEMPTS, deadline_seconds=_DEADLINE_SECONDS)
        if sink is not None:
            sink(data, start)
        return data
