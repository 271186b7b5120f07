"""A restore drill: could all that people read be had back from the bucket, or from ``ledger.db``, alone?

Rules:

1. Ledger and documents are made anew in an empty place that is thrown away, then compared byte for byte with what
   is there: the cache of this machine, the documents in its run folders.
2. Nothing of the project's is written, and nothing is mended: a cache is looked at before a ledger heals it.
3. What another process may be changing just now is looked at again before it is called different.

Blobs, results and pointers are the store's own, and ``launcher.audit``'s to check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher import clock
from launcher.audit.report import Check, counted, settled
from launcher.documents import Difference, Documents
from launcher.journal import Journal
from launcher.storage.caches import user_cache
from launcher.storage.ledger_objects import cache_folder, open_ledger
from launcher.workspace import Workspace
from ledger.copying import copy
from ledger.errors import LedgerDamagedError, LedgerError, LedgerUnavailableError
from ledger.stores.kept_cache import KeptCache, kept_cache
from ledger.stores.port import EventStore, TreeHead
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["Drilled", "drill"]

_DIFFERENCE = {"missing": "it is missing", "differs": "it is not what was rebuilt"}


@dataclass(frozen=True, slots=True)
class Drilled:
    """One check a kind; ``head`` of the ledger that was rebuilt, None where it could not be."""

    checks: tuple[Check, ...]
    head: TreeHead | None


def drill(ws: Workspace, place: Path) -> Drilled:
    """Rebuild everything in ``place``, an empty folder of the caller's, and compare.

    Raises LedgerUnavailableError and UnavailableError: what is to be rebuilt from cannot be read now.
    """
    shared = ws.settings.ledger == "store"
    ledger, cache, documents = Check("ledger"), Check("cache"), Check("documents")
    checks = (ledger, cache, documents) if shared else (ledger, documents)
    kept = _kept_cache(ws, cache) if shared else None
    strangers = _documents_in(ws.home)
    try:
        with _rebuilt(ws, place, shared=shared) as (rebuilt, refresh):
            head = rebuilt.head()
            ledger.looked_at = f"{counted(head.size, 'event')} rebuilt from {ws.ledger.where}"
            if shared:
                made = kept_cache(cache_folder(ws.store, place))
                _compare_caches(cache, kept, made.digests if made else {})
            mine = None if cache.problems or kept is None else ws.ledger
            _Rebuilt(ws, rebuilt, refresh, documents, head).compare(strangers, mine)
            return Drilled(checks, head)
    except LedgerDamagedError as exc:
        ledger.bad(exc.where, exc.detail)
    for check in checks[1:]:
        if not check.looked_at and not check.problems:
            check.skipped = "the ledger could not be rebuilt"
    return Drilled(checks, None)


@contextmanager
def _rebuilt(
    ws: Workspace, place: Path, *, shared: bool
) -> Iterator[tuple[EventStore, Callable[[], object]]]:
    """The ledger made anew in ``place``, and what brings it to where the original is now."""
    if shared:
        store: EventStore = open_ledger(ws.store, place, writing=False, packed=False)
        refresh: Callable[[], object] = store.head
    else:
        store = SqliteEventStore(place / "ledger.db")
        source, target = ws.ledger, store

        def refresh() -> object:
            return copy(source, target)

    try:
        refresh()
        yield store, refresh
    finally:
        store.close()


# --- the cache ----------------------------------------------------------------------------------------


def _kept_cache(ws: Workspace, check: Check) -> KeptCache | None:
    """This machine's cache, as it lies there; None where it is of no use."""
    caches = user_cache("ledgers")
    try:
        kept = kept_cache(cache_folder(ws.store, caches)) if caches else None
    except LedgerUnavailableError as exc:
        check.skipped = f"{exc.where} cannot be read"
        return None
    except LedgerDamagedError as exc:
        check.bad(exc.where, "it is no cache that can be read")
        return None
    if kept is None:
        check.skipped = "this machine has none"
    elif kept.log != ws.ledger.where:
        check.skipped = f"{kept.file} is of another ledger, and not used"
        return None
    return kept


def _compare_caches(check: Check, kept: KeptCache | None, made: dict[int, str]) -> None:
    if kept is None:
        return
    check.looked_at = f"{counted(len(kept.digests), 'segment')} as in the bucket"
    for number, digest in kept.digests.items():
        if made.get(number) != digest:
            what = "is not what the bucket has" if number in made else "is not in the bucket"
            check.bad(str(kept.file), f"segment {number} {what}")


# --- documents ----------------------------------------------------------------------------------------


def _documents_in(home: Path) -> list[Path]:
    """metadata.json of the run folders of ``home``; a copy under another name is nobody's."""
    found = []
    for path in sorted(home.glob("*/metadata.json")):
        try:
            run_id = json.loads(path.read_bytes())["run_id"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if run_id == path.parent.name:
            found.append(path)
    return found


@dataclass
class _Rebuilt:
    """The rebuilt ledger up to ``head``, and what it makes of every run's documents."""

    ws: Workspace
    ledger: EventStore
    refresh: Callable[[], object]
    check: Check
    head: TreeHead

    def compare(self, strangers: Sequence[Path], mine: EventStore | None) -> None:
        """With the run folders of this machine; other machines' runs with what ``mine``, its cache, makes of them."""
        documents = self._documents(self.ledger)
        others = self._documents(mine) if mine is not None else None
        runs = documents.journal.run_ids()
        suspects, files, here, projected = [], 0, 0, 0
        for run_id in runs:
            state = documents.journal.run(run_id)
            kept = len(list(documents.kept(state)))
            files, here = files + kept, here + (kept > 0)
            if kept and documents.check(state):
                suspects.append(run_id)
            if not kept and others is not None:
                projected += 1
                self._compare_projections(run_id, documents, others)
        self._say(counted(files, "document"), counted(here, "run"))
        for difference in settled(lambda: self._standing(documents, suspects)):
            self.check.bad(self._shown(difference.path), _DIFFERENCE[difference.what])
        known = set(runs)
        for path in strangers:
            if path.parent.name not in known:
                self.check.bad(self._shown(path), "the ledger does not know this run")
        if projected:
            self.check.notes.append(
                f"{counted(projected, 'run')} without a folder here: "
                "compared with what this machine's cache makes of them"
            )
        elif len(runs) > here:
            nothing = "without a folder here, and no cache to compare with: rebuilt, no more"
            self.check.notes.append(f"{counted(len(runs) - here, 'run')} {nothing}")

    def _documents(self, ledger: EventStore) -> Documents:
        shared = self.ws.settings.ledger == "store"
        return Documents(Journal(ledger, "drill", clock.now), self.ws.locks, shared=shared)

    def _say(self, files: str, runs: str) -> None:
        self.check.looked_at = f"{files} of {runs}, as in their folders"

    def _standing(self, documents: Documents, suspects: list[str]) -> list[Difference]:
        """What still differs; those runs stay suspects."""
        self.refresh()
        by_run = {run: documents.check(documents.journal.run(run)) for run in suspects}
        suspects[:] = [run for run, found in by_run.items() if found]
        return [difference for found in by_run.values() for difference in found]

    def _compare_projections(self, run_id: str, rebuilt: Documents, mine: Documents) -> None:
        """As of the rebuilt ledger's end, so that neither is ahead of the other."""
        position = self.head.size - 1
        try:
            theirs = dict(mine.as_of(run_id, position))
        except LedgerError as exc:
            self.check.bad(f"run {run_id}", str(exc))
            return
        for path, data in rebuilt.as_of(run_id, position):
            if theirs.get(path) != data:
                self.check.bad(self._shown(path), "this machine's cache makes another one of it")

    def _shown(self, path: Path) -> str:
        root = self.ws.root
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
