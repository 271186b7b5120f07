"""One pod, read: where it is, what it waits for, why it ended. Pure.

A pod is what the API says, a dict in its own camelCase. What ended it is looked for in an order that matters: a
disruption and the pod's own reason precede an exit code, which then is only what the command made of being told to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from k8s.containers import COLLECT, COMMAND, FETCH
from k8s.names import STAGE
from k8s.wrapper import TERMINATED, UNCOLLECTED
from ledger.events import Cause

__all__ = [
    "PodSeen",
    "Verdict",
    "bound_at",
    "condition",
    "container_state",
    "crashing",
    "disruption",
    "is_over",
    "last_line",
    "last_words",
    "oldest_first",
    "out_of_memory",
    "seen",
    "statuses",
    "verdict",
    "verdict_of_code",
]

Object = Mapping[str, Any]

#: A condition DisruptionTarget's reason, in words; the API's own message follows some of them.
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "sent away from its node, which was tainted or does not answer",
    "EvictionByEvictionAPI": "evicted, as when its node is drained",
    "DeletionByPodGC": "deleted since its node is gone",
    "TerminationByKubelet": "ended by its node",
}
#: A pod's own reason that says: the node took it and could not start it, or lost it.
_REFUSALS: Final = (
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "Preempting",
    "NodeShutdown",
    "Shutdown",
    "Terminated",
)
_NOT_COLLECTED: Final = "its outputs were not collected in time"
#: 128 + SIGKILL.
_KILLED: Final = 137
_NO_BASH: Final = '"bash"'


@dataclass(frozen=True, slots=True)
class PodSeen:
    """What the books keep of a pod, times RFC 3339.

    ``bound_at``: when a node took it; ``started_at``: when its command's container started; each None before.
    """

    name: str
    uid: str
    node: str | None
    image_id: str | None
    started_at: str | None
    bound_at: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a pod ended without success. ``exit_code`` is the command's own, where there is one that counts.

    ``replaced``: the Job makes another pod in its place, within the attempt.
    """

    cause: Cause
    message: str
    exit_code: int | None = None
    replaced: bool = False


#: Without a disruption: somebody deleted it. The Job's own rule for TERMINATED replaces it.
_TOLD: Final = Verdict("disrupted", "its pod was told to end", replaced=True)


def seen(pod: Object, command: str = COMMAND) -> PodSeen:
    about, status = pod["metadata"], _status_of(pod, command)
    state = status.get("state") or {}
    started = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return PodSeen(
        name=about["name"],
        uid=about["uid"],
        node=(pod.get("spec") or {}).get("nodeName"),
        image_id=status.get("imageID") or None,
        started_at=started,
        bound_at=bound_at(pod),
    )


def bound_at(pod: Object) -> str | None:
    """When a node took it, RFC 3339; None before."""
    said = condition(pod, "PodScheduled")
    return said.get("lastTransitionTime") if said and said["status"] == "True" else None


def is_over(pod: Object) -> bool:
    """Whether nothing of it runs any more."""
    return _phase(pod) in ("Succeeded", "Failed")


def condition(pod: Object, kind: str) -> Object | None:
    """Its condition of this kind, true or not."""
    found = (pod.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), None)


def statuses(pod: Object) -> Iterator[Object]:
    """The status of each container, in the order in which they start."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def container_state(pod: Object, name: str) -> tuple[str, Object]:
    """(waiting, running, terminated or unknown; what is said of it)."""
    state = _status_of(pod, name).get("state") or {}
    return next(((kind, said or {}) for kind, said in state.items()), ("unknown", {}))


def last_words(pod: Object, command: str = COMMAND) -> dict[str, Any] | None:
    """What the wrapper left as the container's message; None if it did not come to that."""
    kind, said = container_state(pod, command)
    if kind != "terminated":
        return None
    try:
        words = json.loads(said.get("message") or "")
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) and "ended" in words else None


def disruption(pod: Object) -> str | None:
    """In words what took the pod away, if Kubernetes did."""
    found = condition(pod, "DisruptionTarget")
    if not found or found["status"] != "True":
        return None
    reason, message = found.get("reason", ""), found.get("message", "")
    said = _DISRUPTIONS.get(reason, f"disrupted ({reason})")
    return f"{said}: {message}" if reason == "TerminationByKubelet" and message else said


def verdict(pod: Object, command: str = COMMAND) -> Verdict:
    """Why ``pod``, which is over without success, ended."""
    if said := disruption(pod):
        return Verdict("disrupted", f"its pod was {said}", replaced=True)
    return _by_reason(pod) or _by_fetch(pod) or _by_command(pod, command)


def _by_reason(pod: Object) -> Verdict | None:
    """What the pod's own reason says, before any exit code."""
    status = pod.get("status") or {}
    reason, message = status.get("reason") or "", (status.get("message") or "").strip()
    if reason == "Evicted":
        # Short of something the node is a disruption; this is a limit of the pod's own, and it would be met again.
        return Verdict("application", f"it was evicted for its own use of the disk: {message}")
    if reason == "DeadlineExceeded":
        return Verdict("timeout", "its pod ran longer than its deadline")
    if reason == "NodeLost":
        return Verdict("lost", f"its node was lost: {message}")
    if reason in _REFUSALS or reason.startswith("OutOf"):
        return Verdict("lost", f"its node refused it ({reason}): {message}")
    return None


def _by_fetch(pod: Object) -> Verdict | None:
    kind, said = container_state(pod, FETCH)
    if kind != "terminated" or not said.get("exitCode"):
        return None
    if said["exitCode"] == TERMINATED:
        return _TOLD
    if said.get("reason") == "OOMKilled":
        return Verdict("storage", "fetching met its memory limit: raise agent.resources.memory")
    words = last_line(said.get("message"))
    return Verdict(
        "storage", f"what it needs could not be fetched (exit {said['exitCode']}){words}"
    )


def _by_command(pod: Object, command: str) -> Verdict:
    kind, said = container_state(pod, command)
    if kind != "terminated":
        return Verdict("lost", "its pod ended before its command began")
    code, reason = int(said.get("exitCode", 0)), said.get("reason") or ""
    message = (said.get("message") or "").strip()
    words = last_words(pod, command)
    if reason in ("StartError", "ContainerCannotRun"):
        what = (
            "its image has no bash" if _NO_BASH in message else f"its image cannot run: {message}"
        )
        return Verdict("image", what)
    if reason == "ContainerStatusUnknown":
        return Verdict("lost", "its node does not know any more what became of it")
    if words is not None:
        return _by_words(pod, command, code, reason, words)
    if reason == "OOMKilled":
        return Verdict("out_of_memory", out_of_memory(pod, command))
    if code == TERMINATED and "deletionTimestamp" in pod["metadata"]:
        return _TOLD
    return verdict_of_code(code)


def verdict_of_code(code: int) -> Verdict:
    """Nothing is known but the exit code, which the wrapper has no last words to."""
    if code == _KILLED:
        return Verdict("lost", "its container was killed")
    if code == UNCOLLECTED:
        return Verdict("outputs", _NOT_COLLECTED)
    return Verdict("application", f"the command ended with exit code {code}", code)


def _by_words(pod: Object, command: str, code: int, reason: str, words: Object) -> Verdict:
    """The wrapper lived to say how it was."""
    own, ended = words.get("exit_code"), words["ended"]
    own = own if isinstance(own, int) else None
    if ended == "terminated" and code == TERMINATED:
        return _TOLD
    if ended == "unstarted":
        return Verdict("storage", "its log could not be written, so it was not started")
    if own and (words.get("oom_kills") or reason == "OOMKilled"):
        return Verdict("out_of_memory", out_of_memory(pod, command), own)
    if ended == "stopped":
        return Verdict("lost", "its attempt was closed while it ran")
    if own:
        return Verdict("application", f"the command ended with exit code {own}", own)
    return Verdict("outputs", _NOT_COLLECTED)


def out_of_memory(pod: Object, command: str = COMMAND) -> str:
    """In words for the command of ``pod``, and what to change."""
    limit = _memory_limit(pod, command)
    stage = (pod["metadata"].get("labels") or {}).get(STAGE) or "its stage"
    if limit:
        return (
            f"it met its memory limit of {limit}: raise resources.memory of {stage} in the profile"
        )
    return f"its node ran out of memory: give {stage} resources.memory in the profile"


def _memory_limit(pod: Object, name: str) -> str | None:
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container["name"] == name:
            limits = (container.get("resources") or {}).get("limits") or {}
            return limits.get("memory")
    return None


def crashing(pod: Object, command: str = COMMAND) -> str | None:
    """In words, which sidecar ends again and again, if one does."""
    for one in statuses(pod):
        if one["name"] in (FETCH, command) or not one.get("restartCount"):
            continue
        ends = [(one.get(key) or {}).get("terminated") for key in ("state", "lastState")]
        said = next((end for end in ends if end), None)
        if said and said.get("exitCode"):
            who = "the collector" if one["name"] == COLLECT else one["name"]
            times = one["restartCount"] + ("terminated" in (one.get("state") or {}))
            why = (
                "it met its memory limit"
                if said.get("reason") == "OOMKilled"
                else f"exit {said['exitCode']}"
            )
            return f"{who} ended {times} times ({why}){last_line(said.get('message'))}"
    return None


def last_line(message: str | None) -> str:
    """The last line with anything in it, after a colon; nothing where there is none."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return f": {lines[-1][:500]}" if lines else ""


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _status_of(pod: Object, name: str) -> Object:
    return next((one for one in statuses(pod) if one["name"] == name), {})


def oldest_first(pods: Sequence[Object]) -> list[Object]:
    """By when they were made."""
    return sorted(
        pods,
        key=lambda one: (one["metadata"].get("creationTimestamp") or "", one["metadata"]["name"]),
    )
