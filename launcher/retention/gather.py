"""What ledger and pointers say of runs and generations, as of one moment. Writes nothing.

Rules:

1. The store is listed before the ledger is read, so whatever is listed and named by then is known to be named.
2. What cannot be read is a doubt, and a doubt keeps everything; of a follower's word, all of its pointer.
3. A ledger that is not the one of this store is refused: it would call another's bytes garbage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from launcher import clock
from launcher.consumers import Served, served
from launcher.errors import IntegrityError
from launcher.retention.reach import Facts, PointerFacts, RunFacts, digests_in
from launcher.settling import WrongStoreError
from launcher.storage.pointer import NoRollbackTargetError, PointerHistory, Pointers
from launcher.storage.port import AccessRefusedError, ObjectInfo
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState
from ledger.events import Recorded
from ledger.ids import promotion_id
from ledger.projections.runs import fold_runs

__all__ = ["ForeignLedgerError", "Gathered", "gather"]

_SHOWN: Final = 3


class ForeignLedgerError(IntegrityError):
    """The store holds what this ledger does not know: another ledger's, or this one is an old copy."""

    def __init__(self, store: str, ledger: str, what: str) -> None:
        super().__init__(
            f"{store} holds {what} that {ledger} does not know",
            "gc needs the ledger of all that is stored there; nothing was moved",
        )
        self.what = what


@dataclass(frozen=True, slots=True)
class Gathered:
    """``facts`` for the rules; ``states`` are the runs, by id; ``objects`` what lies under ``runs/``."""

    facts: Facts
    states: dict[str, RunState]
    objects: tuple[ObjectInfo, ...]
    planned: tuple[Recorded[e.GarbagePlanned], ...]
    collected: frozenset[str]


def gather(ws: Workspace, now: float) -> Gathered:
    """All of it. Raises ForeignLedgerError, WrongStoreError, UnavailableError."""
    objects = tuple(ws.store.list("runs/"))
    pointers, doubts = Pointers(ws.store), list[str]()  # read anew: they say what is live
    histories = {n: _history(pointers, n, doubts) for n in pointers.names()}
    followed = _followed(ws, now)
    records = list(ws.ledger.read_all())
    states = fold_runs(records)
    _refuse_foreign(ws, states, objects)
    for name in ws.journal.pointer_names():
        if name not in histories:
            histories[name] = _history(pointers, name, doubts)
    of_pointers = [
        _pointer(ws, pointers, n, h, doubts, followed) for n, h in sorted(histories.items())
    ]
    planned = tuple(r for r in records if isinstance(r.data, e.GarbagePlanned))
    facts = Facts(
        runs=_runs(ws, states, records),
        pointers=[found for found in of_pointers if found is not None],
        plans=frozenset(r.data.plan_digest for r in planned),
        doubts=tuple(doubts),
        served=frozenset().union(*(one.digests for one in (followed or {}).values())),
    )
    collected = frozenset(
        r.data.plan_digest for r in records if isinstance(r.data, e.GarbageCollected)
    )
    return Gathered(facts, states, objects, planned, collected)


def _runs(
    ws: Workspace, states: dict[str, RunState], records: Iterable[Recorded[Any]]
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
            undecided=_undecided(ws, state),
        )
        for run_id, state in states.items()
    }


def _undecided(ws: Workspace, state: RunState) -> bool:
    plan = state.request.promotion if state.request else None
    if plan is None or state.status != "succeeded":
        return False
    decision = promotion_id(state.run_id, plan.target)
    return ws.journal.pointer(plan.target).outcome(decision) in (None, "open")


def _history(pointers: Pointers, name: str, doubts: list[str]) -> PointerHistory | None:
    try:
        return pointers.history(name)
    except IntegrityError as exc:
        doubts.append(exc.message)
        return None


def _followed(ws: Workspace, now: float) -> dict[str, Served] | None:
    """What followers are on, by pointer; None where that cannot be seen."""
    try:
        return served(ws.store, now)
    except AccessRefusedError:
        return None


def _pointer(
    ws: Workspace,
    pointers: Pointers,
    name: str,
    history: PointerHistory | None,
    doubts: list[str],
    followed: Mapping[str, Served] | None,
) -> PointerFacts | None:
    account = ws.journal.pointer(name)
    if history is not None and history.latest < account.latest:
        history = _history(pointers, name, doubts)  # it went on since it was read
    if history is None:
        return None
    if history.latest < account.latest:
        raise WrongStoreError(name, ws.store.where, account.latest, history.latest)
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


def _refuse_foreign(
    ws: Workspace, states: dict[str, RunState], objects: Iterable[ObjectInfo]
) -> None:
    ledger = ws.ledger.where
    there = {key.split("/")[1] for o in objects if (key := o.key).count("/") >= 2}
    odd = sorted(there - states.keys())
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        what = f"runs ({', '.join(odd[:_SHOWN])}{more})"
        raise ForeignLedgerError(ws.store.where, ledger, what)
    if ws.settings.ledger == "sqlite" and next(ws.store.list("ledger/log/"), None):
        raise ForeignLedgerError(ws.store.where, ledger, "a ledger of its own")
    if not states and next(ws.store.list("blobs/"), None):
        raise ForeignLedgerError(ws.store.where, ledger, "blobs of runs")


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
