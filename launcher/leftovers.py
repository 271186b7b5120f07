"""What was left half done or wants a person: open runs, half-made promotions, holds, forgotten files. Reads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from launcher import clock
from launcher.agent.protocol import AttemptPaths, is_alive, machine_id
from launcher.errors import IntegrityError
from launcher.reconcile import needs_observation
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectNotFoundError
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.projections.runs import fold_runs
from ledger.projections.storage_alert import human_bytes

__all__ = ["leftovers", "stale_temporaries"]

#: A launcher that is at work says something within this time of a stage's end.
_QUIET_SECONDS: Final = 60.0
#: A writer that is still at it after this long is a very slow one.
_STALE_SECONDS: Final = 24 * 3600.0

#: (name, what, what to do)
Left = tuple[str, str, str]


def leftovers(ws: Workspace) -> Iterator[Left]:
    """Everything that was left, each with what to do about it."""
    now = clock.parse_time(clock.now())
    for state in fold_runs(ws.ledger.read_all()).values():
        if state.status == "open" and (what := _open_run(ws, state, now)):
            yield "open run", f"{state.run_id}: {what}", f"launcher resume {state.run_id}"
    for name in ws.journal.pointer_names():
        for intent in ws.journal.pointer(name).open.values():
            what = f"{name}: a promotion to g{intent.generation.generation} is half done"
            yield "promotion", what, "the next writing command settles it"
    for name in ws.promoter.pointers.names():
        try:
            holder = ws.promoter.held_by(name)
        except IntegrityError as exc:
            yield "pointer", exc.message, "launcher audit"
            continue
        if holder is not None:
            what = f"{name}: automatic promotions are refused since g{holder.generation} by {holder.actor}"
            yield "held", what, f"when fixed: launcher release {name}"
    yield from _forgotten(ws, now)


def _open_run(ws: Workspace, state: RunState, now: datetime) -> str | None:
    """Why nobody is likely to finish this run; None where somebody seems to be at it."""
    stage = needs_observation(state)
    if stage is None:
        return "no stage of it is running" if _is_quiet(ws, state, now) else None
    paths = AttemptPaths(ws.home, state.run_id, stage.plan.name, stage.attempt)
    what = f"{stage.plan.name} attempt {stage.attempt}"
    if ws.store.exists(paths.key("result.json")):
        return f"{what} has ended, and nobody recorded it" if _is_quiet(ws, state, now) else None
    try:
        record = json.loads(ws.store.read(paths.key("start.json")))
    except ObjectNotFoundError:
        return f"{what} never started" if _is_quiet(ws, state, now) else None
    if not isinstance(record, dict) or "machine_id" not in record:
        return f"{what} has an unreadable start record"
    if record["machine_id"] != machine_id():
        return f"{what} was started on machine {record['machine_id']}: look there"
    return None if is_alive(record) else f"the supervisor of {what} is gone"


def _is_quiet(ws: Workspace, state: RunState, now: datetime) -> bool:
    [last] = ws.ledger.read_stream(state.stream, state.version - 1)
    return (now - clock.parse_time(last.time)).total_seconds() > _QUIET_SECONDS


def _forgotten(ws: Workspace, now: datetime) -> Iterator[Left]:
    if isinstance(ws.store, FilesystemStore):
        count, size = stale_temporaries(ws.store, now.timestamp())
        if count:
            what = f"{count} hidden files of killed writers, {human_bytes(size)}"
            find = f"find {ws.store.where!r} -name '.tmp-*' -mmin +1440 -delete"
            yield "temporaries", what, find


def stale_temporaries(store: FilesystemStore, now: float) -> tuple[int, int]:
    """(how many, their bytes) hidden files have lain for a day or longer."""
    stale = [o.size_bytes for o in store.stale_temporaries() if now - o.modified > _STALE_SECONDS]
    return len(stale), sum(stale)
