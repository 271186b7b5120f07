"""A release on a real cluster: it fires by itself, is turned back, upgraded and uninstalled, and its data stays.

The tests stand on each other, in their order: one release lives through all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from k8s.permissions import RUN
from tests.charts.releases import SCHEDULED, Team, minute, team
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_EVERY_MINUTE = "* * * * *"
#: Every run has a student of its own.
_STUDENT = 'RETRAIN_CMD=\'echo "weights of $RUN_ID" > "$CHECKPOINT_DIR/student.pt"\'\n'
_FILES = {"teacher.txt": "a teacher", "scorecard.json": "{}"}
_GIVEN = {"teacherCheckpoint": "files/teacher.txt", "teacherScorecard": "files/scorecard.json"}


def pipeline(config: str, **more: Any) -> dict[str, Any]:
    return {"schedule": _EVERY_MINUTE, "config": config, "files": _FILES, **_GIVEN, **more}


@pytest.fixture(scope="module")
def ours(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(cluster, tmp_path_factory.mktemp("charts") / "team") as made:
        yield made


def values(ours: Team, **more: Any) -> dict[str, Any]:
    """Of the release nightly."""
    pipelines = {"nightly": pipeline(_STUDENT, promotionTarget="student")}
    return ours.values(pipelines=pipelines, tests={"run": True}, **more)


def runs(ours: Team, name: str) -> list[str]:
    """The ids of a pipeline's runs that were requested."""
    asked = [e["data"]["run_id"] for e in ours.events() if e["type"] == "RunRequested"]
    return [one for one in asked if one.startswith(f"{name}-")]


def test_it_fires_by_itself_and_what_it_makes_is_promoted(ours: Team) -> None:
    said = ours.install("nightly", values(ours))
    assert f"kubectl -n {ours.namespace} create job --from=cronjob/nightly-rollback" in said
    ours.cluster.until(lambda: ours.facts("pointer/student"), 240)
    ours.until("pointer/student", "PromotionConfirmed")
    (first, *_) = runs(ours, "nightly")
    (job, *_) = (
        one
        for one in ours.get("jobs")["items"]
        if SCHEDULED in one["metadata"].get("annotations", {})
    )
    digits = job["metadata"]["annotations"][SCHEDULED].replace("-", "").replace(":", "")[:13]
    assert first == f"nightly-{digits}Z"
    request = next(e for e in ours.events() if e["type"] == "RunRequested")
    assert request["actor"] == "cron nightly"
    live = ours.pointer()["generations"][-1]
    assert (live["run_id"], live["kind"]) == (first, "promotion")


def test_stages_are_restricted_and_nobodys_but_the_launchers(ours: Team) -> None:
    (first, *_) = runs(ours, "nightly")
    (job,) = ours.get("jobs", "-l", f"distill-ledger/run={first}")["items"]
    assert "ownerReferences" not in job["metadata"]
    assert "app.kubernetes.io/instance" not in job["metadata"]["labels"]
    assert job["metadata"]["labels"]["distill-ledger-release"] == "nightly"
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "nightly-stages"
    (pod,) = ours.pods(f"distill-ledger/run={first}")
    assert all("projected" not in volume for volume in pod["spec"]["volumes"])
    policy = ours.get("networkpolicy", "nightly-stages")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= pod["metadata"]["labels"].items()


def test_the_exporter_answers_and_a_launcher_is_there_to_type_in(ours: Team) -> None:
    ours.kubectl("rollout", "status", "deploy/nightly-exporter", "--timeout=60s")
    typed = ("exec", "deploy/nightly-exporter", "--", "launcher")
    assert json.loads(ours.kubectl(*typed, "pointers", "student", "--json"))["name"] == "student"
    (pod,) = ours.pods("app.kubernetes.io/component=exporter")
    where = f"/api/v1/namespaces/{ours.namespace}/pods/{pod['metadata']['name']}:9464/proxy/metrics"
    metrics = ours.cluster.kubectl("get", "--raw", where)
    assert 'distill_ledger_promotions_total{kind="promotion",pointer="student"}' in metrics


def test_a_bad_student_is_turned_back_by_kubectl_alone(ours: Team) -> None:
    ours.cluster.until(lambda: len(ours.pointer()["generations"]) > 1, 200)
    ours.kubectl("patch", "cronjob", "nightly", "-p", '{"spec": {"suspend": true}}')
    ours.cluster.until(
        lambda: json.loads(ours.launcher("list", "--json"))["runs"][0]["status"] != "open"
    )
    before = ours.pointer()["generations"]
    ours.fire("nightly-rollback", "back")
    assert ours.ended("back") == "Complete", ours.log("back")
    after = ours.pointer()["generations"][-1]
    assert (after["kind"], after["digest"]) == ("rollback", before[-2]["digest"])
    assert after["actor"] == "rollback of nightly"
    assert "automatic promotions of student are held" in ours.log("back")
    # The exporter's pod can do it too: alerts name that for a pointer without a CronJob.
    to = ("--to", str(before[-1]["generation"]), "--yes")
    ours.kubectl("exec", "deploy/nightly-exporter", "--", "launcher", "rollback", "student", *to)
    undone = ours.pointer()["generations"][-1]
    assert (undone["kind"], undone["digest"]) == ("rollback", before[-1]["digest"])


def test_a_slot_that_fires_twice_makes_one_run(ours: Team) -> None:
    slot, before = minute(), len(runs(ours, "nightly"))
    ours.cluster.until(lambda: minute() > slot, 90)
    slot = minute()
    for job in ("twice-1", "twice-2"):
        ours.fire("nightly", job, slot)
    # The pointer is held since the rollback: the run is well, promotes nothing, and its code says so.
    assert [ours.ended(job) for job in ("twice-1", "twice-2")] == ["Failed", "Failed"]
    assert len(runs(ours, "nightly")) == before + 1
    (run,) = runs(ours, "nightly")[before:]
    assert len(ours.pods(f"distill-ledger/run={run}")) == 1
    for job in ("twice-1", "twice-2"):
        assert "cause=held exit_code=3" in ours.log(job), ours.log(job)
        (pod,) = ours.pods(f"job-name={job}")
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert ("RunSucceeded", None) in ours.facts(f"run/{run}")
    assert ours.pointer()["generations"][-1]["kind"] == "rollback"


def test_helm_tests_it(ours: Team) -> None:
    said = ours.helm("test", "nightly", "--logs", "--timeout=150s")
    assert said.count("Phase:          Succeeded") >= 2, said
    assert f"all {len(RUN)} that a run takes" in said
    for line in ("labels        distill-ledger-release=nightly", "stage account nightly-stages"):
        assert f"ok       {line}" in said


def test_a_profile_from_elsewhere_that_no_policy_selects_is_said(ours: Team) -> None:
    profile = yaml.safe_load(ours.get("configmap", "nightly")["data"]["profile.yaml"])
    for name in ("labels", "service_account"):
        del profile["defaults"][name]
    elsewhere = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "theirs"}}
    given = json.dumps({**elsewhere, "data": {"profile.yaml": json.dumps(profile)}})
    ours.kubectl("create", "-f", "-", given=given)
    theirs = values(ours, profileFrom={"configMap": "theirs"}, profile={})
    theirs["tests"], theirs["pipelines"]["nightly"]["suspend"] = {}, True
    assert "labels: {distill-ledger-release: nightly}" in ours.install("nightly", theirs)
    said = ours.helm("test", "nightly", "--logs", "--timeout=150s", code=1)
    assert "failed   labels        pods of all stages have no label distill-ledger" in said
    assert "warning  stage account default in all stages, not nightly-stages" in said


def test_an_upgrade_and_its_rollback_change_no_data(ours: Team) -> None:
    head, live = ours.launcher("ledger", "head"), ours.pointer()["generations"][-1]
    suspended = values(ours, audit={"schedule": "0 6 * * 0", "args": ["--quick"]})
    suspended["pipelines"]["nightly"]["suspend"] = True
    ours.install("nightly", suspended)
    assert ours.get("cronjob", "nightly-audit")["spec"]["schedule"] == "0 6 * * 0"
    ours.helm("rollback", "nightly", "1", "--wait")
    assert ours.get("cronjob", "nightly-audit")["spec"]["schedule"] == "0 5 * * 0"
    ours.install("nightly", suspended)
    assert ours.pointer()["generations"][-1] == live
    sizes = [int(one.partition(":")[0]) for one in (head, ours.launcher("ledger", "head"))]
    assert sizes[0] <= sizes[1]


def test_care_runs_as_the_chart_has_it(ours: Team) -> None:
    for name in ("audit", "drill", "gc"):
        ours.fire(f"nightly-{name}", name)
    for name in ("audit", "drill", "gc"):
        assert ours.ended(name) == "Complete", ours.log(name)


def test_what_goes_leaves_the_data(ours: Team) -> None:
    live = ours.pointer()["generations"][-1]
    ours.helm("uninstall", "nightly", "--wait")
    assert ours.pointer()["generations"][-1] == live
    ours.launcher("audit")
