"""The segments of one log as they lie in the bucket, and packs of them: read, listed, created, patiently. No state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, Final, TypeVar

from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.stores.log_port import KeyTakenError, LogObjects, NoAnswerError
from ledger.stores.packs import (
    PACKED,
    PACKS_PREFIX,
    end_of_pack,
    last_packed,
    pack,
    pack_key,
    unpack,
)
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
_BATCH: Final = 512
#: So many are read one by one, and not from a pack.
_FEW: Final = 4

T = TypeVar("T")


class BucketLog:
    """A call that is not answered is tried ``tries`` times in all; ``sleep`` waits that many seconds.

    ``packed``: where a pack has the same segments, it will do.

    Raises LedgerUnavailableError once patience is at its end.
    """

    def __init__(
        self, objects: LogObjects, sleep: Callable[[float], None], tries: int, *, packed: bool
    ) -> None:
        self._objects, self._sleep, self._tries, self._packed = objects, sleep, tries, packed

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

    def since(self, tip: Tip) -> Iterator[list[Segment]]:
        """As ``after``, for who follows closely: one read where nothing is new, no listing where little is."""
        few: list[Segment] = []
        while len(few) < _FEW:
            number = tip.sequence + len(few) + 1
            data = self.read(number)
            if data is None:
                break
            few.append(parse_segment(number, data, self.where))
        if few:
            yield few
        if len(few) == _FEW:
            size = tip.size + sum(len(segment.raws) for segment in few)
            yield from self._past(few[-1].sequence, size, packed=self._packed)

    def after(self, tip: Tip, *, singly: bool = False) -> Iterator[list[Segment]]:
        """All segments past ``tip``, ascending without gaps, in batches; how they follow is not checked.

        ``singly``: the segments themselves in any case. Raises LedgerDamagedError naming the first that is missing or
        no segment, after those before it.
        """
        yield from self._past(tip.sequence, tip.size, packed=self._packed and not singly)

    def _past(self, sequence: int, size: int, *, packed: bool) -> Iterator[list[Segment]]:
        """As ``after``, past segment ``sequence``, which ends at position ``size``."""
        last = self._last(sequence, packed=packed)
        parts = _parts(sequence + 1, last, packed=packed)
        with self._mapping(len(parts)) as mapped:
            for group in _groups(parts):
                batch: list[Segment] = []
                numbers, found = chain.from_iterable(group), mapped(self._part, group)
                try:
                    for number, one in zip(numbers, chain.from_iterable(found), strict=True):
                        batch.append(self._whole(number, one, last))
                        size += len(batch[-1].raws)
                except LedgerDamagedError as exc:
                    yield batch
                    raise LedgerDamagedError(self.where, exc.detail, size) from exc
                yield batch

    def _last(self, sequence: int, *, packed: bool) -> int:
        """The number of the newest segment; ``sequence`` where none is past it."""
        numbers = self._numbers(sequence, PACKED if packed else None)
        if packed and len(numbers) == PACKED:
            # There may be very many: those that packs tell of need not be listed.
            end = max(self._packs(sequence), default=sequence + 1)
            numbers = self._numbers(end - 1)
            if end not in numbers:
                # The pack of a log that was cut off says nothing of where this one ends.
                numbers = self._numbers(sequence)
        return max([sequence, *numbers])

    def _numbers(self, after: int, most: int | None = None) -> set[int]:
        """The segments past number ``after``, as listed: the first ``most`` of them."""

        def listed() -> set[int]:
            keys = self._objects.list(LOG_PREFIX, segment_key(after))
            return set(islice((number for key in keys if (number := sequence_of(key))), most))

        return self._tried(listed)

    @contextmanager
    def _mapping(self, count: int) -> Iterator[Callable[..., Iterator[Any]]]:
        """``map``, in order: several at a time where ``count``, how many there may be, pays for it."""
        if count <= _FEW:
            yield map
            return
        with ThreadPoolExecutor(min(_READERS, count)) as pool:
            yield pool.map

    def _part(self, numbers: range) -> Sequence[Segment | bytes | LedgerDamagedError | None]:
        """What lies under these numbers: those of one pack, or one."""
        if len(numbers) > 1 and (packed := self._unpacked(numbers[-1])):
            return packed[-len(numbers) :]
        return [self._read_or_why(number) for number in numbers]

    def _read_or_why(self, sequence: int) -> bytes | LedgerDamagedError | None:
        try:
            return self.read(sequence)
        except LedgerDamagedError as exc:
            return exc

    def _whole(
        self, sequence: int, found: Segment | bytes | LedgerDamagedError | None, last: int
    ) -> Segment:
        if isinstance(found, Segment):
            return found
        if isinstance(found, LedgerDamagedError):
            raise found
        if found is None:
            # It was there before any later one was: a listing may miss it, a read may not.
            detail = f"{segment_key(sequence)} is gone, though {segment_key(last)} is there"
            raise LedgerDamagedError(self.where, detail)
        return parse_segment(sequence, found, self.where)

    # --- packs ---

    def create_pack(self, segments: Sequence[Segment]) -> None:
        """Create the pack of these, in one try; there already: well."""
        with suppress(KeyTakenError):
            self._objects.create(pack_key(segments[-1].sequence), pack(segments))

    def lacking_packs(self, last: int) -> list[int]:
        """The packs up to the one of segment ``last``, its end, that are not there, ascending, each by its end."""
        return sorted({*range(PACKED, last + 1, PACKED)} - self._packs(0))

    def _packs(self, sequence: int) -> set[int]:
        """The packs that hold a segment past ``sequence``, each by its end."""
        after = pack_key(sequence)
        keys = self._tried(lambda: list(self._objects.list(PACKS_PREFIX, after)))
        return {last for key in keys if (last := last_packed(key))}

    def _unpacked(self, last: int) -> list[Segment] | None:
        """The segments of a pack, for certain those of the log; None where there is no such pack."""
        with suppress(LedgerDamagedError):
            data = self._tried(lambda: self._objects.read(pack_key(last)))
            newest = self.read(last) if data is not None else None
            if data is not None and newest is not None:
                return unpack(last, data, newest)
        return None

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


def _parts(first: int, last: int, *, packed: bool) -> list[range]:
    """The numbers from ``first`` to ``last``: what a pack may hold together, every other by itself."""
    parts = []
    while first <= last:
        end = end_of_pack(first)
        whole = packed and end <= last and end - first >= _FEW
        parts.append(range(first, (end if whole else first) + 1))
        first = parts[-1][-1] + 1
    return parts


def _groups(parts: Sequence[range]) -> Iterator[list[range]]:
    """``parts`` in order, in groups of a batch's length or a little more."""
    group: list[range] = []
    count = 0
    for part in parts:
        group.append(part)
        count += len(part)
        if count >= _BATCH:
            yield group
            group, count = [], 0
    if group:
        yield group
