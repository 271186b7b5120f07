"""Where the time of an attempt went, and what its pods held of the cluster. Pure.

Moments are the API's, whole seconds. A pod has its node and its GPUs from when the scheduler bound it until all of its
containers have ended; one that went without anybody seeing its end had them until it was missed, or its successor was
made: a Job makes the next pod only when the one before is over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from k8s.containers import COMMAND
from k8s.pods import bound_at, condition, is_over, oldest_first, seen, statuses
from k8s.quantity import amount

__all__ = ["Asked", "Spent", "asked", "spent"]

Object = Mapping[str, Any]
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of an attempt, by what it did in them; None where that did not come to pass.

    ``queued``: there was no pod; ``scheduled``: a pod without a node; ``pulling``: on a node, its command not started;
    ``running_before``: the commands of all pods but the newest; ``running``: the newest one's, the wait for its outputs
    included; ``collecting``: what came after that. ``held``: a node had one of its pods. ``since``: RFC 3339, from when
    on all is known; pods of the attempt that were gone by then are in none of this.
    """

    queued: float | None = None
    scheduled: float | None = None
    pulling: float | None = None
    running_before: float = 0.0
    running: float | None = None
    collecting: float | None = None
    held: float = 0.0
    pods: frozenset[str] = frozenset()
    since: str | None = None


def spent(
    job: Object | None,
    pods: Sequence[Object],
    now: datetime,
    missed: Mapping[str, datetime] = MappingProxyType({}),
) -> Spent:
    """Of an attempt that is over, or is up to ``now``.

    ``pods``: all that were ever seen, as they were seen last; ``missed``: when those that are gone were, by uid.
    """
    ordered = oldest_first(pods)
    wanted = _moment(((job or {}).get("metadata") or {}).get("creationTimestamp"))
    if not ordered:
        return Spent(queued=_between(wanted, now), since=_text(now))
    parts: dict[str, float] = {}
    commands: list[float | None] = []
    before = wanted
    for at, pod in enumerate(ordered):
        made, bound = _moment(pod["metadata"].get("creationTimestamp")) or now, bound_at(pod)
        after = [one["metadata"].get("creationTimestamp") for one in ordered[at + 1 : at + 2]]
        latest = [missed.get(pod["metadata"]["uid"]), *map(_moment, after), now]
        end = _end(pod) or min(one for one in latest if one is not None)
        took, began = _moment(bound), _moment(seen(pod, COMMAND).started_at)
        finished = (_finished(pod, COMMAND) or end) if began else None
        _add(parts, "queued", _between(before, made))
        _add(parts, "scheduled", _between(made, took or end))
        _add(parts, "pulling", _between(took, began or end))
        _add(parts, "collecting", _between(finished, end))
        _add(parts, "held", _between(took, end))
        commands.append(_between(began, finished))
        before = end
    return Spent(
        queued=parts.get("queued"),
        scheduled=parts.get("scheduled"),
        pulling=parts.get("pulling"),
        running_before=sum(one or 0.0 for one in commands[:-1]),
        running=commands[-1],
        collecting=parts.get("collecting"),
        held=parts.get("held", 0.0),
        pods=frozenset(pod["metadata"]["uid"] for pod in ordered),
        since=ordered[0]["metadata"].get("creationTimestamp"),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pod keeps from others as long as it has a node: GPUs by resource name, CPUs, GiB of memory."""

    gpus: Mapping[str, int]
    cpu: float = 0.0
    memory: float = 0.0


def asked(
    job: Object | None, pods: Sequence[Object], gpu_resources: Collection[str]
) -> Asked | None:
    """Of the pods of one attempt, all containers and services together; None where nothing of it was seen.

    A pod says it better than its Job: a namespace may have filled in what was left open.
    """
    template = ((job or {}).get("spec") or {}).get("template") or {}
    spec = next((pod["spec"] for pod in pods if pod.get("spec")), template.get("spec"))
    if not spec:
        return None
    inits = spec.get("initContainers") or ()
    beside = [one for one in inits if one.get("restartPolicy") == "Always"]
    together = [*(spec.get("containers") or ()), *beside]
    # What runs alone before them has its share first; the scheduler takes the larger.
    alone = [one for one in inits if one.get("restartPolicy") != "Always"]

    def most(resource: str) -> float:
        first = max((_request(one, resource) for one in alone), default=0.0)
        return max(sum(_request(one, resource) for one in together), first)

    counts = {name: int(most(name)) for name in sorted(gpu_resources)}
    return Asked(
        {n: count for n, count in counts.items() if count}, most("cpu"), most("memory") / _GIB
    )


def _request(container: Object, resource: str) -> float:
    given = container.get("resources") or {}
    requests, limits = given.get("requests") or {}, given.get("limits") or {}
    found = requests.get(resource) or limits.get(resource)
    return float(amount(str(found))) if found else 0.0


def _end(pod: Object) -> datetime | None:
    """When all of it had ended; None while something runs, and where nobody says."""
    if not is_over(pod):
        return None
    ends = [_finished(pod, one["name"]) for one in statuses(pod)]
    known = [end for end in ends if end is not None]
    said = (condition(pod, "DisruptionTarget") or {}).get("lastTransitionTime")
    return max(known) if known else _moment(said)


def _finished(pod: Object, name: str) -> datetime | None:
    for one in statuses(pod):
        if one["name"] == name:
            ended = (one.get("state") or {}).get("terminated") or {}
            return _moment(ended.get("finishedAt"))
    return None


def _add(parts: dict[str, float], name: str, seconds: float | None) -> None:
    if seconds is not None:
        parts[name] = parts.get(name, 0.0) + seconds


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    if begin is None or end is None:
        return None
    return max((end - begin).total_seconds(), 0.0)
