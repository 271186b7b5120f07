"""Where the time of an attempt went, as the API says it: whole seconds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from k8s.containers import COMMAND
from k8s.pods import condition, oldest_first, seen

__all__ = ["Phases", "gpus", "phases"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of an attempt's newest pod before its command; None where that did not come to pass.

    ``queued``: from the Job to its pod; ``scheduled``: until a node had it; ``pulling``: until the command started,
    what it needs being fetched in it.
    """

    queued: float | None = None
    scheduled: float | None = None
    pulling: float | None = None


def phases(job: Object | None, pods: Sequence[Object]) -> Phases:
    """Of the newest of ``pods``."""
    if not pods:
        return Phases()
    first, last = oldest_first(pods)[0], oldest_first(pods)[-1]
    made = last["metadata"].get("creationTimestamp")
    wanted = (job or {}).get("metadata", {}).get("creationTimestamp") if first is last else made
    bound = condition(last, "PodScheduled")
    bound_at = bound.get("lastTransitionTime") if bound and bound["status"] == "True" else None
    started = seen(last, COMMAND).started_at
    return Phases(_between(wanted, made), _between(made, bound_at), _between(bound_at, started))


def gpus(job: Object | None, resource: str) -> int:
    """How many of ``resource`` the command of ``job`` asks for."""
    spec = (((job or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in spec.get("containers") or ():
        if container["name"] == COMMAND:
            limits = (container.get("resources") or {}).get("limits") or {}
            return int(limits.get(resource) or 0)
    return 0


def _between(begin: str | None, end: str | None) -> float | None:
    if not begin or not end:
        return None
    return max((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds(), 0.0)
