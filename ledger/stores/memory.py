"""The ledger in memory: for tests and simulations, under the same contract suite as the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ledger import records
from ledger.errors import VersionConflictError
from ledger.events import Recorded
from ledger.ids import check_stream
from ledger.stores.port import NewEvent, StoredEvent, TreeHead
from ledger.transparency.merkle import EMPTY_ROOT, Frontier, leaf_hash

__all__ = ["MemoryEventStore"]


class MemoryEventStore:
    """An EventStore that forgets. One process, one thread."""

    where = "memory"

    def __init__(self) -> None:
        self._events: list[StoredEvent] = []
        self._heads: list[TreeHead] = []
        self._by_id: dict[str, StoredEvent] = {}
        self._versions: dict[str, int] = {}
        self._frontier = Frontier()
        self._newer: tuple[str, int, str | None] | None = None

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
        records.refuse_newer(self._newer)
        actual = self._versions.get(stream, 0)
        known = [self._by_id.get(event.id) for event in events]
        said = records.settle_known(
            events,
            [self._parse(stored) if stored else None for stored in known],
            stream=stream,
            expected=expected_version,
            actual=actual,
        )
        if said is not None:
            return said
        first = len(self._events)
        for raw in raws:
            self._keep(raw)
        self._heads.append(TreeHead(len(self._events), self._frontier.root()))
        return [
            records.recorded(
                event,
                position=first + i,
                stream=stream,
                version=actual + 1 + i,
                now=now,
                actor=actor,
            )
            for i, event in enumerate(events)
        ]

    def _keep(self, raw: bytes) -> None:
        """One more event, whose version fits."""
        record = records.parse(len(self._events), raw, self.where)
        if self._newer is None and records.is_newer(record.type, record.schema):
            first = next((e.raw for e in self._events if e.stream == record.stream), raw)
            self._newer = (record.type, record.schema, records.written_by(raw, first))
        stored = StoredEvent(record.position, record.id, record.stream, record.version, raw)
        self._events.append(stored)
        self._by_id[record.id] = stored
        self._versions[record.stream] = record.version
        self._frontier = self._frontier.append(leaf_hash(raw))

    def _parse(self, stored: StoredEvent) -> Recorded[Any]:
        return records.parse_stored(stored, self.where)

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        check_stream(stream)
        return [
            self._parse(e) for e in self._events if e.stream == stream and e.version > after_version
        ]

    def read_all(self, from_position: int = 0) -> Iterator[Recorded[Any]]:
        return (self._parse(e) for e in self._events[from_position:])

    def read_raw(self, from_position: int = 0) -> Iterator[StoredEvent]:
        return iter(self._events[from_position:])

    def streams(self, prefix: str = "") -> list[str]:
        return [stream for stream in self._versions if stream.startswith(prefix)]

    def head(self) -> TreeHead:
        return self._heads[-1] if self._heads else TreeHead(0, EMPTY_ROOT)

    def kept_heads(self) -> list[TreeHead]:
        return list(self._heads)

    def root_at(self, size: int) -> bytes:
        if not 0 <= size <= len(self._events):
            raise ValueError(f"the ledger has {len(self._events)} events, not {size}")
        frontier = Frontier()
        for event in self._events[:size]:
            frontier = frontier.append(leaf_hash(event.raw))
        return frontier.root()

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        return self._newer

    def load_raw(self, *batches: Sequence[bytes], at: int = 0) -> None:
        if at != len(self._events):
            raise VersionConflictError("the ledger", at, len(self._events))
        for raws in batches:
            self._refuse_misfits(raws)
            for raw in raws:
                self._keep(raw)
            self._heads.append(TreeHead(len(self._events), self._frontier.root()))

    def _refuse_misfits(self, raws: Sequence[bytes]) -> None:
        """Before any of a batch is kept."""
        versions: dict[str, int] = {}
        ids: set[str] = set()
        for position, raw in enumerate(raws, start=len(self._events)):
            said = records.envelope(position, raw, self.where)
            stream, version = said["stream"], said["version"]
            actual = versions.get(stream, self._versions.get(stream, 0))
            if version != actual + 1 or said["id"] in ids or said["id"] in self._by_id:
                raise VersionConflictError(stream, version - 1, actual)
            versions[stream] = version
            ids.add(said["id"])

    def close(self) -> None:
        return
