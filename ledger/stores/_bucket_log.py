"""The segments of one log as they lie in the bucket: read, listed and created, with patience. No state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.stores.log_port import KeyTakenError, LogObjects, NoAnswerError
from ledger.stores.segments import (
    LOG_PREFIX,
    Segment,
    Tip,
    parse_segment,
    segment_key,
    sequence_of,
)

__all__ = ["BucketLog", "spread"]

#: The wait before the second try of a call that is not answered; each further wait is doubled.
_FIRST_WAIT_SECONDS: Final = 0.1
#: Reads at a time, and segments in a batch.
_READERS: Final = 24
_ONE_BY_ONE: Final = 4
_BATCH: Final = 512

T = TypeVar("T")


class BucketLog:
    """A call that is not answered is tried ``tries`` times in all; ``sleep`` waits that many seconds.

    Raises LedgerUnavailableError once patience is at its end.
    """

    def __init__(self, objects: LogObjects, sleep: Callable[[float], None], tries: int) -> None:
        self._objects, self._sleep, self._tries = objects, sleep, tries

    @property
    def where(self) -> str:
        """The bucket."""
        return self._objects.where

    def create(self, sequence: int, data: bytes) -> bytes:
        """Create a segment, and say what lies under its number now: ``data``, or what another put there."""
        key, why = segment_key(sequence), ""
        for attempt in range(self._tries):
            if attempt:
                wait = _FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
                self._sleep(wait * (0.5 + spread(data, attempt)))
            try:
                self._objects.create(key, data)
                return data
            except KeyTakenError:
                why = "it is taken, and cannot be read"
            except NoAnswerError as exc:
                why = exc.detail
            with suppress(NoAnswerError):
                there = self._objects.read(key)
                if there is not None:
                    return there
        raise LedgerUnavailableError(
            self.where, f"{key} was not confirmed in {self._tries} tries ({why}); run it again"
        )

    def read(self, sequence: int) -> bytes | None:
        """A segment's bytes; None if there is none of this number."""
        return self._tried(lambda: self._objects.read(segment_key(sequence)))

    def since(self, sequence: int) -> Iterator[list[Segment]]:
        """Segments past number ``sequence`` up to the first that is absent, without a listing.

        For who follows closely: one read where nothing is new. Asks for one, then for ever more at a time.
        """
        width = 1
        while True:
            numbers = range(sequence + 1, sequence + 1 + width)
            batch: list[Segment] = []
            with self._reading(width) as read:
                for number, data in zip(numbers, read(numbers), strict=False):
                    if data is None:
                        break
                    batch.append(parse_segment(number, data, self.where))
            if batch:
                yield batch
            if len(batch) < width:
                return
            sequence, width = sequence + width, min(width * 4, _BATCH)

    def after(self, tip: Tip) -> Iterator[list[Segment]]:
        """All segments past ``tip``, ascending without gaps, in batches; how they follow is not checked.

        Raises LedgerDamagedError naming the first that is missing or no segment, after those before it.
        """
        keys = self._tried(lambda: list(self._objects.list(LOG_PREFIX, segment_key(tip.sequence))))
        last = max([tip.sequence, *(number for key in keys if (number := sequence_of(key)))])
        if last == tip.sequence:
            return
        end = tip.size
        with self._reading(last - tip.sequence) as read:
            for first in range(tip.sequence + 1, last + 1, _BATCH):
                numbers = range(first, min(first + _BATCH, last + 1))
                batch: list[Segment] = []
                try:
                    for number, data in zip(numbers, read(numbers), strict=True):
                        batch.append(self._whole(number, data, last))
                        end += len(batch[-1].raws)
                except LedgerDamagedError as exc:
                    yield batch
                    raise LedgerDamagedError(self.where, exc.detail, end) from exc
                yield batch

    @contextmanager
    def _reading(self, count: int) -> Iterator[Callable[[range], Iterator[bytes | None]]]:
        """A way to read segments in order: several at a time where ``count``, how many there may be, pays for it."""
        if count <= _ONE_BY_ONE:
            yield lambda numbers: map(self.read, numbers)
            return
        with ThreadPoolExecutor(min(_READERS, count)) as pool:
            yield lambda numbers: pool.map(self.read, numbers)

    def _whole(self, sequence: int, data: bytes | None, last: int) -> Segment:
        if data is None:
            # It was there before any later one was: a listing may miss it, a read may not.
            detail = f"{segment_key(sequence)} is gone, though {segment_key(last)} is there"
            raise LedgerDamagedError(self.where, detail)
        return parse_segment(sequence, data, self.where)

    def _tried(self, attempt: Callable[[], T]) -> T:
        """What a call that changes nothing returns, tried again while nobody answers."""
        for number in range(self._tries - 1):
            try:
                return attempt()
            except NoAnswerError:
                self._sleep(_FIRST_WAIT_SECONDS * 2**number)
        return attempt()


def spread(data: bytes, attempt: int) -> float:
    """A number from 0 to 1 that differs between writers and tries, so that they do not meet again."""
    digest = hashlib.sha256(data + attempt.to_bytes(4, "big")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
