"""The port that every ledger store implements, and the words it speaks.

The contract, checked by ``tests/contract/test_event_store.py`` on each backend:

1. ``append`` is all or none and durable when it returns; safe for several processes at once.
2. Ids are looked up before versions. A batch whose ids are all known with equal type, schema, stream
   and data is the same fact: the first records (their time, actor, version) are returned, nothing is
   written. Different data under a known id, or a batch of which only some ids are known, is a
   VersionConflictError.
3. Versions run from 1 in each stream, positions from 0 in the ledger, neither with gaps.
4. With every append the root of the RFC 6962 Merkle tree over the event bytes is kept.
5. A store that holds events of a newer schema reads on and refuses to append (NewerSchemaError).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ledger.events import EventData, Recorded

__all__ = ["EventStore", "NewEvent", "StoredEvent", "TreeHead"]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A fact that is to be appended: its deterministic id (see ``ledger.ids.event_id``) and its data."""

    id: str
    data: EventData


@dataclass(frozen=True, slots=True)
class TreeHead:
    """``root`` is the RFC 6962 Merkle tree hash (32 bytes) over the first ``size`` events."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it lies in the store, unparsed: ``raw`` is the canonical JSON that was hashed.

    ``stream``, ``version`` and ``id`` are the store's own index of it, for audits to compare.
    """

    position: int
    id: str
    stream: str
    version: int
    raw: bytes


class EventStore(Protocol):
    """An append-only ledger. Every method may raise LedgerUnavailableError or LedgerDamagedError."""

    @property
    def where(self) -> str:
        """What a person would call this ledger: its path or URL."""
        ...

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[NewEvent],
        *,
        now: str,
        actor: str,
    ) -> list[Recorded[Any]]:
        """Append ``events`` (at least one) to ``stream``, which is believed to be at ``expected_version``.

        ``now`` is RFC 3339 UTC to the microsecond (``2026-01-31T02:00:00.000000Z``). Returns the records, in order.
        Raises VersionConflictError, EventTooLargeError, NewerSchemaError, InvalidNameError.
        """
        ...

    def load_raw(self, *batches: Sequence[bytes], at: int = 0) -> None:
        """Take over stored bytes as they are, newer schemas too: each batch (one event at least) as one append.

        They go on from position ``at``, which must be the ledger's size. For copies of a ledger; nothing
        but their envelopes is looked at. All of it durable when it returns; killed or unavailable on the
        way, the first so many whole batches. Raises VersionConflictError where a batch does not fit,
        LedgerDamagedError for bytes that are no event.
        """
        ...

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        """Events of one stream, ascending version, contiguous from ``after_version`` + 1; empty if unknown."""
        ...

    def read_all(self, from_position: int = 0) -> Iterator[Recorded[Any]]:
        """Events of all streams, ascending position, contiguous from ``from_position``."""
        ...

    def read_raw(self, from_position: int = 0) -> Iterator[StoredEvent]:
        """As ``read_all``, unparsed and unchecked: for audits and copies."""
        ...

    def streams(self, prefix: str = "") -> list[str]:
        """Names of the streams that begin with ``prefix``, ordered by the position of their first event."""
        ...

    def head(self) -> TreeHead:
        """The newest kept tree head; size 0 and the hash of the empty tree for an empty ledger."""
        ...

    def kept_heads(self) -> list[TreeHead]:
        """Every kept tree head, ascending size; one per append."""
        ...

    def root_at(self, size: int) -> bytes:
        """The root over the first ``size`` events: kept, or recomputed. Raises ValueError past the end."""
        ...

    def newer_schema(self) -> tuple[str, int, str | None] | None:
        """(type, schema, launcher version that wrote it) of an event this program is too old for, or None."""
        ...

    def close(self) -> None:
        """Release files. Idempotent."""
        ...
