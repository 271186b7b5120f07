"""What the API server was asked for a run, and how soon: by its own audit log, beside the store's times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.rig.k8s import Cluster

__all__ = ["asked", "created", "gaps", "settled"]


def asked(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Each request about ``namespace`` that was answered and is no watch, but those of the cluster's own parts."""
    return [
        one
        for one in cluster.audited()
        if (one.get("objectRef") or {}).get("namespace") == namespace
        and one["stage"] == "ResponseComplete"
        and one["verb"] != "watch"
        and not one["user"]["username"].startswith("system:")
        and "kubectl" not in one.get("userAgent", "")
    ]


def created(calls: Iterable[dict[str, Any]]) -> dict[str, float]:
    """When each Job's creation came in, by its name."""
    return {
        one["objectRef"]["name"]: _moment(one["requestReceivedTimestamp"])
        for one in calls
        if (one["verb"], one["objectRef"].get("resource")) == ("create", "jobs")
        and "name" in one["objectRef"]
    }


def settled(cluster: Cluster, namespace: str) -> dict[str, float]:
    """When the Job controller said its last word of each Job, that it has ended, by the Job's name."""
    return {
        one["objectRef"]["name"]: _moment(one["requestReceivedTimestamp"])
        for one in cluster.audited()
        if one["stage"] == "ResponseComplete"
        and one["user"]["username"].endswith(":job-controller")
        and (one.get("objectRef") or {}).get("namespace") == namespace
        and (one["objectRef"]["resource"], one["objectRef"].get("subresource"))
        == ("jobs", "status")
    }


def gaps(
    store: Path, events: Iterable[dict[str, Any]], made: dict[str, float]
) -> Iterator[tuple[str, float]]:
    """(stage, seconds from the result before it, as ``store`` has it, to the creation of its Job), in order."""
    intents = [e["data"] | {"run": e["stream"]} for e in events if e["type"] == "StageIntended"]
    for before, after in itertools.pairwise(intents):
        place = before["run"].replace("run/", "runs/", 1)
        result = store / place / before["stage"] / str(before["attempt"]) / "result.json"
        yield after["stage"], made[after["job_name"]] - result.stat().st_mtime


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
