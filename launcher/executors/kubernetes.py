"""Stages as Jobs: one Job an attempt, found again by its name and by what it says it is.

Rules:

1. An attempt is what its result says. Job and pods say why there is none, and when nothing of it runs any more.
2. A committed exit code ends the attempt at once: the wrapper hands it over when the command's processes are gone.
   One that somebody closed has ended when its pods are gone.
3. That something is absent is believed of a list alone, never of a watch that may be behind.
4. What waits for longer than the profile allows, or for what cannot come, is given up: closed with the cause, then
   its Job deleted. A command's own time limit is its pod's collector's to keep, with no launcher about.
5. Only what the API server did not answer is asked again (``launcher.retry``).
6. A Job stays until its end is on record, and for as long after it as the profile says (``expiring``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from k8s import names
from k8s.containers import COMMAND
from k8s.names import Attempt
from k8s.outcome import Outcome, outcome, unreachable
from k8s.patience import given_up
from k8s.pods import oldest_first, out_of_memory
from k8s.pods import seen as seen_pod
from k8s.profile_text import ReadProfile
from k8s.watch import Mirror, Seen
from launcher import clock
from launcher.agent.protocol import AttemptPaths, StageSpec
from launcher.errors import UnavailableError
from launcher.executors.accounting import Accounts
from launcher.executors.cluster_calls import asked, ours, translated
from launcher.executors.expiring import Expiring
from launcher.executors.listening import Listening
from launcher.executors.looks import Looks
from launcher.executors.pod_spec import PodSpec
from launcher.executors.port import (
    Ended,
    Lost,
    NotStarted,
    Observation,
    Pod,
    Running,
    StageResult,
    StillRunningError,
)
from launcher.executors.records import AttemptRecords
from launcher.storage.bucket_url import look_seconds
from launcher.storage.port import ObjectStore
from ledger.events import Cause, Handle, StageName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.client import Client

__all__ = ["KubernetesExecutor", "ran"]

#: How long the first lists of a run's Jobs, pods and events may take.
_LIST_SECONDS: Final = 60.0
#: What a Job's deletion may take beyond what its pod is given.
_DELETION_SECONDS: Final = 90.0
#: How often a folder's store is asked for a result of which nothing was heard.
_LOOK_SECONDS: Final = 1.0

Object = dict[str, Any]


class KubernetesExecutor:
    """An Executor over the Jobs of one project. ``connect`` is called when a cluster is first needed.

    ``live_log`` names the file that a command's output goes to as it comes, for whoever looks on; it may lack some.
    ``say`` is told what a person should know and nothing depends on. With ``looks_only`` nothing is ever given up,
    deleted or closed for what was seen: somebody else drives the run.
    """

    def __init__(
        self,
        store: ObjectStore,
        home: Path,
        *,
        project: str,
        profile: ReadProfile,
        connect: Callable[[], Client],
        live_log: Callable[[str, str, int], Path] | None = None,
        say: Callable[[str], None] = lambda _: None,
        looks_only: bool = False,
    ) -> None:
        self.store, self.home, self.project, self.profile = store, home, project, profile
        self._connect, self._live_log, self._say = connect, live_log, say
        self._looks_only = looks_only
        self._client: Client | None = None
        self._mirrors: dict[str, Mirror] = {}
        self._expiring: dict[str, Expiring] = {}
        self._look_seconds = look_seconds(store.where, _LOOK_SECONDS)
        self._looks = Looks(self._look_seconds)
        self._told: set[str] = set()
        self._listening = Listening()
        self._accounts = Accounts()

    # --- the port ---

    def prepare(self) -> None:
        """See the port."""
        self._cluster()

    def answers(self) -> bool:
        """See the port."""
        return all(mirror.seen().error is None for mirror in self._mirrors.values())

    def close(self, wait_seconds: float = 0.0) -> None:
        """See the port."""
        for expiring in self._expiring.values():
            expiring.close(wait_seconds)
        self._expiring.clear()
        for mirror in self._mirrors.values():
            mirror.close()
        self._mirrors.clear()

    def recorded(self, run_id: str, stage: str, attempt: int) -> None:
        """See the port."""
        seconds = self.profile.profile.keep_finished_seconds
        if seconds is None:
            return
        if run_id not in self._expiring:
            made = Expiring(self._cluster(), self._mirror(run_id), seconds, self._say)
            self._expiring[run_id] = made
        self._expiring[run_id].add(stage, attempt)

    def job_name(self, run_id: str, stage: str, attempt: int, spec_digest: str) -> str | None:
        """See the port."""
        return names.job_name(Attempt(self.project, run_id, stage, attempt, spec_digest))

    def start(self, spec: StageSpec) -> Handle:
        """See the port."""
        assert isinstance(spec, PodSpec)
        if self._of(spec.run_id, spec.stage, spec.attempt).is_closed():
            return Handle(job_name=names.job_name(spec.job.attempt), task_digest=spec.task)
        made, client = spec.manifest(self.profile), self._cluster()
        self._mirror(spec.run_id)  # listed before there is anything to miss
        return self._handle(asked(lambda: client.create_or_adopt_job(made, spec.job.attempt)))

    def observe(self, run_id: str, stage: str, attempt: int) -> Observation:
        """See the port."""
        return self._observed(run_id, stage, attempt, self._mirror(run_id).ready(_LIST_SECONDS))

    def wait(self, run_id: str, stage: str, attempt: int, timeout_seconds: float) -> Observation:
        """See the port; returns, too, when a pod has started that was not told of."""
        mirror, deadline = self._mirror(run_id), time.monotonic() + timeout_seconds
        seen = mirror.ready(_LIST_SECONDS)
        asked, number = time.monotonic(), seen.number
        found = self._observed(run_id, stage, attempt, seen)
        while isinstance(found, Running) and not self._is_news(found):
            left = min(deadline - time.monotonic(), self._look_seconds)
            if left <= 0:
                break
            seen = mirror.wait(number, left)
            moment = time.monotonic()
            if seen.number == number and moment - asked < self._look_seconds:
                continue
            asked, number = moment, seen.number
            found = self._observed(run_id, stage, attempt, seen)
        return found

    def stop(
        self,
        run_id: str,
        stage: str,
        attempt: int,
        *,
        closed_by: str,
        reason: str | None,
        grace_seconds: float,
        force: bool = False,
    ) -> None:
        """See the port. The grace is the profile's, which the pod was made with."""
        of = self._of(run_id, stage, attempt)
        of.close(closed_by, reason)
        client, selector = self._cluster(), names.selector(self.project, run_id)
        given = self.profile.stages[_stage(stage)]
        deadline = time.monotonic() + given.grace_seconds + given.save_seconds + _DELETION_SECONDS
        mirror, pause = self._mirror(run_id), 0.5
        while True:
            found = asked(mirror.fresh)
            job, pods = self._parts(found, run_id, stage, attempt)
            seen = outcome(job, pods, found.events)
            if seen.gone:
                return
            late = time.monotonic() > deadline
            if job is not None and not job["metadata"].get("deletionTimestamp"):
                self._delete(client, job)
            elif force and (late or seen.state == "unreachable"):
                for pod in pods:
                    _delete_pod(client, pod, at_once=late or bool(unreachable(pod, found.events)))
            elif job is None:
                for pod in pods:
                    _delete_pod(client, pod)  # whoever deleted its Job left it
            if seen.state == "unreachable" and not force:
                raise UnavailableError(
                    f"{of} is closed, and is not seen gone: {seen.message}",
                    "--force, once you know that it is gone",
                )
            if late and not force:
                why = f": {seen.message}" if seen.message else ""
                raise UnavailableError(
                    f"{of} is not gone yet{why}", f"kubectl get pods -l {selector}"
                )
            number = mirror.seen().number
            mirror.wait(number, pause)
            pause = min(pause * 1.5, 5.0)

    def close_lost(
        self, run_id: str, stage: str, attempt: int, reason: str, cause: Cause = "lost"
    ) -> None:
        """See the port. Raises StillRunningError."""
        of = self._of(run_id, stage, attempt)
        if of.is_closed():
            return
        if not outcome(
            *self._parts(asked(self._mirror(run_id).fresh), run_id, stage, attempt)
        ).gone:
            raise StillRunningError(f"{of} is still running")
        of.close(cause, reason)

    def seen(self, run_id: str) -> Seen:
        """What the cluster has of a run now. Raises UnavailableError, UsageError."""
        seen = self._mirror(run_id).ready(_LIST_SECONDS)
        if seen.error is not None:
            raise ours(seen.error)
        return seen

    def log(self, run_id: str, stage: str, attempt: int) -> Iterator[bytes] | None:
        """What the newest pod of an attempt has printed so far, raw; None: it has none. Raises UnavailableError."""
        _, pods = self._parts(self.seen(run_id), run_id, stage, attempt)
        started = _pods(pods)
        if not started:
            return None
        newest = next(one for one in pods if one["metadata"]["uid"] == started[-1].uid)
        name, client = newest["metadata"]["name"], self._cluster()
        return asked(lambda: client.log(name, COMMAND)).parts()

    # --- looking ---

    def _observed(self, run_id: str, stage: str, attempt: int, seen: Seen) -> Observation:
        of = self._of(run_id, stage, attempt)
        # Whoever commits one rings; where the cluster is away, nobody is heard.
        due = self._looks.due(of.paths, time.monotonic(), seen.number)
        result = of.result() if due or seen.error is not None else None
        job, pods = self._parts(seen, run_id, stage, attempt)
        if result is not None and result.closed_by is None:
            # Its pod's words may come later than its result, or never, where the cluster is away.
            return self._ended(of, result, job, pods)
        if seen.error is not None:
            raise ours(seen.error)
        said = outcome(job, pods, seen.events)
        if said.gone:
            job, pods = self._parts(asked(self._mirror(run_id).fresh), run_id, stage, attempt)
            said = outcome(job, pods, seen.events)
            # It may have been committed since the first look; a Job that is only not seen yet is not deleted for it.
            result = of.result()
            if result is not None and result.closed_by is None:
                return self._ended(of, result, job, pods)
        if said.gone:
            if result is not None:
                return self._ended(of, result, job, pods)
            return _without_result(said)
        if job is None:
            handle = Handle(namespace=self._cluster().namespace)
            lost = said.state == "unreachable"
            return Running(handle, _pods(pods), said.message, said.since, lost)
        limit = self.profile.stages[_stage(stage)].pending_deadline_seconds
        if self._looks_only:
            pass
        elif result is not None and not job["metadata"].get("deletionTimestamp"):
            self._delete(self._cluster(), job)
        elif result is None and (up := given_up(said, limit, _now())):
            of.close(*up)
            self._delete(self._cluster(), job)
        place = self._live_log and self._live_log(run_id, stage, attempt)
        self._listening.to(said, self._cluster(), self._mirror(run_id), place)
        lost = said.state == "unreachable"
        return Running(self._handle(job), _pods(pods), said.message, said.since, lost)

    def _ended(
        self, of: AttemptRecords, result: StageResult, job: Object | None, pods: list[Object]
    ) -> Ended:
        profile = self.profile.stages[_stage(of.paths.stage)]
        moment = _now()
        full = self._accounts.counted(of.paths, of.with_saved(result), profile, moment)
        if job is not None:
            full = replace(full, handle=self._handle(job))
        if result.closed_by is None and result.exit_code and result.oom_kills and pods:
            full = replace(full, message=out_of_memory(pods[-1]))
        return Ended(full, ran(result.pod, pods))

    def _is_news(self, found: Running) -> bool:
        fresh = {pod.uid for pod in found.pods} - self._told
        self._told |= fresh
        return bool(fresh)

    def _parts(
        self, seen: Seen, run_id: str, stage: str, attempt: int
    ) -> tuple[Object | None, list[Object]]:
        """The attempt's Job, and its pods."""

        def is_ours(found: Object) -> bool:
            said = found["metadata"].get("labels") or {}
            return (said.get(names.STAGE), said.get(names.ATTEMPT)) == (stage, str(attempt))

        job, pods = next(filter(is_ours, seen.jobs), None), [*filter(is_ours, seen.pods)]
        of = self._of(run_id, stage, attempt)
        self._accounts.saw(of.paths, job, pods, _now())
        self._accounts.watched(of.paths, seen.restarts)
        return job, pods

    # --- inside ---

    def _of(self, run_id: str, stage: str, attempt: int) -> AttemptRecords:
        return AttemptRecords(self.store, AttemptPaths(self.home, run_id, stage, attempt))

    def _cluster(self) -> Client:
        if self._client is None:
            with translated():
                self._client = self._connect()
        return self._client

    def _mirror(self, run_id: str) -> Mirror:
        if run_id not in self._mirrors:
            start = names.name_start(run_id)
            selector = names.selector(self.project, run_id)
            made = Mirror(self._cluster(), selector, lambda name: name.startswith(start))
            made.open()
            self._mirrors[run_id] = made
        return self._mirrors[run_id]

    def _handle(self, job: Object) -> Handle:
        about = job["metadata"]
        return Handle(
            namespace=about.get("namespace") or self._cluster().namespace,
            job_name=about["name"],
            job_uid=about["uid"],
            task_digest=(about.get("annotations") or {}).get(names.TASK_DIGEST),
        )

    def _delete(self, client: Client, job: Object) -> None:
        asked(lambda: client.delete_job(job["metadata"]["name"], job["metadata"]["uid"]))


def _delete_pod(client: Client, pod: Object, *, at_once: bool = False) -> None:
    """Tell it to end, unless it was told; ``at_once`` as if it were gone."""
    about = pod["metadata"]
    if at_once or not about.get("deletionTimestamp"):
        asked(lambda: client.delete_pod(about["name"], about["uid"], at_once=at_once))


def _without_result(said: Outcome) -> Observation:
    if said.state == "absent":
        return NotStarted("its Job is gone, and it left no result")
    if said.state == "completed":
        return Lost("its pod ended well and left no result", "outputs")
    return Lost(said.message or "its Job ended without a result", said.cause or "lost")


def _pods(pods: list[Object]) -> tuple[Pod, ...]:
    """Those whose command started, oldest first."""
    found = [seen_pod(one) for one in pods]
    started = sorted((one.started_at, one.uid, one) for one in found if one.started_at)
    return tuple(
        Pod(one.uid, one.node or "unknown", one.image_id, one.bound_at) for _, _, one in started
    )


def ran(by: Pod | None, pods: list[Object]) -> tuple[Pod, ...]:
    """Those whose command started, oldest first; and the one ``by`` which there is a result, though nobody saw it.

    A kubelet may tell of a pod's start long after the pod has committed its result.
    """
    started = _pods(pods)
    taken = {
        one.uid: Pod(one.uid, one.node, one.image_id, one.bound_at)
        for one in map(seen_pod, oldest_first(pods))
        if one.node
    }
    if by is None:
        return started or tuple(taken.values())[-1:]
    if by.uid in {one.uid for one in started}:
        return started
    return (*started, taken.get(by.uid, by))


def _stage(name: str) -> StageName:
    return name  # type: ignore[return-value]


def _now() -> datetime:
    return clock.parse_time(clock.now())
