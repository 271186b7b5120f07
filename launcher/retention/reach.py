"""What is still needed, as a function of the ledger's states, the pointers, a moment and a grace. Pure.

Kept is:

1. what a pointer names live, what open intents name, every generation that is kept for a rollback (all of
   them, or the newest so many; what a rollback without a wish would go to is always among them), and what a
   follower that was heard of is on: every generation of its bytes;
2. everything of a run that is open, that ended less than the grace ago, whose promotion is not decided, that
   brought a checkpoint of 1, or whose stages a kept run reused: config, code, inputs, teachers, manifests and
   what they list, logs, tags, every checkpoint, what a closed attempt saved;
3. the plans of earlier collections;
4. what was stored less than the grace ago, whoever it is for: somebody may be about to name it.

All that is named is kept, in whatever field it stands: a digest in an event of a kept run is a name. What could
not be read names everything (``Facts.doubts``): then nothing may go. A follower whose word cannot be read may be
on any generation of its pointer: then all of them are kept.

The trash of a date may be emptied once the grace is over since the end of that day, and at least a day, and no
run is open that was open then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from ledger.events import Generation
from ledger.run_state import RunStatus

__all__ = [
    "DAY_SECONDS",
    "Blob",
    "Facts",
    "Needed",
    "PointerFacts",
    "Policy",
    "RunFacts",
    "digests_in",
    "due",
    "kept_generations",
    "manifests_in",
    "needed",
    "obsolete",
    "open_then",
]

DAY_SECONDS: Final = 86400.0
#: By so much the clocks of two machines of one project may differ without harm.
_SKEW_SECONDS: Final = 3600.0
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}(?![0-9a-f])")
_MANIFEST: Final = re.compile(r'"manifest_digest"\s*:\s*"(sha256:[0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class Policy:
    """``grace_seconds`` at least 0; ``keep_generations`` of each pointer, None for all."""

    grace_seconds: float
    keep_generations: int | None = None

    @property
    def trash_seconds(self) -> float:
        """How long the trash of a date lies there after that day: a day at least, whatever the grace."""
        return max(self.grace_seconds, DAY_SECONDS)


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob; ``modified`` is epoch seconds, by the store's clock."""

    digest: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the ledger says of a run. Times are epoch seconds; ``names`` every digest in its events.

    ``ended_at`` is when its folder was retired, where that was later. ``manifests`` of its stages; ``builds_on``
    are runs whose stages it reused; ``undecided``: it succeeded and its promotion is neither made nor refused.
    """

    run_id: str
    status: RunStatus
    requested_at: float
    ended_at: float | None
    names: frozenset[str] = frozenset()
    manifests: frozenset[str] = frozenset()
    builds_on: frozenset[str] = frozenset()
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class PointerFacts:
    """Generations ascending from 1; ``fallback`` is the one that a rollback without a wish would go to now.

    ``served``: digests that followers are on; ``any_served``: one of them may be on anything.
    """

    name: str
    generations: tuple[Generation, ...]
    intents: tuple[Generation, ...] = ()
    fallback: int | None = None
    served: frozenset[str] = frozenset()
    any_served: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is asked. ``plans``: digests that earlier collections are recorded under.

    ``served``: what followers are on, of whatever pointer.
    """

    runs: Mapping[str, RunFacts]
    pointers: Sequence[PointerFacts]
    plans: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()
    served: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Needed:
    """``runs``: those kept, each with the reason. ``manifests`` are among ``digests``; what they list is not yet."""

    runs: Mapping[str, str]
    digests: frozenset[str]
    manifests: frozenset[str]
    doubts: tuple[str, ...] = field(default=())


def needed(facts: Facts, policy: Policy, now: float) -> Needed:
    """What is to be kept, and why. ``now`` is epoch seconds."""
    why: dict[str, str] = {}
    digests = set(facts.plans | facts.served)
    doubts = list(facts.doubts)

    def keep(run_id: str, reason: str) -> None:
        if run_id not in facts.runs:
            doubts.append(f"{reason} is of run {run_id}, which the ledger does not know")
        elif run_id not in why:
            why[run_id] = reason
            for other in facts.runs[run_id].builds_on:
                keep(other, f"run {run_id} reused its stages")

    for run in facts.runs.values():
        reason = _own_reason(run, policy, now)
        if reason:
            keep(run.run_id, reason)
    for pointer in facts.pointers:
        for body in (*kept_generations(pointer, policy.keep_generations), *pointer.intents):
            if body.digest is not None:
                digests.add(body.digest)
            if body.run_id is not None:
                keep(body.run_id, f"g{body.generation} of {pointer.name}")
    manifests = {m for run_id in why for m in facts.runs[run_id].manifests}
    for run_id in why:
        digests |= facts.runs[run_id].names
    return Needed(why, frozenset(digests | manifests), frozenset(manifests), tuple(doubts))


def _own_reason(run: RunFacts, policy: Policy, now: float) -> str | None:
    if run.status not in ("succeeded", "failed", "cancelled") or run.ended_at is None:
        return "it is open"
    if now - run.ended_at < policy.grace_seconds:
        return "it ended a short while ago"
    return "its promotion is not decided" if run.undecided else None


def kept_generations(pointer: PointerFacts, keep: int | None) -> list[Generation]:
    """The generations that a rollback can name or a follower is on, ascending; the live one always, fences for what
    they carry."""
    bodies = pointer.generations
    if keep is None or pointer.any_served or not bodies:
        return list(bodies)
    real = [body.generation for body in bodies if body.kind != "fence"]
    wanted = {bodies[-1].generation, *real[-keep:]}
    if pointer.fallback is not None:
        wanted.add(pointer.fallback)
    return [b for b in bodies if b.generation in wanted or b.digest in pointer.served]


def obsolete(
    blobs: Iterable[Blob], needed_digests: frozenset[str] | set[str], policy: Policy, now: float
) -> list[Blob]:
    """The blobs that may go to the trash."""
    return [
        blob
        for blob in blobs
        if blob.digest not in needed_digests and now - blob.modified >= policy.grace_seconds
    ]


def due(date: str, policy: Policy) -> float:
    """From when on the trash of ``date`` (``YYYY-MM-DD``) may be emptied, epoch seconds."""
    return _end_of(date) + policy.trash_seconds


def open_then(facts: Facts, date: str) -> list[str]:
    """The runs that are open and were at ``date``: what they skipped storing may lie in its trash."""
    end = _end_of(date) + _SKEW_SECONDS
    return [
        run.run_id
        for run in facts.runs.values()
        if run.ended_at is None and run.requested_at <= end
    ]


def _end_of(date: str) -> float:
    begin = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    return (begin + timedelta(days=1)).timestamp()


def digests_in(text: str) -> frozenset[str]:
    """Every digest that stands in a text."""
    return frozenset(_DIGEST.findall(text))


def manifests_in(text: str) -> frozenset[str]:
    """Every digest that a JSON text calls a manifest's."""
    return frozenset(_MANIFEST.findall(text))
