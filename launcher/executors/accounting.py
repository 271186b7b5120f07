"""What one launcher saw of the pods of its attempts: an evicted pod is gone before the attempt's end is counted."""

from __future__ import annotations

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
    """The Job of each attempt, and each of its pods as it was seen last."""

    _jobs: dict[Key, Object] = field(default_factory=dict)
    _pods: dict[Key, dict[str, Object]] = field(default_factory=dict)
    _missed: dict[str, datetime] = field(default_factory=dict)

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

    def counted(
        self, attempt: AttemptPaths, result: StageResult, profile: StageProfile, now: datetime
    ) -> StageResult:
        """``result`` with where the time of the attempt went and what its pods had asked for."""
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
