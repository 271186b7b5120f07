"""What doctor makes of what it saw of a cluster: plain functions, no cluster."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.fitting import Fit
from k8s.permissions import RUN
from k8s.profile_text import parse_profile
from launcher.doctor_cluster import permissions, place, pod_security, version
from launcher.doctor_objects import judged_claim, judged_queue
from launcher.doctor_stages import account, label
from launcher.findings import Finding

Object = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("v1.28.15-gke.1", "failed"),
        ("v1.29.0", "ok"),
        ("v1.34.4", "ok"),
        ("v2.0.0", "ok"),
        ("unknown", "ok"),
    ],
)
def test_a_version(text: str, state: str) -> None:
    assert version(text).state == state


@pytest.mark.parametrize(
    ("level", "host_path", "state"),
    [
        ("restricted", False, "ok"),
        ("restricted", True, "failed"),
        ("baseline", True, "failed"),
        ("privileged", True, "ok"),
        (None, True, "ok"),
    ],
)
def test_pod_security(level: str | None, host_path: bool, state: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    assert (
        pod_security({"metadata": {"name": "distill", "labels": labels}}, host_path).state == state
    )


def test_each_verb_that_is_missing_is_a_line() -> None:
    said = list(permissions(lambda one: one.verb != "watch"))
    missing = [one.words for one in RUN if one.verb == "watch"]
    assert [one.what.partition(":")[0] for one in said] == [f"may not {words}" for words in missing]
    assert {(one.state, one.code) for one in said} == {("failed", 2)}


def stages(text: str) -> Any:
    """A profile's, each with its defaults."""
    return parse_profile(f"agent: {{image: ours}}\n{text}", "p.yaml", stages=()).stages


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("defaults: {labels: {release: nightly, team: blue}}", "ok: release=nightly"),
        ("", "failed: pods of all stages have no label release=nightly"),
        ("defaults: {labels: {release: weekly}}", "failed: pods of all stages have no label"),
        (
            "defaults: {labels: {release: nightly}}\nstages: {llm_off: {labels: {release: other}}}",
            "failed: pods of llm_off have no label release=nightly",
        ),
    ],
)
def test_pods_that_no_policy_selects(profile: str, said: str) -> None:
    found = label(stages(profile), "release", "nightly")
    assert f"{found.state}: {found.what}".startswith(said)
    assert (found.code, found.do == "") in ((0, True), (2, False))


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("defaults: {service_account: nightly-stages}", "ok: nightly-stages"),
        ("", "warning: default in all stages, not nightly-stages"),
        (
            "defaults: {service_account: nightly-stages}\nstages: {retrain: {service_account: gpu}}",
            "warning: gpu in retrain, not nightly-stages",
        ),
    ],
)
def test_another_service_account(profile: str, said: str) -> None:
    found = account(stages(profile), "nightly-stages")
    assert f"{found.state}: {found.what}".startswith(said)
    assert found.code == 0


def claim(phase: str, *modes: str, **about: str) -> Object:
    return {
        "metadata": {"name": "data", **about},
        "spec": {"accessModes": list(modes)},
        "status": {"phase": phase},
    }


_WAITS = {"volumeBindingMode": "WaitForFirstConsumer"}
_AT_ONCE = {"volumeBindingMode": "Immediate"}
_READ_ONLY = "failed: data is ReadOnlyMany, and it is mounted to be written"
_ONE_NODE = "warning: data, the store, is ReadWriteOnce: pods of one node alone reach it at a time"
CLAIMS: list[tuple[Object, Object | None, bool, bool, str]] = [
    (claim("Bound", "ReadWriteOnce"), None, True, False, "data (bound)"),
    (claim("Pending", "ReadWriteOnce"), _WAITS, True, False, "data (bound when a pod first wants it)"),
    (claim("Pending", "ReadWriteOnce"), _AT_ONCE, True, False, "failed: data is Pending: no volume is bound to it"),
    (claim("Pending"), None, True, False, "warning: data is Pending: no volume is bound to it yet"),
    (claim("Lost"), _WAITS, True, False, "failed: data has lost its volume"),
    (claim("Bound", deletionTimestamp="now"), None, True, False, "failed: data is being deleted"),
    (claim("Bound", "ReadOnlyMany"), None, True, False, _READ_ONLY),
    (claim("Bound", "ReadOnlyMany"), None, False, False, "data (bound)"),
    (claim("Bound", "ReadWriteMany"), None, True, True, "data (bound)"),
    (claim("Bound", "ReadWriteOnce"), None, True, True, _ONE_NODE),
]  # fmt: skip


@pytest.mark.parametrize(("found", "kind", "written", "store", "said"), CLAIMS)
def test_a_claim(found: Object, kind: Object | None, written: bool, store: bool, said: str) -> None:
    judged = judged_claim(found, kind, written=written, store=store)
    shown = f"{judged.state}: {judged.what}" if isinstance(judged, Finding) else judged
    assert shown == said


def test_a_queue_that_takes_nothing() -> None:
    inactive = {"type": "Active", "status": "False", "message": "its ClusterQueue is gone"}
    found = judged_queue("q", {"spec": {}, "status": {"conditions": [inactive]}})
    assert (found.state, found.what) == ("warning", "q takes nothing now: its ClusterQueue is gone")


_SPEC = {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]}
_CORDONED = "warning: asks for 2 cpu and 1Gi memory; only a could take it, and it is cordoned"
PLACES: list[tuple[Fit, int, str]] = [
    (Fit(("a",)), 1, "ok: asks for 2 cpu and 1Gi memory; the one node, a, could take it"),
    (Fit(("a", "b")), 3, "ok: asks for 2 cpu and 1Gi memory; 2 of 3 nodes could take it"),
    (Fit(away=(("a", "is cordoned"),)), 2, _CORDONED),
    (Fit(miss="asks for 4 x; the largest node has 2"), 2, "failed: asks for 4 x; the largest node has 2"),
    (Fit(miss="there are no nodes", scaled=True), 2, "warning: there are no nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "nodes", "said"), PLACES)
def test_a_place(found: Fit, nodes: int, said: str) -> None:
    judged = place("retrain", _SPEC, found, nodes)
    assert f"{judged.state}: {judged.what}" == said
