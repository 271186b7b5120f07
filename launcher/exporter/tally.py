"""Counts and moments of a ledger, folded event by event. Pure.

Rules:

1. Everything is the ledger's own: two exporters of one ledger say the same, and a counter does not start again when
   its exporter does.
2. Labels take few values: stages, causes, pointers and pipelines, never a run.
3. An age is left to whoever asks: moments are Unix times, so that ``time() - x`` is right whenever it is evaluated.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from ledger import events as e

__all__ = ["BUCKETS", "Spread", "Tally", "unix_time"]

#: Upper bounds in seconds: from a stage of the demo to one of days.
BUCKETS: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 172800)
_ENDS: Final = {"RunSucceeded": "succeeded", "RunFailed": "failed", "RunCancelled": "cancelled"}
_OUTCOMES: Final = ("claimed", "missed", "overlap", "paused")
_GIB: Final = 2**30

Labels = tuple[str, ...]


def unix_time(text: str) -> float:
    """The Unix time of RFC 3339 ``text``."""
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Spread:
    """A histogram: how many were at most so long, bucket by bucket (the last one: longer), and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        """(upper bound, how many) as Prometheus has them, +Inf last."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append((bound, float(so_far)))
        return found


@dataclass
class _Open:
    """An open run: whose it is, and what its stages are at (status, since)."""

    pipeline: str
    stages: dict[str, tuple[str, float]] = field(default_factory=dict)


@dataclass
class Tally:
    """``position``: of the next event that it wants."""

    position: int = 0
    newest_event: float | None = None
    open: dict[str, _Open] = field(default_factory=dict)
    #: (pipeline, status)
    runs: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    #: (stage, outcome): succeeded, or the cause of the failure
    attempts: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    waited: dict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    ran: dict[str, Spread] = field(default_factory=lambda: defaultdict(Spread))
    #: (pipeline, stage, resource), of all attempts that ended
    gpu_seconds: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    #: (pipeline, stage)
    cpu_seconds: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    memory_byte_seconds: dict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    checkpoint_bytes: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    watch_restarts: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    #: (pointer, kind)
    promotions: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    #: (pointer, cause)
    refusals: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    generation: dict[str, int] = field(default_factory=dict)
    live_since: dict[str, float] = field(default_factory=dict)
    #: pointer -> (generation, since when), while it is held
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    stored: e.StorageMeasured | None = None
    #: (pipeline, outcome)
    slots: dict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    newest_slot: dict[str, float] = field(default_factory=dict)
    newest_missed: dict[str, float] = field(default_factory=dict)
    newest_success: dict[str, float] = field(default_factory=dict)
    #: pipeline -> runs that failed since the last success, or since a person let it go on
    failed_in_a_row: dict[str, int] = field(default_factory=dict)
    #: pipeline -> the pointer that its newest run is to promote to; empty: none
    promotes_to: dict[str, str] = field(default_factory=dict)
    paused: dict[str, bool] = field(default_factory=dict)
    _claims: dict[str, str] = field(default_factory=dict)

    def add(self, event: e.Recorded[Any]) -> None:
        """Fold the next event. One that this program does not know is counted, no more."""
        kind, _, name = event.stream.partition("/")
        at = unix_time(event.time)
        if kind == "run":
            self._run(name, event.data, at)
        elif kind == "pointer":
            self._pointer(name, event.data, at)
        elif kind == "pipeline":
            self._pipeline(name, event.data, at)
        elif isinstance(event.data, e.StorageMeasured):
            self.stored = event.data
        self.position, self.newest_event = event.position + 1, at

    def waiting_since(self) -> dict[str, float]:
        """Stage -> since when the attempt waits that has waited longest for its command to begin."""
        found: dict[str, float] = {}
        for run in self.open.values():
            for stage, (status, since) in run.stages.items():
                if status == "waiting":
                    found[stage] = min(since, found.get(stage, since))
        return found

    def stages(self) -> dict[Labels, int]:
        """(stage, waiting or running) -> how many of the open runs' attempts."""
        found: dict[Labels, int] = defaultdict(int)
        for run in self.open.values():
            for stage, (status, _) in run.stages.items():
                found[stage, status] += 1
        return found

    # --- events ---

    def _run(self, run_id: str, data: e.EventData, at: float) -> None:
        if isinstance(data, e.RunRequested):
            pipeline = self._claims.get(run_id, "")
            self.open[run_id] = _Open(pipeline)
            self.promotes_to[pipeline] = data.promotion.target if data.promotion else ""
            self._begin(self.runs, pipeline, _ENDS.values())
            return
        if data.type in _ENDS:
            pipeline = self._claims.get(run_id, "")
            self.open.pop(run_id, None)
            self.runs[pipeline, _ENDS[data.type]] += 1
            if data.type == "RunSucceeded":
                self.newest_success[pipeline] = at
                self.failed_in_a_row[pipeline] = 0
            elif data.type == "RunFailed":
                self.failed_in_a_row[pipeline] = self.failed_in_a_row.get(pipeline, 0) + 1
            return
        run = self.open.get(run_id)
        if run is not None:
            self._stage(run, data, at)

    def _stage(self, run: _Open, data: e.EventData, at: float) -> None:
        match data:
            case e.StageIntended():
                run.stages[data.stage] = ("waiting", at)
                self._begin(self.attempts, data.stage, ("succeeded",))
                self._begin(self.watch_restarts, run.pipeline, (data.stage,))
                for spread in (self.waited, self.ran):
                    spread.setdefault(data.stage, Spread())
            case e.StageStarted():
                run.stages[data.stage] = ("running", at)
            case e.StageSucceeded() | e.StageFailed():
                run.stages.pop(data.stage, None)
                good = isinstance(data, e.StageSucceeded)
                self.attempts[data.stage, "succeeded" if good else data.cause] += 1  # type: ignore[union-attr]
                self._spent(data.stage, data.seconds)
                self._held(run.pipeline, data.stage, data.held)
                self.watch_restarts[run.pipeline, data.stage] += data.watch_restarts or 0
            case e.CheckpointRecorded():
                self.checkpoint_bytes[run.pipeline, data.stage] += data.size_bytes

    def _held(self, pipeline: str, stage: str, held: e.ResourceSeconds | None) -> None:
        if held is None:
            return  # nobody counted, as on one's own machine
        for resource, seconds in held.gpus.items():
            self.gpu_seconds[pipeline, stage, resource] += seconds
        self.cpu_seconds[pipeline, stage] += held.cpu
        self.memory_byte_seconds[pipeline, stage] += held.memory * _GIB

    def _spent(self, stage: str, seconds: e.StageSeconds) -> None:
        before = [s for s in (seconds.queued, seconds.scheduled, seconds.pulling) if s is not None]
        if before:
            self.waited[stage].add(sum(before))
        if seconds.running is not None:
            self.ran[stage].add(seconds.running)

    def _pointer(self, name: str, data: e.EventData, at: float) -> None:
        self._begin(self.promotions, name, ("promotion", "rollback"))
        self._begin(self.refusals, name, ("gate", "held"))
        match data:
            case e.PromotionConfirmed():
                self._learn(name, data.generation)
            case e.PromotionRefused():
                self.refusals[name, data.cause] += 1
            case e.PromotionAborted():
                self.refusals[name, "race"] += 1
                self._learn(name, data.winner)
            case e.PointerHeld():
                self.held[name] = (data.generation, at)
            case e.PointerReleased():
                if self.held.get(name, (None,))[0] == data.generation:
                    del self.held[name]

    def _learn(self, name: str, body: e.Generation) -> None:
        """A generation, once, whichever event tells of it."""
        if body.generation <= self.generation.get(name, 0):
            return
        self.generation[name] = body.generation
        self.promotions[name, body.kind] += 1
        if body.kind != "fence":
            self.live_since[name] = unix_time(body.time)

    def _pipeline(self, name: str, data: e.EventData, at: float) -> None:
        match data:
            case e.SlotClaimed():
                self._claims[data.run_id] = name
                self._slot(name, data.slot, "claimed")
            case e.SlotMissed():
                self._slot(name, data.slot, "missed")
                self.newest_missed[name] = max(at, self.newest_missed.get(name, 0.0))
            case e.SlotPassedOver():
                self._slot(name, data.slot, data.cause)
            case e.PipelinePaused() | e.PipelineUnpaused():
                self.paused[name] = isinstance(data, e.PipelinePaused)
                if not self.paused[name]:
                    self.failed_in_a_row[name] = 0

    def _begin(self, counter: dict[Labels, int], name: str, outcomes: Iterable[str]) -> None:
        """Let counters be there, at 0, before their first step: Prometheus sees no step from nothing to 1."""
        for outcome in outcomes:
            counter.setdefault((name, outcome), 0)

    def _slot(self, name: str, slot: str, outcome: str) -> None:
        self._begin(self.slots, name, _OUTCOMES)
        self.slots[name, outcome] += 1
        self.paused.setdefault(name, False)
        self.failed_in_a_row.setdefault(name, 0)
        self.newest_slot[name] = max(unix_time(slot), self.newest_slot.get(name, 0.0))
