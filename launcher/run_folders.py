"""Which run folders this machine keeps: the ledger's account of them, and what can be seen here.

Rules:

1. A folder that ``gc --run-dirs`` retired is not kept until ``restore`` says that it is back: what was in it is
   in the store, and its absence is no fault. What another machine retired is not kept here either, unless it
   is here.
2. In a ledger that several machines share, a run is this machine's if its folder is here, or was: a path alone
   (``/work``) is no proof, the machine that started a stage is. Whoever submits makes the folder before the
   ledger hears of the run, so a run without both is somebody else's.
3. Where the project root is not, nothing of it is kept.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from launcher.agent.protocol import machine_id
from ledger import events as e
from ledger.decider import RunState
from ledger.stores.port import EventStore

__all__ = ["RunFolders", "Sightings", "folder_of", "machine_of"]

_Event = e.RunFolderRetired | e.RunFolderRestored


def folder_of(request: e.RunRequested) -> Path:
    """The run's own folder, absolute, on the machine where its project is."""
    return Path(request.project_root, request.output_root, request.run_id)


def machine_of(state: RunState) -> str:
    """The name of the machine on which a run's newest stage was started, or from which it was requested."""
    handles = [s.handle for s in state.stages.values() if s.handle and s.handle.machine_id]
    if handles:
        return str(handles[-1].machine_id).partition("/")[0]
    return (state.actor or "").rpartition("@")[2] or "another machine"


class RunFolders:
    """The folders of a ledger's runs. ``shared``: other machines write to this ledger too."""

    def __init__(self, store: EventStore, *, shared: bool) -> None:
        self._store, self._shared = store, shared
        self._version = 0
        self._last: dict[str, e.Recorded[Any]] = {}

    def last(self, run_id: str) -> e.Recorded[Any] | None:
        """The newest event about a run's folder; None where it was never retired."""
        for event in self._store.read_stream("storage", self._version):
            self._version = event.version
            if isinstance(event.data, _Event):
                self._last[event.data.run_id] = event
        return self._last.get(run_id)

    def is_retired(self, state: RunState) -> bool:
        """Whether the run's folder is meant to be gone from this machine."""
        if state.request is None or state.status == "open":
            return False
        event = self.last(state.run_id)
        if event is None or not isinstance(event.data, e.RunFolderRetired):
            return False
        here = os.path.lexists(folder_of(state.request))
        return not here or event.data.machine_id == machine_id()

    def is_here(self, state: RunState) -> bool:
        """Whether this machine is the one on which the run's files belong."""
        started = {s.handle.machine_id for s in state.stages.values() if s.handle is not None}
        return state.request is not None and self.belong_here(state.request, started)

    def belong_here(self, request: e.RunRequested, started: Collection[str | None]) -> bool:
        """As ``is_here``, of a run of whose stages some were started on these machines."""
        if folder_of(request).is_dir():
            return True
        if not Path(request.project_root).is_dir():
            return False
        return not self._shared or machine_id() in started


class Sightings:
    """Of events as they are read, where runs are: of what is surely elsewhere nothing more need be read."""

    def __init__(self, folders: RunFolders) -> None:
        self._folders = folders
        self._requests: dict[str, e.RunRequested] = {}
        self._started: defaultdict[str, set[str | None]] = defaultdict(set)

    def saw(self, record: e.Recorded[Any]) -> None:
        """One event, of any stream."""
        if isinstance(record.data, e.RunRequested):
            self._requests[record.data.run_id] = record.data
        elif isinstance(record.data, e.StageSubmitted):
            run_id = record.stream.removeprefix("run/")
            self._started[run_id].add(record.data.handle.machine_id)

    def is_elsewhere(self, run_id: str) -> bool:
        """Whether the run's files belong to another machine, by events that were all seen."""
        request = self._requests.get(run_id)
        return request is not None and not self._folders.belong_here(request, self._started[run_id])
