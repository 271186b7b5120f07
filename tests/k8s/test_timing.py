"""Where the time of an attempt went, and what its pods held: over all of its pods, those that are gone too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from k8s.timing import Asked, Spent, asked, spent
from tests.rig.recorded_cluster import recorded

_START = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return _START + timedelta(seconds=seconds)


def text(seconds: float) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


JOB = {"metadata": {"creationTimestamp": text(0)}}


def pod(
    uid: str,
    made: float,
    *,
    bound: float | None = None,
    began: float | None = None,
    finished: float | None = None,
    over: float | None = None,
) -> dict[str, Any]:
    """A pod of a command and its collector; ``over`` is when the collector ended."""
    conditions: list[dict[str, Any]] = []
    if bound is not None:
        said = {"type": "PodScheduled", "status": "True", "lastTransitionTime": text(bound)}
        conditions.append(said)
    state: dict[str, Any] = {}
    if began is not None:
        state = {"running": {"startedAt": text(began)}}
    if began is not None and finished is not None:
        state = {"terminated": {"startedAt": text(began), "finishedAt": text(finished)}}
    beside = {"terminated": {"finishedAt": text(over)}} if over is not None else {"running": {}}
    return {
        "metadata": {"name": uid, "uid": uid, "creationTimestamp": text(made)},
        "spec": {},
        "status": {
            "phase": "Failed" if over is not None else "Running",
            "conditions": conditions,
            "initContainerStatuses": [{"name": "collect", "state": beside}],
            "containerStatuses": [{"name": "command", "state": state}],
        },
    }


def test_one_pod() -> None:
    done = pod("a", 1, bound=41, began=50, finished=350, over=353)
    found = spent(JOB, [done], at(900))
    assert found == Spent(1, 40, 9, 0, 300, 3, 312, frozenset("a"), text(1))
    # While it runs, up to now.
    found = spent(JOB, [pod("a", 1, bound=41, began=50)], at(60))
    assert (found.running, found.collecting, found.held) == (10, 0, 19)


def test_a_pod_that_never_had_a_node_held_nothing() -> None:
    found = spent(JOB, [pod("a", 1)], at(61))
    assert (found.queued, found.scheduled, found.held) == (1, 60, 0)
    assert found.pulling is found.running is found.collecting is None


def test_without_a_pod_it_is_in_its_queue() -> None:
    assert spent(JOB, [], at(30)).queued == 30
    assert spent(None, [], at(30)) == Spent(since=at(30).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def test_every_pod_counts_and_the_time_between_them_is_queued() -> None:
    evicted = pod("a", 0, bound=1, began=11, finished=100, over=102)
    second = pod("b", 112, bound=113, began=115, finished=215, over=216)
    for pods in ([evicted, second], [second, evicted]):
        found = spent(JOB, pods, at(300))
        assert (found.queued, found.scheduled, found.pulling) == (10, 2, 12)
        assert (found.running_before, found.running, found.collecting) == (89, 100, 3)
        assert found.held == 101 + 103


@pytest.mark.parametrize(
    ("missed", "held"), [({}, 111), ({"a": at(60)}, 59), ({"a": at(200)}, 111)]
)
def test_a_pod_whose_end_nobody_saw_had_its_node_until_it_was_missed_or_replaced(
    missed: dict[str, datetime], held: float
) -> None:
    gone, second = pod("a", 0, bound=1, began=11), pod("b", 112)
    found = spent(JOB, [gone, second], at(300), missed)
    assert found.held == held
    assert found.running_before == held - 10


def test_one_that_was_taken_away_and_not_replaced_holds_nothing_while_its_job_is_suspended() -> (
    None
):
    found = spent(JOB, [pod("a", 0, bound=1, began=11)], at(4000), {"a": at(61)})
    assert (found.held, found.running) == (60, 50)


def test_clocks_that_differ_make_no_negative_time() -> None:
    found = spent(JOB, [pod("a", 1, bound=41, began=50)], at(-100))
    assert min(found.running or 0, found.held, found.queued or 0) == 0


@pytest.mark.parametrize(
    "name", ["succeeded", "out-of-memory", "exit-7", "preempted", "volume-limit"]
)
def test_what_a_cluster_said_adds_up(name: str) -> None:
    """No second is lost, and none counted twice."""
    case = recorded(name)
    [one] = case["pods"]
    found = spent(case["job"], case["pods"], at(99999))
    parts = (found.queued, found.scheduled, found.pulling, found.running, found.collecting)
    ends = [
        said["state"]["terminated"]["finishedAt"]
        for kind in ("initContainerStatuses", "containerStatuses")
        for said in one["status"].get(kind, ())
        if "terminated" in said["state"]
    ]
    began = datetime.fromisoformat(case["job"]["metadata"]["creationTimestamp"])
    whole = (datetime.fromisoformat(max(ends)) - began).total_seconds()
    assert sum(part or 0 for part in parts) == whole
    assert found.held == whole - (found.queued or 0) - (found.scheduled or 0)


def container(resources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": resources, **more}


def test_what_is_asked_for_is_of_all_containers_that_run_together() -> None:
    gpu = {"limits": {"nvidia.com/gpu": "2", "memory": "8Gi"}, "requests": {"cpu": "500m"}}
    beside = {"limits": {"nvidia.com/gpu": "1", "cpu": "1"}, "requests": {"memory": "512Mi"}}
    first = {"requests": {"cpu": "4", "memory": "1Gi"}}
    spec = {
        "initContainers": [container(first), container(beside, restartPolicy="Always")],
        "containers": [container(gpu)],
    }
    job = {"spec": {"template": {"spec": spec}}}
    wanted = Asked({"nvidia.com/gpu": 3}, 4.0, 8.5)
    assert asked(job, [], {"nvidia.com/gpu", "amd.com/gpu"}) == wanted
    # A namespace filled in what the Job left open.
    filled = {"spec": {"containers": [container({"requests": {"cpu": "2"}})]}}
    assert asked(job, [filled], {"nvidia.com/gpu"}) == Asked({}, 2.0, 0.0)
    assert asked(None, [], {"nvidia.com/gpu"}) is None


def test_a_recorded_pod_asks_for_its_gpu() -> None:
    case = recorded("waiting-for-gpu")
    assert asked(case["job"], case["pods"], {"nvidia.com/gpu"}) == Asked({"nvidia.com/gpu": 1})
