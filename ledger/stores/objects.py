"""The ledger in a bucket: every append is one create-only object, a segment (``ledger.stores.segments``).

Rules:

1. An append is decided on the log up to segment h and creates h + 1, and nothing else: that the number was
   free proves that the decision saw everything. No lock, no lease, no clock.
2. Taken: what is there is read. Our own bytes are success; somebody else's are taken in, ids and versions
   are looked at again, and it is a conflict or an attempt at the number after. A number is tried only once
   the one before it was seen, so none is ever skipped.
3. No answer: read, then the same bytes under the same number again. A create that lands a minute late finds
   its number taken, by us or by another, and changes nothing.
4. Nothing is ever replaced or deleted.
5. Questions are answered from a local cache that was checked segment by segment as it was filled. The
   first use compares its newest segment with the bucket's and lists what came after; every later one asks
   for the segment that would come next. ``read_raw``, on which audits and copies stand, reads the bucket.
6. Who has many segments to read may read a copy of 64 that proves itself (``ledger.stores.packs``). Whose append
   fills 64 leaves one, and some that others left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from ledger import records
from ledger.errors import LedgerDamagedError, LedgerUnavailableError, VersionConflictError
from ledger.events import Recorded
from ledger.ids import check_stream
from ledger.stores._bucket_log import BucketLog, spread
from ledger.stores._segment_cache import SegmentCache
from ledger.stores._segment_caches import SegmentCaches
from ledger.stores.log_port import LogObjects
from ledger.stores.packs import PACKED
from ledger.stores.port import NewEvent, StoredEvent, TreeHead
from ledger.stores.segments import Segment, Tip, next_segment, parse_segment, segment_key
from ledger.transparency.merkle import EMPTY_ROOT

__all__ = ["ObjectsEventStore"]

#: The wait after a lost race, at most: as long as the create took, which tells how busy everything is, times
#: two for each race lost in this append, up to 64 of them and in any case to the longest.
_DOUBLINGS: Final = 6
_LONGEST_RACE_WAIT_SECONDS: Final = 30.0
#: For so many appends after a lost race a writer looks before each: it costs a read, saves creates that
#: must lose, and lets others in, who would starve behind one that goes from success to success.
_LOOKS_FIRST: Final = 16
#: How many packs one append makes at most: its own, and what is lacking from before.
_PACKS_AT_ONCE: Final = 8

T = TypeVar("T")


class ObjectsEventStore:
    """An EventStore over ``objects``, for one process and thread; any number may share bucket and cache.

    ``cache`` is a folder for this log alone, made where absent; None, or one that cannot be written, means
    memory. ``boot`` tells this boot of the machine from others: a cache of another is checked in full
    before it is used. ``sleep`` waits that many seconds, ``stopwatch`` counts them. ``tries`` is how often a
    call is made that is not answered (2 are enough where ``objects`` tries again by itself). ``packed``
    False: no pack will do for the segments themselves.
    """

    def __init__(
        self,
        objects: LogObjects,
        cache: Path | None = None,
        *,
        sleep: Callable[[float], None],
        stopwatch: Callable[[], float] = time.monotonic,
        tries: int = 6,
        boot: str = "",
        read_only: bool = False,
        packed: bool = True,
    ) -> None:
        self._log = BucketLog(objects, sleep, tries, packed=packed)
        self._sleep, self._stopwatch, self._read_only = sleep, stopwatch, read_only
        self._caches = SegmentCaches(cache, objects.where, boot)
        self._compared = False
        self._crowded = 0
        self._pid = os.getpid()

    @property
    def where(self) -> str:
        return self._log.where

    def close(self) -> None:
        self._caches.close()
        self._compared = False

    # --- appending ---

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[NewEvent],
        *,
        now: str,
        actor: str,
    ) -> list[Recorded[Any]]:
        raws = records.prepare(stream, expected_version, events, now=now, actor=actor)

        def decide(cache: SegmentCache) -> list[Recorded[Any]] | None:
            records.refuse_newer(cache.newer_schema())
            known = cache.known([event.id for event in events])
            return records.settle_known(
                events,
                [records.parse_stored(one, self.where) if one else None for one in known],
                stream=stream,
                expected=expected_version,
                actual=cache.version(stream),
            )

        position, said = self._commit(raws, decide)
        if said is not None:
            return said
        return [
            records.recorded(
                event,
                position=position + i,
                stream=stream,
                version=expected_version + 1 + i,
                now=now,
                actor=actor,
            )
            for i, event in enumerate(events)
        ]

    def load_raw(self, *batches: Sequence[bytes], at: int = 0) -> None:
        for raws in batches:
            self._commit(raws, partial(self._admit, at, raws))
            at += len(raws)

    def _admit(self, at: int, raws: Sequence[bytes], cache: SegmentCache) -> None:
        """Raises VersionConflictError if ``raws`` do not go on from here, at position ``at``."""
        if cache.tip().size != at:
            raise VersionConflictError("the ledger", at, cache.tip().size)
        versions: dict[str, int] = {}
        said = [records.envelope(at + i, raw, self.where) for i, raw in enumerate(raws)]
        for one in said:
            stream = one["stream"]
            actual = versions.get(stream) or cache.version(stream)
            if one["version"] != actual + 1:
                raise VersionConflictError(stream, one["version"] - 1, actual)
            versions[stream] = actual + 1
        ids = [one["id"] for one in said]
        if len(set(ids)) != len(ids) or any(cache.known(ids)):
            raise VersionConflictError(said[0]["stream"], said[0]["version"] - 1, 0)

    def _commit(
        self, raws: Sequence[bytes], decide: Callable[[SegmentCache], T | None]
    ) -> tuple[int, T | None]:
        """Create the segment of ``raws`` after the tip at which ``decide`` has nothing else to say.

        Returns its first position and None, or what ``decide`` said. A conflict counts on the newest state.
        """
        if self._read_only:
            raise LedgerUnavailableError(self.where, "it was opened for reading")
        self._compare()
        newest, lost = False, 0
        if self._crowded:
            self._refresh()
        while True:
            try:
                # The tip first: if another process adds to the cache now, our number will be taken.
                tip, said = self._ask(lambda cache: (cache.tip(), decide(cache)))
            except VersionConflictError:
                if newest:
                    raise
                self._refresh()
                newest = True
                continue
            if said is not None:
                return tip.size, said
            segment = next_segment(tip, raws)
            begun = self._stopwatch()
            there = self._log.create(segment.sequence, segment.data)
            if there == segment.data:
                # Acknowledged, whatever becomes of the cache.
                with suppress(LedgerUnavailableError):
                    self._take_in([segment])
                self._crowded = max(0, self._crowded - 1)
                self._pack(segment.sequence)
                return tip.size, None
            self._take_in([parse_segment(segment.sequence, there, self.where)])
            newest, lost = True, lost + 1
            wait = (self._stopwatch() - begun) * 2 ** min(lost, _DOUBLINGS)
            self._crowded = _LOOKS_FIRST
            self._sleep(min(wait, _LONGEST_RACE_WAIT_SECONDS) * spread(segment.data, lost))
            self._refresh()

    def _pack(self, sequence: int) -> None:
        """Where the append of this number filled a pack: leave it, and some of those that are not there."""
        if sequence % PACKED:
            return
        # Acknowledged, whatever becomes of the packs: the next append that fills one makes up for it.
        with suppress(Exception):
            for last in reversed(self._log.lacking_packs(sequence)[-_PACKS_AT_ONCE:]):
                self._log.create_pack(self._ask(partial(SegmentCache.packed, last=last)))

    # --- keeping up with the bucket ---

    def _compare(self) -> None:
        """Once: is the cache's newest segment the bucket's? Then take in all that came after it."""
        if os.getpid() != self._pid:
            raise RuntimeError("a ledger in a bucket was carried over a fork: open it again")
        if self._compared:
            return
        tip = self._ask(SegmentCache.tip)
        if tip.sequence:
            mine = self._ask(lambda cache: cache.segment(tip.sequence))
            try:
                there = self._log.read(tip.sequence)
            except LedgerDamagedError as exc:
                raise LedgerDamagedError(self.where, exc.detail, mine.first) from exc
            if there != mine.data:
                self._explain(there, mine)
        for batch in self._log.after(self._ask(SegmentCache.tip)):
            self._take_in(batch)
        self._compared = True

    def _explain(self, there: bytes | None, mine: Segment) -> None:
        """The bucket does not hold what the cache holds: another log (a new cache), or a changed one."""
        begins = self._log.read(1)
        if begins is None or begins == self._ask(lambda cache: cache.segment(1)).data:
            key = segment_key(mine.sequence)
            what = "is gone" if there is None else "is not what it was"
            raise LedgerDamagedError(
                self.where,
                f"{key} {what} since it was read here; if that was meant, remove the cache"
                f" {self._caches.current().where}",
                mine.first,
            )
        self._caches.renew(salvage=False)

    def _refresh(self) -> None:
        """Take in what others appended."""
        compared = self._compared
        self._compare()
        if compared:
            for batch in self._log.since(self._ask(SegmentCache.tip)):
                self._take_in(batch)

    def _take_in(self, segments: Sequence[Segment]) -> None:
        self._ask(lambda cache: cache.absorb(segments))

    def _ask(self, question: Callable[[SegmentCache], T]) -> T:
        """What the cache says; where the cache itself is damaged or of no use, what a new one says."""
        while True:
            cache = self._caches.current()
            try:
                return question(cache)
            except LedgerDamagedError as exc:
                if exc.where != cache.where:
                    raise
                if not self._caches.renew(salvage=True):
                    raise LedgerDamagedError(self.where, exc.detail, exc.position) from exc
            except LedgerUnavailableError as exc:
                if exc.where != cache.where or not self._caches.forget():
                    raise
            fresh = self._caches.current()
            for batch in self._log.after(fresh.tip()):
                fresh.absorb(batch)

    # --- reading ---

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        check_stream(stream)
        self._refresh()
        found = self._ask(lambda cache: cache.stream(stream, after_version))
        return [records.parse_stored(stored, self.where) for stored in found]

    def read_all(self, from_position: int = 0) -> Iterator[Recorded[Any]]:
        self._refresh()
        at = from_position
        while page := self._ask(partial(SegmentCache.page, from_position=at)):
            for stored in page:
                yield records.parse_stored(stored, self.where)
            at += len(page)

    def read_raw(self, from_position: int = 0) -> Iterator[StoredEvent]:
        """See the port. The bucket's own segments, the chain checked on the way; from 0, without the cache.

        Raises LedgerDamagedError naming the first segment and position that are not what they were, once
        the events before it are out.
        """
        tip = self._ask(lambda cache: cache.tip_at(from_position)) if from_position else Tip()
        for batch in self._log.after(tip, singly=True):
            for segment in batch:
                after = tip.follow(segment, self.where)
                for position, raw in enumerate(segment.raws, start=tip.size):
                    said = records.envelope(position, raw, self.where)
                    if position >= from_position:
                        yield StoredEvent(
                            position, said["id"], said["stream"], said["version"], raw
                        )
                tip = after

    def streams(self, prefix: str = "") -> list[str]:
        self._refresh()
        return [n for n in self._ask(SegmentCache.streams) if n.startswith(prefix)]

    def head(self) -> TreeHead:
        self._refresh()
        frontier = self._ask(SegmentCache.tip).frontier
        return TreeHead(frontier.size, frontier.root() if frontier.size else EMPTY_ROOT)

    def kept_heads(self) -> list[TreeHead]:
        self._refresh()
        return self._ask(SegmentCache.heads)

    def root_at(self, size: int) -> bytes:
        total = self.head().size
        if not 0 <= size <= total:
            raise ValueError(f"the ledger has {total} events, not {size}")
        return self._ask(lambda cache: cache.root_at(size))

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        self._refresh()
        return self._ask(SegmentCache.newer_schema)
