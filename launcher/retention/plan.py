"""What a collection would do, and what it would leave: one look, put in order. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.errors import LauncherError
from launcher.retention import leavings
from launcher.retention.leavings import Leavings
from launcher.retention.look import Look, Seen, blobs_of
from launcher.retention.reach import Blob, Policy, due, obsolete, open_then
from launcher.usage import store_classes
from launcher.workspace import Workspace

__all__ = ["Plan", "RunShare", "TrashDay", "make_plan"]


@dataclass(frozen=True, slots=True)
class RunShare:
    """What of a run may go; a blob that several such runs have counts for each."""

    run_id: str
    ended_at: str | None
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TrashDay:
    """The trash of a date: ``due`` is when it may be emptied (epoch seconds), ``waits_for`` the runs it waits for.

    ``needed`` are those of its blobs that something needs again and that are not in their place: they are moved back.
    """

    date: str
    blobs: tuple[Blob, ...]
    needed: frozenset[str]
    due: float
    waits_for: tuple[str, ...]
    is_due: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``blobs`` is everything in its place, ``moving`` what may go to the trash; nothing where there are doubts."""

    policy: Policy
    seen: Seen
    blobs: tuple[Blob, ...]
    moving: tuple[Blob, ...]
    trash: tuple[TrashDay, ...]
    leavings: Leavings
    notes: tuple[str, ...] = ()
    shares: tuple[RunShare, ...] = field(default=())

    @property
    def moving_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.moving)

    @property
    def emptying(self) -> tuple[TrashDay, ...]:
        """The dates whose trash may be emptied now."""
        return tuple(day for day in self.trash if day.is_due)

    @property
    def is_nothing(self) -> bool:
        return not (self.moving or self.emptying or self.returning or len(self.leavings))

    @property
    def returning(self) -> list[str]:
        """What lies in the trash and is needed again, ascending; nothing where there are doubts."""
        wanted = frozenset[str]().union(*(day.needed for day in self.trash))
        return [] if self.seen.doubts else sorted(wanted)

    def classes(self) -> Mapping[str, tuple[int, int]]:
        """(kept bytes, moving bytes) by class."""
        gone = {blob.digest for blob in self.moving}
        kept = {b.digest: b.size_bytes for b in self.blobs if b.digest not in gone}
        going = {b.digest: b.size_bytes for b in self.moving}
        states = self.seen.states
        before, after = store_classes(states, kept), store_classes(states, going)
        return {name: (before[name], after[name]) for name in before}


def make_plan(ws: Workspace, look: Look, now: float, *, shares: bool = False) -> Plan:
    """The plan of a collection at ``now``. ``shares``: work out what goes by run, for a person.

    Raises ForeignLedgerError, WrongStoreError, UnavailableError.
    """
    policy = look.policy
    blobs = tuple(blobs_of(ws.store.list("blobs/")))
    days = {date: tuple(blobs_of(ws.store.trashed(date))) for date in ws.store.trash_dates()}
    seen = look(now)
    moving = [] if seen.doubts else obsolete(blobs, seen.digests, policy, now)
    gone = seen.digests - {blob.digest for blob in blobs}
    trash = tuple(_day(date, lies, gone, seen, policy, now) for date, lies in days.items())
    left = leavings.find(ws.store, ws.locks, seen.facts, policy, now)
    return Plan(
        policy,
        seen,
        blobs,
        tuple(moving),
        trash,
        left,
        notes=_notes(ws, left),
        shares=tuple(_shares(look, seen, moving)) if shares else (),
    )


def _day(
    date: str,
    blobs: Sequence[Blob],
    gone: frozenset[str],
    seen: Seen,
    policy: Policy,
    now: float,
) -> TrashDay:
    """``gone``: what is needed and not in its place."""
    moment, waits = due(date, policy), tuple(open_then(seen.facts, date))
    return TrashDay(
        date,
        tuple(blobs),
        frozenset(b.digest for b in blobs if b.digest in gone),
        moment,
        waits,
        is_due=now >= moment and not waits and not seen.doubts,
    )


def _notes(ws: Workspace, left: Leavings) -> tuple[str, ...]:
    notes = [left.note] if left.note else []
    if getattr(ws.store, "keeps_versions", lambda: False)():
        notes.append(
            f"{ws.store.where} keeps versions: what is deleted there stays as an older version "
            "until a lifecycle rule of the bucket ends it"
        )
    return tuple(notes)


def _shares(look: Look, seen: Seen, moving: Iterable[Blob]) -> list[RunShare]:
    """By run, largest first; what cannot be read any more counts for nobody."""
    sizes = {blob.digest: blob.size_bytes for blob in moving}
    found = []
    for run_id, facts in seen.facts.runs.items():
        if run_id in seen.needed.runs or not sizes:
            continue
        names = set(facts.names)
        for listed in look.each(lambda m: _listed(look, m), facts.manifests):
            names |= listed
        mine = [sizes[digest] for digest in names if digest in sizes]
        if mine:
            ended = seen.states[run_id].ended_at
            found.append(RunShare(run_id, ended, len(mine), sum(mine)))
    return sorted(found, key=lambda share: (-share.size_bytes, share.run_id))


def _listed(look: Look, manifest: str) -> frozenset[str]:
    try:
        return look.manifest(manifest)
    except LauncherError:
        return frozenset()
