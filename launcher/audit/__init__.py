"""Is everything still what was written? Ledger, documents, results, blobs, pointers, target files.

Rules:

1. Nothing is ever written, anywhere: no document, lock, note or repair.
2. Each check reports all that it finds; one that needs what an earlier one found broken says that it was not
   made. What cannot be read is a problem of that thing, and the rest is looked at all the same.
3. What another process may be changing just now is looked at again before it is called wrong.

What the ledger's bytes alone show is ``ledger.audit``; here is what needs the store and the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from launcher import clock
from launcher.agent.saved import saved_of
from launcher.audit.report import Check, Report, Scene, counted, reported, settled
from launcher.audit.results import result_problem
from launcher.audit.store import check_blobs, check_pointers, check_targets
from launcher.documents import Difference, Documents
from launcher.errors import LauncherError
from launcher.journal import Journal
from ledger import events as e
from ledger.audit import LedgerAudit, Problem
from ledger.errors import LedgerDamagedError, LedgerUnavailableError
from ledger.events import Recorded
from ledger.stores.port import EventStore, TreeHead

__all__ = ["Check", "Report", "Scene", "audit", "standing_differences"]

_DIFFERENCE: Final = {"missing": "it is missing", "differs": "it differs from the ledger"}


def audit(scene: Scene, *, quick: bool = False, elsewhere: Sequence[TreeHead] = ()) -> Report:
    """Check everything. ``quick``: blobs by presence and size only. ``elsewhere``: heads kept by the auditor."""
    seen, ledger_checks = _ledger(scene, elsewhere)
    pointers, histories = check_pointers(scene, seen.ledger, whole=seen.whole)
    checks = [
        *ledger_checks,
        _documents(scene, seen),
        _results(scene, seen),
        check_blobs(scene, seen.ledger, histories, quick=quick),
        pointers,
        check_targets(scene, histories),
    ]
    return Report(tuple(checks), seen.ledger.head if seen.whole else None)


# --- the ledger ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """The pass over the ledger; ``whole`` where it could be read to its end."""

    ledger: LedgerAudit
    whole: bool


def _where(scene: Scene) -> str:
    if scene.ledger is not None:
        return scene.ledger.where
    return scene.store.where if scene.shared else str(scene.home / "ledger.db")


def _ledger(scene: Scene, elsewhere: Sequence[TreeHead]) -> tuple[_Seen, list[Check]]:
    found = LedgerAudit(_where(scene))
    unreadable = scene.why
    if scene.ledger is not None:
        try:
            _read(scene.ledger, found, elsewhere)
        except (LedgerDamagedError, LedgerUnavailableError) as exc:
            unreadable = f"unreadable from position {found.size} on: {exc.detail}"
        except LauncherError as exc:
            unreadable = f"unreadable from position {found.size} on: {exc.message}"
    names = {
        "bytes": f"{counted(found.size, 'event')}, canonical and whole",
        "order": f"{counted(len(found.streams), 'stream')}, no gap, nothing said twice",
        "ids": "each is that of its fact",
        "history": f"{counted(len(found.runs), 'run')} and {counted(len(found.pointers), 'pointer')}, legal moves only",
        "heads": "the root over all events is that of every head that was kept",
    }
    checks = [Check(name, looked_at) for name, looked_at in names.items()]
    for check in checks:
        check.problems = [p for p in found.problems if p.check == check.name]
    if unreadable:
        at = found.size if scene.ledger is not None else None
        checks[0].problems.append(Problem("bytes", found.where, unreadable, at))
        checks[-1].skipped = "the ledger cannot be read to its end"
    if found.newer:
        checks[0].notes.append(
            f"{found.newer} events are of a newer version and were not understood"
        )
    return _Seen(found, not unreadable), checks


def _read(ledger: EventStore, found: LedgerAudit, elsewhere: Sequence[TreeHead]) -> None:
    """Feed every event, then the heads; what others append meanwhile comes with its head, or not at all."""
    while True:
        for stored in ledger.read_raw(found.size):
            found.add(stored)
        heads = ledger.kept_heads()
        if found.problems or not heads or heads[-1].size <= found.size:
            break
        if next(iter(ledger.read_raw(found.size)), None) is None:
            break
    found.finish(
        heads,
        streams=ledger.streams(),
        newer=ledger.newer_schema(),
        elsewhere=elsewhere,
    )


# --- documents ----------------------------------------------------------------------------------------


class _OnceRead:
    """The ledger as the audit read it: what documents ask of it again and again is answered from memory."""

    def __init__(self, ledger: EventStore, seen: LedgerAudit) -> None:
        self._ledger, self._seen = ledger, seen
        self._streams: dict[str, list[Recorded[Any]]] = {}
        for record in seen.kept:
            self._streams.setdefault(record.stream, []).append(record)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded[Any]]:
        if stream.startswith("run/"):
            return self._ledger.read_stream(stream, after_version)
        return self._streams.get(stream, [])[after_version:]

    def streams(self, prefix: str = "") -> list[str]:
        return [stream for stream in self._seen.streams if stream.startswith(prefix)]

    def root_at(self, size: int) -> bytes:
        return self._seen.roots[size]


def _documents(scene: Scene, seen: _Seen) -> Check:
    found, ledger = seen.ledger, scene.ledger
    check = Check(
        "documents", f"those of {counted(len(found.runs), 'run')} say what the ledger says"
    )
    if seen.whole:
        for path, position in _foreign(scene.home, found):
            what = (
                f"it shows position {position} of a ledger, this one has {found.size} events: "
                "its tail was cut off, or this is another ledger's"
            )
            check.bad(_shown(path, scene.root), what)
    if ledger is None or not seen.whole or found.problems:
        check.skipped = "the ledger is not what it was"
        return check
    once: Any = _OnceRead(ledger, found)
    documents, live = (
        Documents(Journal(of, "audit", clock.now), scene.home / "locks", shared=scene.shared)
        for of in (once, ledger)
    )
    suspects, away, retired = [], 0, 0
    for state in found.runs.values():
        with reported(check, f"run {state.run_id}"):
            if documents.check(state):
                suspects.append(state.run_id)
            away += not documents.folders.is_here(state)
            retired += documents.folders.is_retired(state)
    if away:
        check.notes.append(f"{counted(away, 'run')} not of this machine: not looked at here")
    if retired:
        what = f"{counted(retired, 'run folder')} retired to the store"
        check.notes.append(f"{what}: launcher restore RUN brings one back")
    for difference in standing_differences(live, suspects):
        check.bad(_shown(difference.path, scene.root), _DIFFERENCE[difference.what])
    return check


def standing_differences(documents: Documents, run_ids: Sequence[str]) -> list[Difference]:
    """Documents of these runs that differ from the ledger, and still do once their writers had a moment."""
    suspects = list(run_ids)

    def look() -> list[Difference]:
        by_run = {run: documents.check(documents.journal.run(run)) for run in suspects}
        suspects[:] = [run for run, found in by_run.items() if found]
        return [difference for found in by_run.values() for difference in found]

    return settled(look)


def _foreign(home: Path, found: LedgerAudit) -> Iterator[tuple[Path, int]]:
    """metadata.json of runs that the ledger does not know, from a ledger that was longer than it is."""
    for path in sorted(home.glob("*/metadata.json")):
        if path.parent.name in found.runs:
            continue
        try:
            position = json.loads(path.read_bytes())["ledger"]["position"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(position, int) and position >= found.size:
            yield path, position


# --- results ------------------------------------------------------------------------------------------


def _results(scene: Scene, seen: _Seen) -> Check:
    closed = seen.ledger.closed
    check = Check("results", f"{counted(len(closed), 'ended attempt')}, as the ledger has them")
    if not seen.whole:
        check.skipped = "the ledger cannot be read to its end"
    for (run_id, stage, attempt), facts in closed.items():
        state = seen.ledger.runs[run_id]
        if state.stream in seen.ledger.broken:
            continue
        with reported(check, f"runs/{run_id}/{stage}/{attempt}/result.json") as key:
            data = scene.store.read(key)
            kept = (
                saved_of(scene.store, run_id, stage, attempt).log_digest if _closed(facts) else None
            )
            problem = result_problem(state, stage, attempt, facts, data, kept)
            if problem:
                check.bad(key, problem)
    return check


def _closed(facts: Sequence[e.EventData]) -> bool:
    """Whether somebody closed it before its command had ended, as far as the ledger says."""
    return any(isinstance(fact, e.StageFailed) and fact.exit_code is None for fact in facts)


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
