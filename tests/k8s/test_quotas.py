"""What quotas and limit ranges make of a pod: a table."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.quotas import outside_limits, over_quota, with_limit_ranges

Object = dict[str, Any]


def pod(requests: Object | None = None, limits: Object | None = None, **more: Any) -> Object:
    own = {"requests": requests or {}, "limits": limits or {}}
    return {"containers": [{"name": "command", "resources": own}], **more}


def quota(hard: Object, used: Object | None = None, **spec: Any) -> Object:
    return {
        "metadata": {"name": "team"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or {}},
    }


def priority(operator: str, *values: str) -> Object:
    rule = {"scopeName": "PriorityClass", "operator": operator, "values": list(values)}
    return {"matchExpressions": [rule]}


GPUS = {"requests.nvidia.com/gpu": "2"}
FOUR = pod({"nvidia.com/gpu": "4"}, {"nvidia.com/gpu": "4"})
ONE = pod({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"})
NEVER = "asks for 4 requests.nvidia.com/gpu, and the quota team allows 2"

QUOTAS: list[tuple[str, Object, Object, list[tuple[str, bool]]]] = [
    ("none of it", pod(), quota(GPUS), []),
    ("room", ONE, quota(GPUS, {"requests.nvidia.com/gpu": "1"}), []),
    (
        "no room now",
        ONE,
        quota(GPUS, {"requests.nvidia.com/gpu": "2"}),
        [("asks for 1 requests.nvidia.com/gpu, and of the 2 of the quota team 0 is free now", False)],
    ),
    ("never", FOUR, quota(GPUS), [(NEVER, True)]),
    (
        "memory by its short name",
        pod({"memory": "64Gi"}),
        quota({"memory": "32Gi"}),
        [("asks for 64Gi memory, and the quota team allows 32Gi", True)],
    ),
    (
        "limits",
        pod({"cpu": "1"}, {"cpu": "9"}),
        quota({"limits.cpu": "8"}),
        [("asks for 9 limits.cpu, and the quota team allows 8", True)],
    ),
    (
        "a container that does not say it",
        pod({"memory": "1Gi"}),
        quota({"limits.cpu": "8"}),
        [("the quota team wants limits.cpu said of every container; command says none", True)],
    ),
    (
        "no pods",
        pod(),
        quota({"pods": "0"}),
        [("asks for 1 pods, and the quota team allows 0", True)],
    ),
    (
        "Jobs by number",
        pod(),
        quota({"count/jobs.batch": "5"}, {"count/jobs.batch": "5"}),
        [("asks for 1 count/jobs.batch, and of the 5 of the quota team 0 is free now", False)],
    ),
    ("something else", FOUR, quota({"services": "0", "requests.storage": "0"}), []),
    ("pods that end by themselves", FOUR, quota(GPUS, scopes=["Terminating"]), []),
    ("pods that do not", FOUR, quota(GPUS, scopes=["NotTerminating"]), [(NEVER, True)]),
    ("pods that ask for nothing", FOUR, quota(GPUS, scopes=["BestEffort"]), []),
    ("pods that ask", FOUR, quota(GPUS, scopes=["NotBestEffort"]), [(NEVER, True)]),
    ("another class", FOUR, quota(GPUS, scopeSelector=priority("In", "high")), []),
    (
        "its class",
        {**FOUR, "priorityClassName": "high"},
        quota(GPUS, scopeSelector=priority("In", "high")),
        [(NEVER, True)],
    ),
    ("any class but one", FOUR, quota(GPUS, scopeSelector=priority("NotIn", "high")), [(NEVER, True)]),
    ("some class", FOUR, quota(GPUS, scopeSelector=priority("Exists")), []),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "one", "said"), [q[1:] for q in QUOTAS], ids=[q[0] for q in QUOTAS])  # fmt: skip
def test_a_quota(spec: Object, one: Object, said: list[tuple[str, bool]]) -> None:
    assert [(short.words, short.never) for short in over_quota(spec, [one])] == said


def test_what_is_never_comes_first() -> None:
    now = quota({"pods": "3"}, {"pods": "3"})
    assert [one.never for one in over_quota(FOUR, [now, quota(GPUS)])] == [True, False]


def limits(kind: str, **item: Object) -> Object:
    return {"metadata": {"name": "house"}, "spec": {"limits": [{"type": kind, **item}]}}


RANGES: list[tuple[str, Object, Object, list[str]]] = [
    ("within", pod({"cpu": "1"}, {"cpu": "2"}), limits("Container", max={"cpu": "2"}), []),
    (
        "too much",
        pod({"memory": "64Gi"}, {"memory": "64Gi"}),
        limits("Container", max={"memory": "32Gi"}),
        ["its container command asks for 64Gi memory, and the limit range house allows 32Gi"],
    ),
    (
        "no limit",
        pod({"cpu": "1"}),
        limits("Container", max={"cpu": "2"}),
        ["its container command has no limit of cpu, and the limit range house wants one of at most 2"],
    ),
    (
        "too little",
        pod({"cpu": "100m"}),
        limits("Container", min={"cpu": "250m"}),
        ["its container command asks for 100m cpu, and the limit range house wants at least 250m"],
    ),
    (
        "nothing",
        pod(),
        limits("Container", min={"cpu": "250m"}),
        ["its container command asks for no cpu, and the limit range house wants at least 250m"],
    ),
    (
        "the whole pod",
        pod({"cpu": "3"}, {"cpu": "3"}),
        limits("Pod", max={"cpu": "2"}),
        ["asks for 3 cpu, and the limit range house allows 2"],
    ),
    (
        "far apart",
        pod({"cpu": "1"}, {"cpu": "4"}),
        limits("Container", maxLimitRequestRatio={"cpu": "2"}),
        ["its container command may take 4 times the cpu it asks for, and the limit range house allows 2"],
    ),
    ("about claims", pod(), limits("PersistentVolumeClaim", min={"storage": "1Gi"}), []),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "one", "said"), [r[1:] for r in RANGES], ids=[r[0] for r in RANGES])  # fmt: skip
def test_a_limit_range(spec: Object, one: Object, said: list[str]) -> None:
    assert outside_limits(spec, [one]) == said


def test_a_limit_range_gives_what_is_not_said() -> None:
    given = limits("Container", default={"cpu": "2", "memory": "1Gi"}, defaultRequest={"cpu": "1"})
    before = pod(limits={"memory": "4Gi"})
    made = with_limit_ranges(before, [given])
    assert made["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "4Gi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }
    assert before == pod(limits={"memory": "4Gi"})
    assert over_quota(made, [quota({"limits.cpu": "8"})]) == []
