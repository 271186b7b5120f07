"""Where a pod could ever run, and the nearest miss in words: a table."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.fitting import Fit, fit
from k8s.requests import amounts, listed, pod_amounts, shown, with_runtime_class

Object = dict[str, Any]


def node(name: str, *taints: str, labels: Object | None = None, **has: str) -> Object:
    """A node; a taint as ``key=value:effect``."""
    parts = [taint.rpartition(":") for taint in taints]
    keyed = [(left.partition("="), effect) for left, _, effect in parts]
    made = [{"key": k, **({"value": v} if v else {}), "effect": e} for (k, _, v), e in keyed]
    has = {"cpu": "8", "memory": "32Gi", "pods": "110", **has}
    allocatable = {key.replace("GPU", "nvidia.com/gpu"): value for key, value in has.items()}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": made} if made else {},
        "status": {"allocatable": allocatable},
    }


def spec(requests: Object | None = None, **more: Any) -> Object:
    own = [{"name": "command", "resources": {"requests": requests or {}}}]
    return {"containers": own, **more}


def affinity(*terms: Object) -> Object:
    required = {"nodeSelectorTerms": list(terms)}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def rule(key: str, operator: str, *values: str) -> Object:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


GPU = {"nvidia.com/gpu": "4"}
H100 = {"gpu": "h100"}
TOLERATED = [{"key": "gpu", "operator": "Exists"}]
NAMED_A = {"matchFields": rule("metadata.name", "In", "a")["matchExpressions"]}
BOTH = {"matchExpressions": [rule(key, "Exists")["matchExpressions"][0] for key in ("gpu", "x")]}

MISSES: list[tuple[str, Object, list[Object], str]] = [
    ("no node", spec(), [], "there are no nodes"),
    (
        "too few devices",
        spec(GPU),
        [node("a"), node("b", GPU="2"), node("c", GPU="1")],
        "asks for 4 nvidia.com/gpu; the largest node has 2",
    ),
    (
        "no device at all",
        spec(GPU),
        [node("a")],
        "asks for 4 nvidia.com/gpu; the largest node has 0",
    ),
    (
        "cpu",
        spec({"cpu": "8500m"}),
        [node("a"), node("b", cpu="7910m")],
        "asks for 8500m cpu; the largest node has 8",
    ),
    (
        "memory, as a node says it",
        spec({"memory": "32Gi"}),
        [node("a", memory="16250888Ki"), node("b", memory="32000000Ki")],
        "asks for 32Gi memory; the largest node has 30.5Gi",
    ),
    (
        "disk",
        spec({"ephemeral-storage": "1Ti"}),
        [node("a", **{"ephemeral-storage": "500Gi"})],
        "asks for 1Ti ephemeral-storage; the largest node has 500Gi",
    ),
    (
        "one has the devices, the other the memory",
        spec({**GPU, "memory": "64Gi"}),
        [node("a", GPU="4"), node("b", memory="128Gi")],
        "asks for 64Gi memory; the largest node has 32Gi",
    ),
    (
        "two things short on the nearest",
        spec({**GPU, "memory": "64Gi"}),
        [node("a", GPU="2"), node("b", GPU="1")],
        "asks for 4 nvidia.com/gpu and 64Gi memory; the nearest node, a, has 2 and 32Gi",
    ),
    (
        "a taint is nearer than a node without devices",
        spec(GPU),
        [node("a"), node("b", "gpu=yes:NoSchedule", GPU="8")],
        "no node takes it; the nearest, b, has the taint gpu=yes:NoSchedule, which is not tolerated",
    ),
    (
        "a taint and too little",
        spec(GPU),
        [node("b", "gpu:NoExecute", GPU="2")],
        "asks for 4 nvidia.com/gpu; the nearest node, b, has 2, and has the taint gpu:NoExecute, "
        "which is not tolerated",
    ),
    (
        "another value of a label",
        spec(nodeSelector=H100),
        [node("a", labels={"gpu": "a100"})],
        "no node takes it; the nearest, a, has the label gpu=a100, not h100",
    ),
    (
        "no such label",
        spec(nodeSelector=H100),
        [node("a")],
        "no node takes it; the nearest, a, has no label gpu (h100 is asked for)",
    ),
    (
        "a required affinity",
        spec(affinity=affinity(rule("gpu", "In", "h100", "h200"))),
        [node("a", labels={"gpu": "a100"})],
        "no node takes it; the nearest, a, has the label gpu=a100, not In h100, h200",
    ),
    (
        "an affinity without a term",
        spec(affinity=affinity({})),
        [node("a")],
        "no node takes it; the nearest, a, is asked for by an affinity without a term",
    ),
    (
        "a node that takes no pod",
        spec(),
        [node("a", pods="0")],
        "asks for 1 pods; the largest node has 0",
    ),
]


@pytest.mark.parametrize(("wanted", "nodes", "said"), [m[1:] for m in MISSES], ids=[m[0] for m in MISSES])  # fmt: skip
def test_the_nearest_miss(wanted: Object, nodes: list[Object], said: str) -> None:
    assert fit(wanted, nodes) == Fit(miss=said)


FITS: list[tuple[str, Object, Object]] = [
    ("to the last unit", spec({"cpu": "8", "memory": "32Gi"}), node("a")),
    ("a value that is tolerated", spec(tolerations=[{"key": "gpu", "value": "yes"}]), node("a", "gpu=yes:NoSchedule")),
    ("any value", spec(tolerations=TOLERATED), node("a", "gpu=yes:NoSchedule")),
    ("any taint", spec(tolerations=[{"operator": "Exists"}]), node("a", "x:NoExecute", "y=z:NoSchedule")),
    ("a taint that is a preference", spec(), node("a", "gpu:PreferNoSchedule")),
    ("the second term", spec(affinity=affinity(rule("gpu", "Exists"), rule("no", "DoesNotExist"))), node("a")),
    ("by name", spec(affinity=affinity(NAMED_A)), node("a")),
    ("greater", spec(affinity=affinity(rule("age", "Gt", "3"))), node("a", labels={"age": "4"})),
    ("not in", spec(affinity=affinity(rule("gpu", "NotIn", "h100"))), node("a")),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "found"), [f[1:] for f in FITS], ids=[f[0] for f in FITS])
def test_what_fits(wanted: Object, found: Object) -> None:
    assert fit(wanted, [found]) == Fit(("a",))


NOT: list[tuple[str, Object, Object]] = [
    ("another value", spec(tolerations=[{"key": "gpu", "value": "no"}]), node("a", "gpu=yes:NoSchedule")),
    ("another effect", spec(tolerations=[{**TOLERATED[0], "effect": "NoSchedule"}]), node("a", "gpu:NoExecute")),
    ("another key", spec(tolerations=[{"key": "cpu", "operator": "Exists"}]), node("a", "gpu:NoSchedule")),
    ("both rules of a term", spec(affinity=affinity(BOTH)), node("a", labels=H100)),
    ("less", spec(affinity=affinity(rule("age", "Lt", "3"))), node("a", labels={"age": "4"})),
    ("no number", spec(affinity=affinity(rule("age", "Gt", "3"))), node("a", labels={"age": "old"})),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "found"), [f[1:] for f in NOT], ids=[f[0] for f in NOT])
def test_what_does_not(wanted: Object, found: Object) -> None:
    assert fit(wanted, [found]).miss


def test_what_passes_is_told_apart_from_what_does_not() -> None:
    cordoned = node("a", GPU="4")
    cordoned["spec"]["unschedulable"] = True
    ill = node("b", "node.kubernetes.io/not-ready:NoExecute", GPU="4")
    found = fit(spec(GPU), [cordoned, ill, node("c")])
    assert found == Fit(away=(("a", "is cordoned"), ("b", "is not ready")))
    assert fit(spec(GPU), [cordoned, node("c", GPU="4")]).nodes == ("c",)


def test_a_cluster_that_makes_nodes_is_said() -> None:
    assert fit(spec(GPU), [node("a", labels={"karpenter.sh/nodepool": "default"})]).scaled


# --- what a pod asks for ---


def container(name: str, cpu: str, *, sidecar: bool = False, limit: bool = False) -> Object:
    kind = "limits" if limit else "requests"
    made: Object = {"name": name, "resources": {kind: {"cpu": cpu}}}
    return {**made, "restartPolicy": "Always"} if sidecar else made


REQUESTS: list[tuple[str, list[Object], list[Object], str]] = [
    ("containers add up", [], [container("a", "1"), container("b", "500m")], "1.5"),
    ("sidecars add up", [container("s", "2", sidecar=True)], [container("a", "1")], "3"),
    ("an init container is a maximum", [container("i", "5")], [container("a", "1")], "5"),
    ("a small one is none", [container("i", "500m")], [container("a", "1")], "1"),
    (
        "an init container beside the sidecars before it",
        [container("s", "2", sidecar=True), container("i", "5"), container("t", "1", sidecar=True)],
        [container("a", "1")],
        "7",
    ),
    (
        "ours: the fetch, the collector and a service",
        [container("fetch", "100m"), container("collect", "100m", sidecar=True), container("s", "4", sidecar=True)],
        [container("command", "2")],
        "6.1",
    ),
    ("a limit alone is asked for", [], [container("a", "3", limit=True)], "3"),
]  # fmt: skip


@pytest.mark.parametrize(("init", "own", "cpu"), [r[1:] for r in REQUESTS], ids=[r[0] for r in REQUESTS])  # fmt: skip
def test_what_a_pod_asks_for(init: list[Object], own: list[Object], cpu: str) -> None:
    found = pod_amounts({"initContainers": init, "containers": own})
    assert found == amounts({"cpu": cpu})


def test_a_runtime_class_brings_overhead_and_a_place() -> None:
    found = {
        "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": TOLERATED},
    }
    made = with_runtime_class(spec({"cpu": "8"}), found)
    assert pod_amounts(made) == amounts({"cpu": "8250m"})
    assert (made["nodeSelector"], made["tolerations"]) == ({"kata": "yes"}, TOLERATED)
    assert with_runtime_class(spec(), None) == spec()


@pytest.mark.parametrize(
    ("resource", "quantity", "said"),
    [
        ("cpu", "2", "2"),
        ("cpu", "1.5", "1500m"),
        ("requests.cpu", "100m", "100m"),
        ("memory", "512Mi", "512Mi"),
        ("limits.memory", "1.5Gi", "1.5Gi"),
        ("memory", "16250888Ki", "15.4Gi"),
        ("requests.nvidia.com/gpu", "8", "8"),
        ("memory", "0", "0"),
        ("hugepages-2Mi", "4Mi", "4Mi"),
    ],
)
def test_an_amount_for_a_person(resource: str, quantity: str, said: str) -> None:
    assert shown(resource, amounts({resource: quantity})[resource]) == said


def test_several_amounts_for_a_person() -> None:
    found = amounts({"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"})
    assert listed(found) == "4 cpu, 16Gi memory and 1 nvidia.com/gpu"
    assert listed({}) == ""
