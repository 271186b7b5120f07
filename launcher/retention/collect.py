"""Moving what nothing needs to the trash, and emptying what lay there long enough.

The order, whatever moment a kill comes at:

1. The plan, a blob, is stored and ``GarbagePlanned`` appended: before the first move.
2. Another look; what became needed since stays. The rest is moved, some at a time.
3. Another look; what became needed while it was moved is moved back.
4. The trash of a date that is due: another look, what is needed again is moved back, the rest is deleted.
   ``GarbageCollected`` says so of each plan of that date, once nothing of that date is left.

A killed collection is gone on with by the next one, which looks for itself: it plans what is still in its place,
empties what is left of a date, and says what the killed one had no time to say. Nothing rests on one collection
at a time: two move the same blobs to the same trash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from launcher import clock
from launcher.errors import IntegrityError, LauncherError, UsageError
from launcher.retention import leavings
from launcher.retention.look import Look, Seen, blobs_of
from launcher.retention.plan import make_plan
from launcher.retention.reach import Blob, due, open_then
from launcher.storage.port import BlobDamagedError, BlobInfo
from launcher.workspace import Workspace
from ledger import events as e
from ledger.canonical import canonical_json

__all__ = ["ClockSkewError", "Collected", "check_clocks", "collect"]

#: More than the drift of machines that keep their clocks; far less than any grace.
_SKEW_SECONDS: Final = 900.0
#: So many blobs are one plan: its document stays small enough to be read at once.
_PLAN_BLOBS: Final = 200_000
#: So many are moved between two words about it.
_BATCH: Final = 1000

#: Hears (what, how many, of how many).
Said = Callable[[str, int, int], object]


class ClockSkewError(UsageError):
    """Whose clock is wrong cannot be told, and every grace is measured by one."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"{what} and this machine's clock are {abs(seconds):,.0f} s apart",
            "nothing was moved; set the clocks (NTP), then again",
        )
        self.seconds = seconds


@dataclass
class Collected:
    """What was done. ``refused``: why the store kept what it was told to let go, by digest."""

    moved: list[Blob] = field(default_factory=list)
    moved_back: list[str] = field(default_factory=list)
    emptied: list[Blob] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    leavings: int = 0

    @property
    def moved_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.moved)

    @property
    def emptied_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.emptied)


def check_clocks(ws: Workspace, now: float) -> None:
    """Compare this machine's clock with the store's and with the newest event. Raises ClockSkewError."""
    skew = ws.store.clock() - now
    if abs(skew) > _SKEW_SECONDS:
        raise ClockSkewError(f"the clock of {ws.store.where}", skew)
    size = ws.ledger.head().size
    last = next(iter(ws.ledger.read_all(size - 1)), None) if size else None
    if last is not None:
        ahead = clock.parse_time(last.time).timestamp() - now
        if ahead > _SKEW_SECONDS:
            raise ClockSkewError(f"the newest event ({last.time})", ahead)


def collect(
    ws: Workspace,
    look: Look,
    now: Callable[[], float],
    said: Said = lambda _what, _done, _all: None,
) -> Collected:
    """Do what a plan made now says. ``now`` is asked again before anything is deleted for good.

    Raises ClockSkewError, ForeignLedgerError, UnavailableError; IntegrityError where doubts keep everything.
    """
    check_clocks(ws, now())
    plan = make_plan(ws, look, now())
    if plan.seen.doubts:
        raise IntegrityError(
            f"nothing was moved: {plan.seen.doubts[0]}",
            "launcher audit; what cannot be read may name anything",
        )
    done = Collected()
    done.moved_back += [digest for digest in plan.returning if _is_back(ws, digest)]
    for start in range(0, len(plan.moving), _PLAN_BLOBS):
        _move(ws, look, now, plan.moving[start : start + _PLAN_BLOBS], done, said)
    for day in plan.emptying:
        _empty(ws, look, now, day.date, done, said)
    _say_collected(ws, look, now, done)
    done.leavings = leavings.take(ws.store, plan.leavings, plan.policy, now())
    return done


# --- moving -------------------------------------------------------------------------------------------


def _move(
    ws: Workspace,
    look: Look,
    now: Callable[[], float],
    blobs: Sequence[Blob],
    done: Collected,
    said: Said,
) -> None:
    date = datetime.fromtimestamp(now(), UTC).date().isoformat()
    plan = _plan_bytes(date, blobs)
    stored = ws.store.ingest_bytes(plan)
    planned = e.GarbagePlanned(
        plan_digest=stored.digest,
        objects=len(blobs),
        size_bytes=sum(blob.size_bytes for blob in blobs),
    )
    ws.journal.record_storage(planned)
    going = [blob for blob in blobs if not _is_needed(look(now()), blob)]
    for start in range(0, len(going), _BATCH):
        some = going[start : start + _BATCH]
        refused = ws.store.discard([BlobInfo(b.digest, b.size_bytes) for b in some], date)
        done.refused |= refused
        done.moved += [blob for blob in some if blob.digest not in refused]
        said("moved", start + len(some), len(going))
    after = look(now())
    for blob in going:
        if _is_needed(after, blob):
            ws.store.recover(blob.digest)
            done.moved_back.append(blob.digest)


def _plan_bytes(date: str, blobs: Sequence[Blob]) -> bytes:
    rows = [{"digest": b.digest, "size_bytes": b.size_bytes} for b in blobs]
    return canonical_json({"date": date, "blobs": sorted(rows, key=lambda row: str(row["digest"]))})


def _is_needed(seen: Seen, blob: Blob) -> bool:
    return bool(seen.doubts) or blob.digest in seen.digests


# --- emptying -----------------------------------------------------------------------------------------


def _empty(
    ws: Workspace, look: Look, now: Callable[[], float], date: str, done: Collected, said: Said
) -> None:
    """Empty the trash of a date, as it is now; listed first, looked at then."""
    lies = list(blobs_of(ws.store.trashed(date)))
    moment = now()
    seen = look(moment)
    if seen.doubts or moment < due(date, look.policy) or open_then(seen.facts, date):
        return
    going: list[Blob] = []
    for blob in lies:
        if moment - blob.modified < look.policy.trash_seconds:
            continue  # it came later than its date says: a clock was wrong
        if blob.digest in seen.digests:
            if not _is_back(ws, blob.digest):
                continue
            done.moved_back.append(blob.digest)
        going.append(blob)
    for start in range(0, max(len(going), 1), _BATCH):  # once for nothing: its folders may be left
        some = going[start : start + _BATCH]
        refused = ws.store.empty(date, [blob.digest for blob in some])
        done.refused |= refused
        done.emptied += [
            b for b in some if b.digest not in refused and b.digest not in seen.digests
        ]
        said("emptied", start + len(some), len(going))


def _is_back(ws: Workspace, digest: str) -> bool:
    """Whether a blob that is needed is in its place again; damaged bytes stay where they are."""
    try:
        return ws.store.recover(digest) is not None
    except BlobDamagedError:
        return False


def _say_collected(ws: Workspace, look: Look, now: Callable[[], float], done: Collected) -> None:
    """Append the end of every plan of a date that is due and has no trash any more."""
    seen = look(now())
    waiting = [r.data for r in seen.planned if r.data.plan_digest not in seen.collected]
    if not waiting:
        return
    full = set(ws.store.trash_dates())
    there: set[str] | None = None
    for planned in waiting:
        try:
            date, sizes = look.plan(planned.plan_digest)
        except LauncherError:
            continue  # what it named is found missing by the audit, if anything needs it
        if date in full or now() < due(date, look.policy):
            continue
        if there is None:
            there = {blob.digest for blob in _everywhere(ws, full)}
        gone = [size for digest, size in sizes.items() if digest not in there]
        ws.journal.record_storage(
            e.GarbageCollected(
                plan_digest=planned.plan_digest, objects=len(gone), size_bytes=sum(gone)
            )
        )


def _everywhere(ws: Workspace, dates: set[str]) -> Iterator[Blob]:
    yield from blobs_of(ws.store.list("blobs/"))
    for date in sorted(dates):
        yield from blobs_of(ws.store.trashed(date))
