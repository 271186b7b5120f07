"""Which pods of an attempt that has a result were started, from a moment that a real cluster was in."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

from launcher.executors.kubernetes import ran
from launcher.executors.port import Pod, StageResult
from tests.rig.recorded_cluster import recorded


def _moment() -> tuple[list[dict[str, Any]], str, str]:
    """A pod and one more of its attempt, made a minute later; their uids."""
    [first] = recorded("running")["pods"]
    second = copy.deepcopy(first)
    made = datetime.fromisoformat(first["metadata"]["creationTimestamp"]) + timedelta(minutes=1)
    second["metadata"] |= {"uid": "another", "creationTimestamp": made.isoformat()}
    return [first, second], str(first["metadata"]["uid"]), "another"


def _unseen(pod: dict[str, Any]) -> None:
    """A node has it, and its kubelet has not told of its containers yet."""
    pod["status"]["containerStatuses"] = []


def test_a_pod_whose_start_the_kubelet_tells_later_was_started_if_the_result_is_its_own() -> None:
    pods, first, second = _moment()
    _unseen(pods[1])
    assert [one.uid for one in ran(None, pods)] == [first]
    found = ran(Pod(second, "n"), pods)
    assert [one.uid for one in found] == [first, second]
    assert found[1].node == pods[1]["spec"]["nodeName"]
    assert found[1].held_since


def test_a_pod_that_is_gone_was_started_if_the_result_is_its_own() -> None:
    pods, first, second = _moment()
    assert ran(Pod(second, "gpu-3"), pods[:1])[1:] == (Pod(second, "gpu-3"),)
    assert [one.uid for one in ran(Pod(second, "gpu-3"), pods)] == [first, second]


def test_where_nobody_says_whose_it_is_the_newest_that_a_node_took_was_started() -> None:
    pods, _, second = _moment()
    for pod in pods:
        _unseen(pod)
    assert [one.uid for one in ran(None, pods)] == [second]
    assert ran(None, []) == ()


def test_a_result_names_its_pod() -> None:
    said = b'{"exit_code": 7, "closed_by": null, "pod": {"uid": "u", "name": "p", "node": "n"}}'
    assert StageResult.parse(said, "result.json").pod == Pod("u", "n")
    closed = b'{"exit_code": null, "closed_by": "lost", "pod": null}'
    assert StageResult.parse(closed, "result.json").pod is None
