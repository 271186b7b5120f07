"""From what the API says of a Job, its pods and the events about them to what that means. Pure.

One function, ``outcome``; its table of cases is tests/k8s, each recorded from a real cluster or written after one.

It decides nothing that needs the moment: ``since`` says how long something has been so, and whoever has a clock
compares it with the profile's deadlines. ``cause`` and ``certain`` say what it would be called if it were given up
now, and that waiting helps nothing. It never says that a stage succeeded: a committed result alone does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from k8s.containers import COMMAND
from k8s.names import QUEUE
from k8s.pods import (
    Object,
    PodSeen,
    Verdict,
    condition,
    container_state,
    disruption,
    is_over,
    oldest_first,
    seen,
    verdict,
    verdict_of_code,
)
from k8s.waiting import Waiting, about, alive, blocked, refusals
from ledger.events import Cause

__all__ = ["Outcome", "State", "has_ended", "outcome", "unreachable"]

State = Literal[
    "absent",
    "queued",
    "blocked",
    "pending",
    "unschedulable",
    "pulling",
    "image_error",
    "starting",
    "stuck",
    "fetching",
    "running",
    "collecting",
    "leaving",
    "unreachable",
    "completed",
    "failed",
]
#: absent         there is no Job: not made yet, or deleted
#: queued         suspended: its queue has not let it go, or has stopped it
#: blocked        pods cannot be made: quota, policy, service account
#: pending        a pod is about to be made, or looked at by the scheduler
#: unschedulable  no node can take the pod now
#: pulling        an image is being pulled
#: image_error    an image cannot be had
#: starting       a node has it, and its containers are being started
#: stuck          … and something keeps them from starting: a Secret, a volume, a sidecar
#: fetching       our init container works
#: running        the command's container runs: the command, or the wait for the collection
#: collecting     the command's container has ended, the pod not yet
#: leaving        the pod was told to end and is not gone
#: unreachable    the pod's node does not answer: nobody knows whether it runs
#: completed      the command's container said 0
#: failed         ``cause`` says why


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a Job is doing, or what became of it.

    ``message`` in words, for a person: empty only where nothing is waited for. ``since`` is RFC 3339, as the API
    says it, None where it does not. ``exit_code`` is the command's own. ``gone``: nothing of the attempt runs, nor
    will by itself. ``disruptions`` are the pods of ``pods`` that were taken away, in words, oldest first.
    """

    state: State
    message: str = ""
    since: str | None = None
    cause: Cause | None = None
    certain: bool = False
    exit_code: int | None = None
    pod: PodSeen | None = None
    gone: bool = False
    disruptions: tuple[str, ...] = ()


def outcome(
    job: Object | None,
    pods: Sequence[Object],
    events: Sequence[Object] = (),
    *,
    command: str = COMMAND,
) -> Outcome:
    """What ``job``, None where there is none, and its ``pods`` come to; ``events`` about any of them."""
    ordered = oldest_first(pods)
    found = _of_job(job, ordered, events, command)
    return replace(
        found,
        pod=found.pod or (seen(ordered[-1], command) if ordered else None),
        disruptions=tuple(said for pod in ordered if (said := disruption(pod))),
    )


def has_ended(job: Object) -> bool:
    """Whether the Job itself says that it is over, one way or the other."""
    return any(_condition(job, kind) for kind in ("Complete", "Failed"))


def _of_job(
    job: Object | None, pods: Sequence[Object], events: Sequence[Object], command: str
) -> Outcome:
    left = [pod for pod in pods if not is_over(pod)]
    for pod in left:
        if said := unreachable(pod, events, command):
            return said
    if job is None:
        if left:
            return _leaving(left[-1], "its Job is deleted, and it is being ended")
        return Outcome("absent", gone=True)
    status = job.get("status") or {}
    gone = not left and not status.get("terminating")
    if end := _condition(job, "Complete") or _condition(job, "SuccessCriteriaMet"):
        words = "" if gone else "its pod has done its work and is ending"
        return Outcome("completed", words, end.get("lastTransitionTime"), gone=gone)
    if end := _condition(job, "Failed") or _condition(job, "FailureTarget"):
        final = _condition(job, "Failed") is not None
        return _failed(job, end, pods, command, gone=gone and final)
    if job["metadata"].get("deletionTimestamp"):
        return Outcome("leaving", "its Job is being deleted", job["metadata"]["deletionTimestamp"])
    if (job.get("spec") or {}).get("suspend"):
        return _suspended(job, left)
    return _of_pods(job, pods, left, events, command)


def _of_pods(
    job: Object,
    pods: Sequence[Object],
    left: Sequence[Object],
    events: Sequence[Object],
    command: str,
) -> Outcome:
    if left:
        return _of_pod(left[-1], events, command)
    if refused := refusals(job, pods, events):
        return _waits(blocked(refused))
    if not pods:
        return Outcome(
            "pending", "its pod is about to be made", (job.get("status") or {}).get("startTime")
        )
    last = pods[-1]
    if (last.get("status") or {}).get("phase") == "Succeeded":
        return Outcome("completed", gone=True)
    why = verdict(last, command)
    if why.replaced:
        return Outcome("pending", f"{why.message}; another is about to be made")
    return _because(why, gone=True)


def _of_pod(pod: Object, events: Sequence[Object], command: str) -> Outcome:
    """A pod that is not over."""
    if pod["metadata"].get("deletionTimestamp"):
        said_why = disruption(pod)
        return _leaving(
            pod, f"its pod is being ended: {said_why}" if said_why else "its pod is being deleted"
        )
    return _waits(alive(pod, events, command))


def _waits(found: Waiting) -> Outcome:
    return Outcome(found.state, found.message, found.since, found.cause, found.certain)


def _suspended(job: Object, left: Sequence[Object]) -> Outcome:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    at = _condition(job, "Suspended")
    since = at.get("lastTransitionTime") if at else job["metadata"].get("creationTimestamp")
    if left:
        return _leaving(left[-1], "its Job was suspended, and its pod is being ended")
    if (job.get("status") or {}).get("startTime"):
        by = f"the queue {queue} stopped it" if queue else "it was suspended"
        return Outcome("queued", f"{by}; it goes on in the same attempt when it is let go", since)
    return Outcome(
        "queued", f"it waits in the queue {queue}" if queue else "it is suspended", since
    )


def _leaving(pod: Object, message: str) -> Outcome:
    return Outcome("leaving", message, pod["metadata"].get("deletionTimestamp"))


def unreachable(pod: Object, events: Sequence[Object], command: str = COMMAND) -> Outcome | None:
    """A pod that is said to run, on a node that nobody hears of; None for any other."""
    node = (pod.get("spec") or {}).get("nodeName")
    target, ready = condition(pod, "DisruptionTarget"), condition(pod, "Ready")
    lost = (pod.get("status") or {}).get("reason") == "NodeLost"
    sent_away = target is not None and target.get("reason") == "DeletionByTaintManager"
    silent = sent_away or any(one["reason"] == "NodeNotReady" for one in about(pod, events))
    # A node that answers would say what became of the containers; of one that does not, others say "not ready".
    unready = ready is not None and ready["status"] != "True"
    if not lost and not (silent and unready and container_state(pod, command)[0] == "running"):
        return None
    said = target or ready or {}
    return Outcome(
        "unreachable", f"its node {node} does not answer", said.get("lastTransitionTime"), "lost"
    )


# --- an end ---

_EXIT_CODE: Final = re.compile(r"Container \S+ for pod [^/\s]+/(\S+) failed with exit code (\d+)")


def _failed(
    job: Object, end: Object, pods: Sequence[Object], command: str, *, gone: bool
) -> Outcome:
    reason, message = end.get("reason") or "", end.get("message") or ""
    since = end.get("lastTransitionTime")
    if reason == "DeadlineExceeded":
        limit = (job.get("spec") or {}).get("activeDeadlineSeconds")
        words = f"its Job was not done within {limit} s, waiting included"
        return Outcome("failed", words, since, "timeout", gone=gone)
    failed = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Failed"]
    found = _EXIT_CODE.search(message)
    if found:
        failed = [pod for pod in failed if pod["metadata"]["name"] == found[1]]
    if failed:
        return _because(
            verdict(failed[-1], command), gone=gone, since=since, pod=seen(failed[-1], command)
        )
    if found:
        return _because(verdict_of_code(int(found[2])), gone=gone, since=since)
    words = f"its pod is gone, and its Job only says: {message or reason}"
    return Outcome("failed", words, since, "lost", gone=gone)


def _because(
    why: Verdict, *, gone: bool, since: str | None = None, pod: PodSeen | None = None
) -> Outcome:
    return Outcome("failed", why.message, since, why.cause, True, why.exit_code, pod, gone)


def _condition(job: Object, kind: str) -> Mapping[str, Any] | None:
    found = (job.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind and one["status"] == "True"), None)
