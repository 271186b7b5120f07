"""What a Job waits for: a pod that may not be made, or one that is there and not over. Pure.

The scheduler, the kubelet and the quota say it in words of their own; here it is one line for a researcher.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from k8s.containers import COLLECT, FETCH
from k8s.pods import Object, condition, container_state, crashing, statuses
from k8s.quantity import amount
from ledger.events import Cause

__all__ = ["Waiting", "about", "alive", "blocked", "refusals"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """``state`` as in ``outcome.State``; ``cause`` if it were given up now; ``certain``: waiting helps nothing."""

    state: Any
    message: str = ""
    since: str | None = None
    cause: Cause | None = None
    certain: bool = False


# --- no pod can be made ---

_FORBIDDEN: Final = re.compile(r'Error creating: (?:pods? "[^"]*" is forbidden: )?')
_QUOTA: Final = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>.*), used: (?P<used>.*), limited: (?P<limit>.*)"
)


def refusals(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> list[Object]:
    """The events that say that no pod could be made, since the last one was; oldest first."""
    last = max((_time(pod["metadata"].get("creationTimestamp")) for pod in pods), default=0.0)
    found = [one for one in about(job, events) if one["reason"] == "FailedCreate"]
    return [one for one in found if _event_time(one) >= last]


def blocked(found: Sequence[Object]) -> Waiting:
    """Why, by the last of ``found``."""
    message = _FORBIDDEN.sub("", found[-1]["message"], count=1)
    since = found[0].get("firstTimestamp") or found[0].get("eventTime")
    if quota := _QUOTA.search(message):
        return _over_quota(quota, since)
    if "violates PodSecurity" in message:
        words = f"the namespace refuses such pods: {message}"
        return Waiting("blocked", words, since, "unschedulable", certain=True)
    return Waiting("blocked", f"its pod cannot be made: {message}", since, "unschedulable")


def _over_quota(said: re.Match[str], since: str | None) -> Waiting:
    asked, used, limit = (_amounts(said[part]) for part in ("asked", "used", "limit"))
    short = [name for name in asked if _more(asked[name], used.get(name, "0"), limit.get(name))]
    never = [name for name in asked if _more(asked[name], "0", limit.get(name))]
    name = (never or short or list(asked))[0]
    words = f"asks for {asked[name]} {name}, and the quota {said['name']} allows {limit.get(name)}"
    if not never:
        words += f", of which {used.get(name)} are used"
    return Waiting("blocked", words, since, "unschedulable", certain=bool(never))


def _amounts(text: str) -> dict[str, str]:
    parts = (part.partition("=") for part in text.split(","))
    return {name.strip(): value.strip() for name, _, value in parts}


def _more(asked: str, used: str, limit: str | None) -> bool:
    try:
        return limit is not None and amount(asked) + amount(used) > amount(limit)
    except ValueError:
        return False


# --- a pod that is not over ---


def alive(pod: Object, events: Sequence[Object], command: str) -> Waiting:
    """What a pod does that was not told to end."""
    scheduled = condition(pod, "PodScheduled")
    if not scheduled or scheduled["status"] != "True":
        return _unscheduled(pod, scheduled)
    kind, said = container_state(pod, command)
    if kind == "running":
        return Waiting("running", crashing(pod, command) or "", said.get("startedAt"))
    if kind == "terminated":
        return Waiting("collecting", "its outputs are being stored", said.get("finishedAt"))
    since, own = scheduled.get("lastTransitionTime"), about(pod, events)
    for status in statuses(pod):
        if found := _held_up(pod, status, own, since):
            return found
    if words := crashing(pod, command):
        return Waiting("stuck", words, since, "unschedulable")
    return _starting(pod, own, since)


def _unscheduled(pod: Object, scheduled: Object | None) -> Waiting:
    since = (scheduled or {}).get("lastTransitionTime") or pod["metadata"].get("creationTimestamp")
    reason = (scheduled or {}).get("reason")
    if reason == "SchedulingGated":
        return Waiting("queued", "is held by a scheduling gate", since)
    if scheduled and reason == "Unschedulable":
        words = _scheduler(scheduled.get("message") or "")
        return Waiting("unschedulable", words, since, "unschedulable")
    return Waiting("pending", "waits for the scheduler", since)


_NODES: Final = re.compile(
    r"0/(\d+) nodes are available: (.*?)(?:\. (?:no new claims|preemption).*)?\.?", re.S
)
_PART: Final = re.compile(r"(\d+) (.*)", re.S)
#: What the scheduler says of a number of nodes, and what we do.
_SAID: Final[Sequence[tuple[re.Pattern[str], str]]] = (
    (re.compile(r"Insufficient (\S+)"), r"too little \1 free"),
    (re.compile(r"Too many pods"), "no room for one more pod"),
    (re.compile(r"node\(s\) had untolerated taint (\{.*\})"), r"a taint that it does not tolerate, \1"),
    # From 1.34 on it does not say which.
    (re.compile(r"node\(s\) had untolerated taint\(s\)"), "a taint that it does not tolerate"),
    (re.compile(r"node\(s\) were unschedulable"), "been cordoned"),
    (
        re.compile(r"node\(s\) didn't match Pod's node affinity/selector"),
        "other labels than node_selector and affinity ask for",
    ),
)  # fmt: skip


def _scheduler(message: str) -> str:
    """``of 3 nodes, 1 has too little nvidia.com/gpu free, 2 have been cordoned``; else as the scheduler says it."""
    found = _NODES.fullmatch(message.strip())
    if not found or found[1] == "0":
        return "there is no node" if found else message
    parts = re.split(r", (?=\d+ )", found[2])
    counted = [_PART.fullmatch(part) for part in parts]
    if not all(counted):
        return f"of {found[1]} nodes, none: {found[2]}"
    return f"of {found[1]} node{'s' if found[1] != '1' else ''}, " + ", ".join(
        _of_nodes(one[1], one[2]) for one in counted if one
    )


def _of_nodes(count: str, said: str) -> str:
    for pattern, words in _SAID:
        if match := pattern.fullmatch(said):
            return f"{count} {'has' if count == '1' else 'have'} {match.expand(words)}"
    return f"{count} {said}"


#: Why an image cannot be had: reasons of a waiting container, and whether waiting helps nothing.
_IMAGE: Final[Mapping[str, bool]] = {
    "ErrImagePull": False,
    "ImagePullBackOff": False,
    "ImageInspectError": False,
    "RegistryUnavailable": False,
    "SignatureValidationFailed": False,
    "ErrImageNeverPull": True,
    "InvalidImageName": True,
}
_USUAL: Final = ("", "ContainerCreating", "PodInitializing")
_PREFIXES: Final = re.compile(
    r'Back-off pulling image "[^"]*"(?:: |$)|ErrImagePull: |rpc error: code = \w+ desc = |'
    r'Failed to pull image "[^"]*": |failed to pull and unpack image "[^"]*": |'
    r'failed to resolve reference "[^"]*": |Failed to apply default image tag "[^"]*": '
)


def _held_up(
    pod: Object, status: Object, events: Sequence[Object], since: str | None
) -> Waiting | None:
    """What keeps one container from starting, if it is waiting for no other."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason") or "", (waiting.get("message") or "").strip()
    name = status["name"]
    if reason in _IMAGE:
        failed = [one for one in events if one["message"].startswith("Failed to pull image")]
        said = failed[-1]["message"] if failed else reason
        detail = _PREFIXES.sub("", message) or _PREFIXES.sub("", said)
        words = f"the image {_image(pod, name)} cannot be had: {detail}"
        if failed:  # another image may have taken its time before
            since = failed[0].get("firstTimestamp") or failed[0].get("eventTime") or since
        return Waiting("image_error", words, since, "image", _IMAGE[reason])
    if reason in (*_USUAL, "CrashLoopBackOff"):
        return None
    words = f"{_who(name)} cannot be started: {message or reason}"
    return Waiting("stuck", words, since, "unschedulable")


#: Events that say why containers are not being made yet.
_TROUBLE: Final = (
    "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "NetworkNotReady",
)  # fmt: skip


def _starting(pod: Object, events: Sequence[Object], since: str | None) -> Waiting:
    if container_state(pod, FETCH)[0] == "running":
        return Waiting("fetching", "its code and inputs are being fetched", since)
    if image := _being_pulled(events):
        return Waiting("pulling", f"the image {image} is being pulled", since)
    for one in statuses(pod):
        if (one.get("state") or {}).get("running") and not one.get("started", True):
            return Waiting("starting", f"waits until {_who(one['name'])} is ready", since)
    trouble = [one for one in events if one["reason"] in _TROUBLE]
    if trouble:
        return Waiting("stuck", trouble[-1]["message"].strip(), since, "unschedulable")
    return Waiting("starting", "its containers are being started", since)


_PULL: Final = re.compile(r'(Pulling|Successfully pulled|Failed to pull) image "([^"]*)"')


def _being_pulled(events: Iterable[Object]) -> str | None:
    """The image whose pull has begun and not ended. Counted, since events of one second have no order."""
    under_way: dict[str, int] = {}
    for one in events:
        if found := _PULL.match(one["message"]):
            step = (one.get("count") or 1) * (1 if found[1] == "Pulling" else -1)
            under_way[found[2]] = under_way.get(found[2], 0) + step
    return next((image for image, count in under_way.items() if count > 0), None)


# --- parts ---


def about(thing: Object, events: Iterable[Object]) -> list[Object]:
    """Those about this very object, oldest first."""
    uid = thing["metadata"]["uid"]
    found = [one for one in events if one["involvedObject"].get("uid") == uid]
    return sorted(found, key=_event_time)


def _event_time(event: Object) -> float:
    series = (event.get("series") or {}).get("lastObservedTime")
    return _time(series or event.get("lastTimestamp") or event.get("eventTime"))


def _time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _image(pod: Object, name: str) -> str:
    spec = pod.get("spec") or {}
    for one in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        if one["name"] == name:
            return str(one["image"])
    return f"of {name}"


def _who(name: str) -> str:
    return {FETCH: "the fetch", COLLECT: "the collector"}.get(name, name)
