"""What was left half done or wants a person: open runs, half-made promotions, holds, forgotten files. Reads only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from typing import Final

from launcher import clock
from launcher.agent.protocol import AttemptPaths, is_alive, machine_id
from launcher.audit.report import counted
from launcher.errors import IntegrityError
from launcher.reconcile import needs_observation
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectNotFoundError
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.projections.runs import fold_runs
from ledger.projections.storage_alert import human_bytes

__all__ = ["leftovers", "stale_temporaries"]

#: A writer that is still at it after this long is a very slow one.
_STALE_SECONDS: Final = 24 * 3600.0

#: (name, what, what to do)
Left = tuple[str, str, str]


def leftovers(ws: Workspace, is_driven: Callable[[str], bool]) -> Iterator[Left]:
    """Everything that was left, each with what to do about it.

    ``is_driven``: whether a launcher is at work on a run of that id.
    """
    for state in fold_runs(ws.ledger.read_all()).values():
        # What another machine's launchers do cannot be seen from here.
        here = state.status == "open" and ws.documents.folders.is_here(state)
        if here and not is_driven(state.run_id):
            what = _open_run(ws, state)
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
    yield from _forgotten(ws)


def _open_run(ws: Workspace, state: RunState) -> str:
    """How far a run is that no launcher is at work on."""
    stage = needs_observation(state)
    if stage is None:
        return "no launcher is at work on it"
    paths = AttemptPaths(ws.home, state.run_id, stage.plan.name, stage.attempt)
    what = f"{stage.plan.name} attempt {stage.attempt}"
    if ws.store.exists(paths.key("result.json")):
        return f"{what} has ended, and no launcher recorded it"
    try:
        record = json.loads(ws.store.read(paths.key("start.json")))
    except ObjectNotFoundError:
        return f"{what} was never started"
    except ValueError:
        record = None
    if not isinstance(record, dict) or "machine_id" not in record:
        return f"{what} has an unreadable start record"
    if record["machine_id"] != machine_id():
        return f"{what} was started on machine {record['machine_id']}: look there"
    if is_alive(record):
        return f"{what} is running, and no launcher waits for it"
    return f"the supervisor of {what} is gone"


def _forgotten(ws: Workspace) -> Iterator[Left]:
    if isinstance(ws.store, FilesystemStore):
        now = clock.parse_time(clock.now()).timestamp()
        count, size = stale_temporaries(ws.store, now)
        if count:
            what = f"{counted(count, 'hidden file')} of killed writers, {human_bytes(size)}"
            find = f"find {shlex.quote(ws.store.where)} -name '.tmp-*' -type f -mmin +1440 -delete"
            yield "temporaries", what, find


def stale_temporaries(store: FilesystemStore, now: float) -> tuple[int, int]:
    """(how many, their bytes) hidden files have lain for a day or longer."""
    stale = [o.size_bytes for o in store.stale_temporaries() if now - o.modified > _STALE_SECONDS]
    return len(stale), sum(stale)
