"""A release that is watched: its exporter in a pod, a real Prometheus, and what an alert says to type, typed.

There is no Prometheus operator here: what its PodMonitor would find is given to Prometheus by hand, and the rules of
its PrometheusRule as a file.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.charts.monitoring import rules
from tests.charts.releases import Team, team
from tests.charts.test_alerts import alerts
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster
from tests.rig.prometheus import Prometheus, prometheus

pytestmark = on_cluster

_CONFIG = 'RETRAIN_CMD=\'test "$FAIL" = 0 && echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"\'\n'
#: Hours ago; nobody comes for the one between the last two.
_SLOTS = (4, 3, 1)


@pytest.fixture(scope="module")
def ours(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Two students that were promoted, a slot that nobody came for, and a run that failed."""
    with team(cluster, tmp_path_factory.mktemp("watched") / "team") as made:
        made.install("nightly", values(made, fail="0"), "--wait", "--timeout=120s")
        for number, hours in enumerate(_SLOTS):
            if number == 2:
                made.install("nightly", values(made, fail="1"))
            made.fire("nightly", f"night-{number}", _slot(hours))
            assert made.ended(f"night-{number}") == ("Failed" if number == 2 else "Complete")
        yield made


def _slot(hours: int) -> str:
    this = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return (this - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def values(ours: Team, fail: str) -> dict[str, Any]:
    nightly = {
        "schedule": "0 * * * *",
        "suspend": True,
        "config": f"{_CONFIG}FAIL={fail}\n",
        "files": {"teacher.txt": "a teacher", "scorecard.json": "{}"},
        "teacherCheckpoint": "files/teacher.txt",
        "teacherScorecard": "files/scorecard.json",
        "promotionTarget": "student",
    }
    exporter = {**ours.values()["exporter"], "args": ["--audit-every=24"]}
    monitoring = {"dashboard": {"enabled": True}}
    return ours.values(pipelines={"nightly": nightly}, exporter=exporter, monitoring=monitoring)


@pytest.fixture
def watching(ours: Team, tmp_path: Path) -> Iterator[Prometheus]:
    """A pod's address is the cluster's own: the API server leads there."""
    (pod,) = ours.pods("app.kubernetes.io/component=exporter")
    labels = {"namespace": ours.namespace, "release": "nightly"}
    name = pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{ours.namespace}/pods/{name}:9464/proxy/metrics"
    found = rules(f"--namespace={ours.namespace}")
    with (
        proxied(ours.cluster) as target,
        prometheus(tmp_path, {target: labels}, found, path=path, every="2s") as server,
    ):
        yield server


@contextmanager
def proxied(cluster: Cluster) -> Iterator[str]:
    """HOST:PORT of a `kubectl proxy`."""
    process = subprocess.Popen(
        [cluster.program, "--kubeconfig", str(cluster.kubeconfig), "proxy", "--port=0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            yield process.stdout.readline().rpartition(" ")[2].strip()
    finally:
        process.terminate()
        process.wait(30)


def test_what_went_wrong_fires_and_what_it_says_to_type_is_right(
    ours: Team, watching: Prometheus
) -> None:
    wanted = {"DistillRunFailed", "DistillSlotMissed"}

    def firing() -> dict[str, dict[str, Any]]:
        return {one["labels"]["alertname"]: one for one in watching.alerts()}

    ours.cluster.until(lambda: firing().keys() >= wanted)
    ours.cluster.until(lambda: watching.series("distill_ledger_audit_up == 1"))
    found = firing()
    assert set(found) == wanted
    for alert in found.values():
        for line in alert["annotations"]["next"].splitlines():
            command = line[line.index("kubectl ") :].replace("$(date +%s)", "1")
            words = shlex.split(command)[1:]
            if "create" not in words:
                assert ours.cluster.kubectl(*words), command
    back = found["DistillRunFailed"]["annotations"]["next"].splitlines()[-1]
    before = ours.pointer()["generations"]
    ours.cluster.kubectl(
        *shlex.split(back[back.index("kubectl ") :].replace("$(date +%s)", "1"))[1:]
    )
    assert ours.ended("back-1") == "Complete", ours.log("back-1")
    assert ours.pointer()["generations"][-1]["digest"] == before[0]["digest"]
    ours.cluster.until(lambda: watching.series("distill_ledger_pointer_held == 1"))


def test_the_dashboard_is_there_for_grafana(ours: Team) -> None:
    (found,) = ours.get("configmaps", "-l", "grafana_dashboard=1")["items"]
    (text,) = found["data"].values()
    page = json.loads(text)
    assert (
        f'namespace="{ours.namespace}",release="nightly"' in page["panels"][0]["targets"][0]["expr"]
    )


def test_each_rule_is_one_that_prometheus_can_evaluate(watching: Prometheus, ours: Team) -> None:
    def evaluated() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = watching.ask("rules")["groups"][0]["rules"]
        return found if all(one["health"] != "unknown" for one in found) else []

    found = ours.cluster.until(evaluated)
    assert {one["name"] for one in found} == {one["alert"] for one in alerts(rules())}
    assert all(one["health"] == "ok" for one in found), found
    assert not any(re.search("RELEASE|NAMESPACE", str(one["annotations"])) for one in found)
