"""Looking at ledger, pointers and store for what is needed. Writes nothing.

Rules:

1. The store is listed before the ledger is read, so whatever is listed and named by then is known to be named.
2. What cannot be read is a doubt, and a doubt keeps everything; of a follower's word, all of its pointer.
3. A ledger that is not the one of this store is refused: it would call another's bytes garbage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from launcher import clock
from launcher.consumers import Served, served
from launcher.errors import IntegrityError, LauncherError
from launcher.retention.reach import (
    Blob,
    Facts,
    Needed,
    PointerFacts,
    Policy,
    RunFacts,
    digests_in,
    manifests_in,
    needed,
)
from launcher.settling import WrongStoreError
from launcher.storage.manifest import Manifest
from launcher.storage.pointer import NoRollbackTargetError, PointerHistory, Pointers
from launcher.storage.port import (
    AccessRefusedError,
    BlobMissingError,
    ObjectInfo,
    ObjectNotFoundError,
)
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState
from ledger.events import Recorded
from ledger.ids import promotion_id
from ledger.projections.runs import fold_runs

__all__ = ["ForeignLedgerError", "Look", "Seen", "blobs_of"]

_THREADS: Final = 8
_SHOWN: Final = 3
#: A manifest or a plan of half a million files.
_DOCUMENT_BYTES: Final = 256 * 1024 * 1024

T = TypeVar("T")
R = TypeVar("R")


class ForeignLedgerError(IntegrityError):
    """The store holds what this ledger does not know: another ledger's, or this one is an old copy."""

    def __init__(self, store: str, ledger: str, what: str) -> None:
        super().__init__(
            f"{store} holds {what} that {ledger} does not know",
            "gc needs the ledger of all that is stored there; nothing was moved",
        )
        self.what = what


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. ``needed`` is whole: what kept manifests list is in it. ``states`` are the runs, by id."""

    facts: Facts
    needed: Needed
    digests: frozenset[str]
    states: dict[str, RunState]
    planned: tuple[Recorded[e.GarbagePlanned], ...]
    collected: frozenset[str]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What could not be read; any of it keeps everything."""
        return self.needed.doubts


@dataclass
class Look:
    """Looks at one workspace, again and again; what never changes is read once."""

    ws: Workspace
    policy: Policy
    _manifests: dict[str, frozenset[str]] = field(default_factory=dict)
    _plans: dict[str, dict[str, int]] = field(default_factory=dict)

    def __call__(self, now: float) -> Seen:
        """What is needed at ``now``. Raises ForeignLedgerError, WrongStoreError, UnavailableError."""
        objects = list(self.ws.store.list("runs/"))
        pointers, doubts = Pointers(self.ws.store), list[str]()  # read anew: they say what is live
        histories = {n: self._history(pointers, n, doubts) for n in pointers.names()}
        followed = self._followed(now)
        records = list(self.ws.ledger.read_all())
        states = fold_runs(records)
        self._refuse_foreign(states, objects)
        for name in self.ws.journal.pointer_names():
            if name not in histories:
                histories[name] = self._history(pointers, name, doubts)
        of_pointers = [
            self._pointer(pointers, n, h, doubts, followed) for n, h in sorted(histories.items())
        ]
        planned = tuple(r for r in records if isinstance(r.data, e.GarbagePlanned))
        collected = frozenset(
            r.data.plan_digest for r in records if isinstance(r.data, e.GarbageCollected)
        )
        facts = Facts(
            runs=self._runs(states, records),
            pointers=[found for found in of_pointers if found is not None],
            plans=frozenset(r.data.plan_digest for r in planned),
            doubts=tuple(doubts),
            served=frozenset().union(*(one.digests for one in (followed or {}).values())),
        )
        return self._whole(
            facts, needed(facts, self.policy, now), states, objects, planned, collected
        )

    def manifest(self, digest: str) -> frozenset[str]:
        """The digests that a manifest lists. Raises IntegrityError, UnavailableError."""
        if digest not in self._manifests:
            try:
                found = Manifest.from_bytes(self.ws.store.read_blob(digest, _DOCUMENT_BYTES))
            except ValueError as exc:
                raise IntegrityError(f"blob {digest} is {exc}") from exc
            self._manifests[digest] = frozenset(entry.digest for entry in found.entries)
        return self._manifests[digest]

    def plan(self, digest: str) -> tuple[str, dict[str, int]]:
        """A plan's date, and the size of each blob that it names. Raises IntegrityError, UnavailableError."""
        try:
            raw = json.loads(self.ws.store.read_blob(digest, _DOCUMENT_BYTES))
            return str(raw["date"]), {b["digest"]: int(b["size_bytes"]) for b in raw["blobs"]}
        except (ValueError, KeyError, TypeError) as exc:
            raise IntegrityError(f"blob {digest} is no plan of a collection: {exc}") from exc

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work`` done to each, several at once."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(work, items))

    # --- the ledger's side ---

    def _runs(
        self, states: dict[str, RunState], records: Iterable[Recorded[Any]]
    ) -> dict[str, RunFacts]:
        named: dict[str, set[str]] = {run_id: set() for run_id in states}
        manifests: dict[str, set[str]] = {run_id: set() for run_id in states}
        builds_on: dict[str, set[str]] = {run_id: set() for run_id in states}
        retired: dict[str, float] = {}
        for record in records:
            if isinstance(record.data, e.RunFolderRetired):
                retired[record.data.run_id] = _epoch(record.time) or 0.0
            run_id = record.stream.removeprefix("run/")
            if not record.stream.startswith("run/") or run_id not in states:
                continue
            data = record.data
            named[run_id] |= digests_in(data.model_dump_json())
            if isinstance(data, e.StageSucceeded | e.StageReused):
                manifests[run_id].add(data.manifest_digest)
            if isinstance(data, e.StageReused):
                builds_on[run_id].add(data.of_run)
        return {
            run_id: RunFacts(
                run_id=run_id,
                status=state.status,
                requested_at=_epoch(state.requested_at) or 0.0,
                ended_at=_later(_epoch(state.ended_at), retired.get(run_id)),
                names=frozenset(named[run_id]),
                manifests=frozenset(manifests[run_id]),
                builds_on=frozenset(builds_on[run_id]),
                undecided=self._undecided(state),
            )
            for run_id, state in states.items()
        }

    def _undecided(self, state: RunState) -> bool:
        plan = state.request.promotion if state.request else None
        if plan is None or state.status != "succeeded":
            return False
        decision = promotion_id(state.run_id, plan.target)
        return self.ws.journal.pointer(plan.target).outcome(decision) in (None, "open")

    def _history(self, pointers: Pointers, name: str, doubts: list[str]) -> PointerHistory | None:
        try:
            return pointers.history(name)
        except IntegrityError as exc:
            doubts.append(exc.message)
            return None

    def _followed(self, now: float) -> dict[str, Served] | None:
        """What followers are on, by pointer; None where that cannot be seen."""
        try:
            return served(self.ws.store, now)
        except AccessRefusedError:
            return None

    def _pointer(
        self,
        pointers: Pointers,
        name: str,
        history: PointerHistory | None,
        doubts: list[str],
        followed: Mapping[str, Served] | None,
    ) -> PointerFacts | None:
        account = self.ws.journal.pointer(name)
        if history is not None and history.latest < account.latest:
            history = self._history(pointers, name, doubts)  # it went on since it was read
        if history is None:
            return None
        if history.latest < account.latest:
            raise WrongStoreError(name, self.ws.store.where, account.latest, history.latest)
        intents = tuple(intent.generation for intent in account.open.values())
        mine = (followed or {}).get(name, Served())
        return PointerFacts(
            name,
            tuple(history.generations),
            intents,
            _fallback(history),
            served=mine.digests,
            any_served=followed is None or bool(mine.doubts),
        )

    def _refuse_foreign(self, states: dict[str, RunState], objects: Iterable[ObjectInfo]) -> None:
        ledger = self.ws.ledger.where
        there = {key.split("/")[1] for o in objects if (key := o.key).count("/") >= 2}
        odd = sorted(there - states.keys())
        if odd:
            more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
            what = f"runs ({', '.join(odd[:_SHOWN])}{more})"
            raise ForeignLedgerError(self.ws.store.where, ledger, what)
        if self.ws.settings.ledger == "sqlite" and next(self.ws.store.list("ledger/log/"), None):
            raise ForeignLedgerError(self.ws.store.where, ledger, "a ledger of its own")
        if not states and next(self.ws.store.list("blobs/"), None):
            raise ForeignLedgerError(self.ws.store.where, ledger, "blobs of runs")

    # --- the store's side ---

    def _whole(
        self,
        facts: Facts,
        found: Needed,
        states: dict[str, RunState],
        objects: Iterable[ObjectInfo],
        planned: tuple[Recorded[e.GarbagePlanned], ...],
        collected: frozenset[str],
    ) -> Seen:
        """Add what the small objects of kept runs name, and what manifests list."""
        kept = [o.key for o in objects if self._may_name(o.key, found, facts)]
        texts = self.each(self._text, kept)
        doubts = list(found.doubts)
        digests, manifests = set(found.digests), set(found.manifests)
        for text, doubt in texts:
            digests |= digests_in(text)
            manifests |= manifests_in(text)
            doubts += [doubt] if doubt else []
        was_collected = partial(self._was_collected, [r.data.plan_digest for r in planned])
        for listed, doubt in self.each(partial(self._listed, was_collected), sorted(manifests)):
            digests |= listed
            doubts += [doubt] if doubt else []
        digests |= manifests
        whole = Needed(found.runs, frozenset(digests), frozenset(manifests), tuple(doubts))
        return Seen(facts, whole, whole.digests, states, planned, collected)

    def _may_name(self, key: str, found: Needed, facts: Facts) -> bool:
        """Whether a run's object may name what the ledger does not: its end is in the ledger once it is closed."""
        _, run_id, *rest = key.split("/")
        if run_id not in found.runs:
            return False
        run = facts.runs[run_id]
        # Of a stage that failed, what it left is named by its result alone.
        is_open = run.ended_at is None or run.status in ("failed", "cancelled")
        return is_open or rest[-1:] not in (["result.json"], ["start.json"])

    def _text(self, key: str) -> tuple[str, str | None]:
        try:
            return self.ws.store.read(key).decode("utf-8", "replace"), None
        except ObjectNotFoundError:
            return "", None
        except IntegrityError as exc:
            return "", exc.message

    def _listed(
        self, was_collected: Callable[[str], bool], digest: str
    ) -> tuple[frozenset[str], str | None]:
        try:
            return self.manifest(digest), None
        except BlobMissingError as exc:
            return frozenset(), None if was_collected(digest) else exc.message
        except IntegrityError as exc:
            return frozenset(), exc.message

    def _was_collected(self, plans: Iterable[str], digest: str) -> bool:
        """Whether an earlier collection took it: then what it listed went with it, or is named elsewhere."""
        for plan in plans:
            if plan not in self._plans:
                try:
                    self._plans[plan] = self.plan(plan)[1]
                except LauncherError:
                    self._plans[plan] = {}
            if digest in self._plans[plan]:
                return True
        return False


def blobs_of(objects: Iterable[ObjectInfo]) -> Iterator[Blob]:
    """Blobs, from a listing of ``blobs/`` or of a trash."""
    for info in objects:
        hexadecimal = info.key.rpartition("/")[2]
        if len(digests_in(f"sha256:{hexadecimal}")) == 1:
            yield Blob(f"sha256:{hexadecimal}", info.size_bytes, info.modified)


def _fallback(history: PointerHistory) -> int | None:
    try:
        return history.rollback_target(None).generation
    except NoRollbackTargetError:
        return None


def _later(ended: float | None, retired: float | None) -> float | None:
    """A run whose folder went because the store has all of it is young again."""
    return ended if ended is None or retired is None else max(ended, retired)


def _epoch(time: str | None) -> float | None:
    return clock.parse_time(time).timestamp() if time else None
