"""What one launcher saw of its attempts while they ran: what is gone, or mended, before an attempt's end is counted.

An evicted pod is not there any more by then, and a watch that broke runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from k8s.profile import StageProfile
from k8s.timing import asked, spent
from launcher.agent.protocol import AttemptPaths
from launcher.executors.port import StageResult
from ledger.events import ResourceSeconds

__all__ = ["Accounts"]

Object = Mapping[str, Any]
Key = tuple[str, str, int]


@dataclass
class Accounts:
    """The Job of each attempt, each of its pods as it was seen last, and how many watches broke meanwhile."""

    _jobs: dict[Key, Object] = field(default_factory=dict)
    _pods: dict[Key, dict[str, Object]] = field(default_factory=dict)
    _missed: dict[str, datetime] = field(default_factory=dict)
    _restarts: Counter[Key] = field(default_factory=Counter)
    #: Of each run, how many watches had broken when it was looked at last.
    _broken: dict[str, int] = field(default_factory=dict)

    def saw(
        self, attempt: AttemptPaths, job: Object | None, pods: Sequence[Object], now: datetime
    ) -> None:
        """What there is of an attempt now; whatever is not any more stays as it was."""
        key = _key(attempt)
        if job is not None:
            self._jobs[key] = job
        known = self._pods.setdefault(key, {})
        here = {pod["metadata"]["uid"]: pod for pod in pods}
        known.update(here)
        for uid in known:
            if uid in here:
                self._missed.pop(uid, None)  # a watch that was behind a list had not seen it yet
            else:
                self._missed.setdefault(uid, now)

    def watched(self, attempt: AttemptPaths, restarts: int) -> None:
        """So many watches of the attempt's run have broken by now: those that are new are the attempt's.

        What broke between two attempts is the later one's. Fewer than before: the run is watched anew.
        """
        before = self._broken.get(attempt.run_id, 0)
        self._restarts[_key(attempt)] += restarts - before if restarts >= before else restarts
        self._broken[attempt.run_id] = restarts

    def counted(
        self, attempt: AttemptPaths, result: StageResult, profile: StageProfile, now: datetime
    ) -> StageResult:
        """``result`` with where the time of the attempt went, what its pods had asked for, which watches broke."""
        job, pods = self._jobs.get(_key(attempt)), [*self._pods.get(_key(attempt), {}).values()]
        found = spent(job, pods, now, self._missed)
        had = asked(job, pods, _gpu_resources(profile))
        own = result.running_seconds if result.running_seconds is not None else found.running
        running = found.running_before + (own or 0.0)
        collecting = result.collecting_seconds
        return replace(
            result,
            queued_seconds=found.queued,
            scheduled_seconds=found.scheduled,
            pulling_seconds=found.pulling,
            running_seconds=running if running or own is not None else None,
            collecting_seconds=collecting if collecting is not None else found.collecting,
            gpus=sum(had.gpus.values()) if had else 0,
            asked=_per_second(had.gpus, had.cpu, had.memory) if had else None,
            held_seconds=found.held,
            counted=found.pods,
            counted_since=found.since,
            watch_restarts=self._restarts[_key(attempt)],
        )


def _key(attempt: AttemptPaths) -> Key:
    return attempt.run_id, attempt.stage, attempt.attempt


def _per_second(gpus: Mapping[str, int], cpu: float, memory: float) -> ResourceSeconds:
    return ResourceSeconds(
        gpus={n: float(count) for n, count in gpus.items()}, cpu=cpu, memory=memory
    )


def _gpu_resources(profile: StageProfile) -> set[str]:
    return {
        one.gpu_resource for one in (profile.resources, *(s.resources for s in profile.services))
    }
