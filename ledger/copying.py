"""Moving a ledger from one store to another: SQLite, bucket, in any direction.

Rules:

1. Events go over byte for byte; ids, versions, positions, times and actors are in the bytes.
2. An append stays one append: the copy keeps a tree head wherever the source kept one, and nowhere else, so
   a copy of a copy is the first again, and a head that somebody wrote down is kept in both.
3. Nothing damaged is copied: the source's bytes are hashed as they pass, and every head it kept must be
   their root before the events that it covers are written.
4. A target is empty or a beginning of the source, at one of its appends; then only the rest is copied. So
   a copy that was interrupted goes on, and one that is repeated does nothing.
5. In the end the target is read again, and hashed: its root is the source's or it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ledger.errors import LedgerDamagedError, NotACopyError
from ledger.stores.port import EventStore, TreeHead
from ledger.transparency.merkle import Frontier, leaf_hash

__all__ = ["copy"]

#: Appends that go to the target in one call.
_BATCHES = 256


def copy(
    source: EventStore,
    target: EventStore,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TreeHead:
    """Bring ``target`` to where ``source`` is now, and return the head that both then have.

    ``progress`` hears how many of how many events are there. What is appended to ``source`` meanwhile is for
    the next copy. Raises NotACopyError (nothing was written), LedgerDamagedError naming the ledger whose
    bytes are not what its heads say, VersionConflictError if somebody else appends to ``target``.
    """
    end, have = source.head(), target.head()
    _refuse_strangers(source, target, end, have)
    batches = _appends(source, end, have)
    size = have.size
    progress(size, end.size)
    while group := list(islice(batches, _BATCHES)):
        target.load_raw(*group, at=size)
        size += sum(map(len, group))
        progress(size, end.size)
    _verify(target, end)
    return end


def _refuse_strangers(
    source: EventStore, target: EventStore, end: TreeHead, have: TreeHead
) -> None:
    """A beginning ends where the source kept a head, and kept what the source did up to there."""
    if have.size == 0:
        return
    theirs, ours = source.kept_heads(), target.kept_heads()
    if have.size > end.size:
        raise NotACopyError(
            source.where, target.where, f"it has {have.size} events, more than {end.size}"
        )
    if ours != theirs[: len(ours)]:
        first = next(i for i, head in enumerate(ours) if [head] != theirs[i : i + 1])
        at = ours[first - 1].size if first else 0
        raise NotACopyError(source.where, target.where, f"they part after {at} events")


def _appends(source: EventStore, end: TreeHead, have: TreeHead) -> Iterator[list[bytes]]:
    """The source's appends past the size of ``have``, each checked against the head that was kept of it."""
    frontier = Frontier()
    stored = source.read_raw()
    for head in source.kept_heads():
        if head.size > end.size:
            return
        raws = [one.raw for one in islice(stored, head.size - frontier.size)]
        for raw in raws:
            frontier = frontier.append(leaf_hash(raw))
        if (frontier.size, frontier.root()) != (head.size, head.root):
            raise LedgerDamagedError(
                source.where,
                f"its events do not hash to the tree head kept at size {head.size}",
                head.size - len(raws),
            )
        if head.size > have.size:
            yield raws


def _verify(target: EventStore, end: TreeHead) -> None:
    frontier = Frontier()
    for stored in islice(target.read_raw(), end.size):
        frontier = frontier.append(leaf_hash(stored.raw))
    if (frontier.size, frontier.root()) != (end.size, end.root):
        raise LedgerDamagedError(
            target.where, f"after the copy it has not the root of the first {end.size} events"
        )
