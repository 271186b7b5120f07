"""One command's look at runs and pointers. Each stream and each pointer is read once, and only where asked for.

Rules:

1. It only reads. What a damaged pointer says is said in its place; the rest is shown all the same.
2. What is live is what the store's generations say; what was refused, and what was released, is the ledger's.
3. Runs are looked at from the newest back, and no further than is needed: a ledger may hold years of them.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Final

from launcher.cli.common import seconds_between
from launcher.cli.driving import is_driven
from launcher.cli.following import Followers
from launcher.cli.waits import under_way_in_cluster
from launcher.drivers import noted_driver
from launcher.errors import LauncherError
from launcher.project import pointer_name
from launcher.refs import short_id
from launcher.run_folders import machine_of
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.workspace import Workspace, translated
from ledger import events as e
from ledger.decider import RunState
from ledger.ids import promotion_id

__all__ = ["METRIC", "PointerView", "View", "waits_in_cluster", "why"]

#: The number that lists show; the gate's usual one.
METRIC: Final = "success_rate"
#: A usual duration is the median of so many earlier runs, looked for among so many.
_USUAL_OF: Final = 9
_LOOKED_AT: Final = 60


@dataclass(frozen=True)
class PointerView:
    """A pointer as the store has it, and what the ledger adds; ``broken`` says what cannot be read."""

    name: str
    history: PointerHistory
    held: e.Generation | None = None
    open: tuple[e.PromotionIntended, ...] = ()
    refusals: dict[str | None, e.PromotionRefused | e.PromotionAborted] = field(
        default_factory=dict
    )
    broken: str | None = None

    @cached_property
    def withdrawn(self) -> frozenset[int]:
        """Origins that were rolled back from."""
        return self.history.withdrawn()

    @cached_property
    def by_run(self) -> dict[str | None, list[e.Generation]]:
        """The generations that promoted each run's student, ascending."""
        found: dict[str | None, list[e.Generation]] = defaultdict(list)
        for body in self.history.generations:
            if body.kind == "promotion":
                found[body.run_id].append(body)
        return found

    def at(self, time: str | None) -> e.Generation | None:
        """What was live at ``time`` (now if None), fences skipped."""
        bodies = (g for g in reversed(self.history.generations) if g.kind != "fence")
        return next((g for g in bodies if time is None or g.time <= time), None)


class View:
    """What one command sees of a workspace."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self._runs: dict[str, RunState] = {}
        self._drivers: dict[str, str | None] = {}
        #: Why the driver of a run drives it no more, of those that somebody asked the cluster for.
        self.driver_ends: dict[str, str] = {}

    # --- runs ---

    @cached_property
    def run_ids(self) -> list[str]:
        """Every run, oldest first."""
        return self.ws.journal.run_ids()

    def run(self, run_id: str) -> RunState:
        """A run's state as of the first look; status ``unknown`` if the ledger has not heard of it."""
        if run_id not in self._runs:
            self._runs[run_id] = self.ws.journal.run(run_id)
        return self._runs[run_id]

    def newest(self, *, before: str | None = None) -> Iterator[RunState]:
        """Runs, newest first; with ``before`` those that were requested before that run."""
        ids = self.run_ids
        end = ids.index(before) if before in ids else len(ids)
        for run_id in reversed(ids[:end]):
            yield self.run(run_id)

    def name(self, run_id: str) -> str:
        """The shortest of our forms of a run id that means this run and no other."""
        short = short_id(run_id)
        alone = self._short_ids[short] == 1 or run_id not in self._short_ids
        taken = short != run_id and short in self._known_ids
        return short if alone and not taken else run_id

    @cached_property
    def _short_ids(self) -> Counter[str]:
        return Counter(short_id(run_id) for run_id in self.run_ids)

    @cached_property
    def _known_ids(self) -> frozenset[str]:
        return frozenset(self.run_ids)

    def is_driven(self, state: RunState) -> bool:
        """Whether a launcher drives this open run now, or was asked to in the cluster, and has not ended."""
        driver = state.run_id not in self.driver_ends and self.driver_job(state) is not None
        return is_driven(self.ws, state.run_id) or driver

    def driver_job(self, state: RunState) -> str | None:
        """``NAMESPACE/NAME`` of the Job that this open run was given to drive it; None where it has none."""
        if state.status != "open" or not self.has_jobs(state):
            return None
        if state.run_id not in self._drivers:
            try:
                noted = noted_driver(self.ws.store, state.run_id)
            except LauncherError:
                noted = None
            self._drivers[state.run_id] = "/".join(noted) if noted else None
        return self._drivers[state.run_id]

    def has_jobs(self, state: RunState) -> bool:
        """Whether the run's stages are Jobs."""
        return state.request is not None and state.request.executor == "kubernetes"

    def back_to(self, state: RunState) -> str:
        """The command that goes on with an open run, or follows it."""
        verb = "attach" if self.has_jobs(state) else "resume"
        return f"launcher {verb} {self.name(state.run_id)}"

    def elsewhere(self, state: RunState) -> str | None:
        """The machine that an open run belongs to, and that alone knows who drives it; None: it is this one."""
        driver = self.driver_job(state)
        if state.status != "open" or driver or self.ws.documents.folders.is_here(state):
            return None
        return machine_of(state)

    def attended(self, state: RunState) -> bool | None:
        """Whether a launcher drives this run now; None where it has ended, or another machine knows."""
        if state.status != "open" or self.elsewhere(state) is not None:
            return None
        return self.is_driven(state)

    def going(self, state: RunState) -> str:
        """An open run's state in words: ``running``, ``waiting``, ``left alone``, ``open on gpu-7``."""
        machine = self.elsewhere(state)
        if machine is not None:
            return f"open on {machine}"
        if not self.is_driven(state):
            return "left alone"
        return "waiting" if waits_in_cluster(state) else "running"

    def last_good(self, state: RunState) -> RunState | None:
        """The newest earlier run that succeeded: of the same config if there is one, else of any."""
        good = [
            s
            for s in islice(self.newest(before=state.run_id), _LOOKED_AT)
            if s.status == "succeeded" and s.request is not None
        ]
        same = [s for s in good if _config(s) == _config(state)]
        return next(iter(same or good), None)

    def usual_seconds(self, state: RunState, stage: e.StageName) -> tuple[float, int] | None:
        """(median, of how many) seconds that a stage took in earlier runs of the same config; None for none."""
        found: list[float] = []
        for earlier in islice(self.newest(before=state.run_id), _LOOKED_AT):
            done = earlier.stages.get(stage)
            if done is None or done.status != "succeeded" or _config(earlier) != _config(state):
                continue
            took = seconds_between(done.started_at, done.completed_at)
            found += [took] if took is not None else []
            if len(found) == _USUAL_OF:
                break
        return (statistics.median(found), len(found)) if found else None

    # --- pointers ---

    @cached_property
    def pointers(self) -> list[PointerView]:
        """Every pointer that store or ledger has heard of, by name."""
        pointers = Pointers(self.ws.store)
        names = {*pointers.names(), *self.ws.journal.pointer_names()}
        return [self._pointer(pointers, name) for name in sorted(names)]

    def _pointer(self, pointers: Pointers, name: str) -> PointerView:
        try:
            with translated():
                history = pointers.history(name)
                account = self.ws.journal.pointer(name)
        except LauncherError as exc:
            return PointerView(name, PointerHistory(name, ()), broken=str(exc))
        return PointerView(
            name,
            history,
            held=history.held_by(account.released),
            open=tuple(account.open.values()),
            refusals={r.run_id: r for _, r in account.refusals},
        )

    @cached_property
    def followers(self) -> Followers:
        """Who follows each pointer: one listing for all of them."""
        return Followers.of(self.ws.store)

    def live(self) -> list[PointerView]:
        """The pointers that name something, and those that cannot be read."""
        return [p for p in self.pointers if p.broken or p.history.live is not None]

    def pointer_of(self, state: RunState) -> PointerView | None:
        """The pointer that a run is about: the one it is to move, else the only one there is."""
        wanted = state.request.promotion if state.request else None
        if wanted is not None:
            return next((p for p in self.pointers if p.name == wanted.target), None)
        return self.pointers[0] if len(self.pointers) == 1 else None

    # --- what became of a run ---

    def metric(self, run_id: str | None) -> float | None:
        """A run's success rate, or None."""
        return self.run(run_id).metrics.get(METRIC) if run_id in self._known_ids else None

    def metric_before(self, state: RunState) -> float | None:
        """The success rate of what was live when this run might have gone live; None if unknown."""
        pointer = self.pointer_of(state)
        if pointer is None:
            return None
        mine = pointer.by_run.get(state.run_id)
        then = (
            pointer.history.get(mine[0].previous.generation) if mine else pointer.at(state.ended_at)
        )
        if then is None or then.run_id is None or then.run_id == state.run_id:
            return None
        return self.metric(then.run_id)

    def teacher_generation(self, state: RunState) -> int | None:
        """The generation that ``pointer:NAME`` led to when the run was requested; None for any other ref."""
        teacher = state.request.teacher_checkpoint if state.request else None
        if teacher is None or not teacher.ref.startswith("pointer:"):
            return None
        name = pointer_name(teacher.ref.removeprefix("pointer:"), self.ws.root)
        pointer = next((p for p in self.pointers if p.name == name), None)
        for body in reversed(pointer.history.generations if pointer else ()):
            before = state.requested_at is None or body.time <= state.requested_at
            if body.digest == teacher.digest and before:
                return body.generation
        return None

    def result(self, state: RunState) -> str:
        """What came of a run, in a few words; empty where there is nothing to say."""
        if isinstance(state.end, e.RunFailed):
            return f"{state.end.stage}: {why(state.end.cause, state.end.exit_code)}"
        if isinstance(state.end, e.RunCancelled):
            return f"{state.end.stage or 'before its first stage'}: {state.end.reason}"
        if state.status == "open":
            alone = self.attended(state) is False
            return f"left alone: {self.back_to(state)}" if alone else ""
        found = [said for p in self.pointers if (said := self._outcome(p, state))]
        if not found and state.request is not None and state.request.promotion is not None:
            return f"promotion undecided: launcher resume {self.name(state.run_id)}"
        return min(found)[1] if found else ""

    def _outcome(self, pointer: PointerView, state: RunState) -> tuple[int, str] | None:
        """(rank, words): being live says more than having been, and that more than a refusal."""
        mine, live = pointer.by_run.get(state.run_id, []), pointer.history.live
        prefix = f"{pointer.name} " if len(self.pointers) > 1 else ""
        first = f"{prefix}g{mine[0].generation}" if mine else ""
        if live is not None and live.run_id == state.run_id:
            at = f"live as {prefix}g{live.generation}"
            return 0, at if not mine or mine[-1].generation == live.generation else f"{first}, {at}"
        if mine:
            gone = any(g.origin in pointer.withdrawn for g in mine)
            return 1, f"{first}, {'rolled back' if gone else 'superseded'}"
        refusal = pointer.refusals.get(state.run_id)
        if isinstance(refusal, e.PromotionRefused):
            return 2, f"{prefix}refused: {refusal.cause.replace('_', ' ')}"
        if refusal is not None:
            return 2, f"{prefix}lost to g{refusal.winner.generation}: {refusal.reason}"
        decision = promotion_id(state.run_id, pointer.name)
        if any(i.generation.promotion_id == decision for i in pointer.open):
            return 3, f"promotion to {pointer.name} under way"
        return None


def waits_in_cluster(state: RunState) -> bool:
    """Whether the ledger has heard of a Job whose command did not start yet; for what it waits the cluster knows."""
    under_way = under_way_in_cluster(state)
    return under_way is not None and under_way[1].status != "running"


def why(cause: str, exit_code: int | None) -> str:
    """A cause in words: ``exit code 7``, ``out of memory``."""
    if cause == "application":
        return f"exit code {exit_code}" if exit_code is not None else "no exit code"
    return cause.replace("_", " ")


def _config(state: RunState) -> str | None:
    return state.request.config.path if state.request else None
