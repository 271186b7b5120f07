"""Follows a run that somebody else drives, to its end or to the moment when nobody drives it any more.

1. It records nothing and stops nothing: whoever drives does. Two who drive do no harm either, but each asks the
   cluster and the store.
2. What the ledger says is shown as the driver's own screen shows it; between two looks at the ledger the cluster is
   watched, for what a stage waits for and for what its command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from launcher import clock
from launcher import reconcile as r
from launcher.errors import UnavailableError
from launcher.executors.port import Executor, Running
from launcher.interrupts import Interrupts
from launcher.progress import Progress, tell_changes
from launcher.storage.bucket_url import look_seconds
from launcher.surroundings import log_path
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.ids import promotion_id
from ledger.run_state import StageState

__all__ = ["Onlooker"]

_WAIT_SECONDS: Final = 1.0
#: How often the ledger is asked for an end that the cluster or the store told of already.
_SOON_SECONDS: Final = 0.5


class Onlooker:
    """Of runs of one workspace. ``executor`` only looks; ``is_driven`` is asked now and then, by run id."""

    def __init__(
        self,
        ws: Workspace,
        executor: Executor,
        progress: Progress,
        is_driven: Callable[[str], bool],
    ) -> None:
        self.ws, self.executor, self.progress, self.is_driven = ws, executor, progress, is_driven
        self._look_seconds = look_seconds(ws.store.where, _SOON_SECONDS)
        self._interrupts = Interrupts()

    def follow(self, run_id: str) -> RunState:
        """The run as it is when it has ended, or nobody drives it. Raises KeyboardInterrupt at the first Ctrl-C."""
        with self._interrupts:
            state = self.ws.journal.run(run_id)
            while state.status == "open" and self.is_driven(run_id):
                self._interrupts.wait(lambda: self._watch(state))  # noqa: B023 - called at once
                if self._interrupts.asked:
                    raise KeyboardInterrupt
                after = self.ws.journal.run(run_id)
                tell_changes(self.ws, self.progress, state, after)
                state = after
            self._interrupts.wait(lambda: self._await_promotion(state))
        return state

    def _await_promotion(self, state: RunState) -> None:
        """Where whoever drives it is about to decide it."""
        wanted = state.request.promotion if state.request else None
        if state.status != "succeeded" or wanted is None:
            return
        decision = promotion_id(state.run_id, wanted.target)
        while self.is_driven(state.run_id):
            if self.ws.journal.pointer(wanted.target).outcome(decision) not in (None, "open"):
                return
            clock.sleep(_SOON_SECONDS)

    def _watch(self, state: RunState) -> None:
        """Until it is time to look into the ledger."""
        active = r.needs_observation(state)
        if active is None or active.status == "intended":
            clock.sleep(_SOON_SECONDS)
            return
        began, log = time.monotonic(), log_path(self.ws, state, active.plan.name, active.attempt)
        while time.monotonic() - began < self._look_seconds:
            if not self._still_runs(state, active, log):
                clock.sleep(_SOON_SECONDS)
                return

    def _still_runs(self, state: RunState, active: StageState, log: Path) -> bool:
        try:
            seen = self.executor.wait(state.run_id, active.plan.name, active.attempt, _WAIT_SECONDS)
        except UnavailableError:  # the driver says so, and outlasts it
            return False
        if isinstance(seen, Running):
            self.progress.stage_waits(state, active, log, seen)
        return isinstance(seen, Running)
