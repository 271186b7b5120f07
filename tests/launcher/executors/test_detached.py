"""Runs that are left alone: by Ctrl-C, and to a driver in the cluster; what goes on, and who comes back to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.rig.cluster_project import LAUNCHER, ClusterProject, cluster_project
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_STUDENT = 'echo weights > "$CHECKPOINT_DIR/student.pt"'
_DAY = 86400


@pytest.fixture(scope="module")
def project(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with cluster_project(cluster, tmp_path_factory.mktemp("projects") / "project") as made:
        yield made


def test_ctrl_c_leaves_and_attach_goes_on_from_another_machine(
    project: ClusterProject, tmp_path: Path
) -> None:
    command = project.command("left", retrain=f"sleep 12; {_STUDENT}", llm_off="echo evaluated")
    with project.started(*command) as first:
        project.until("left", "StageStarted", "retrain")
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    # It waited for nothing.
    assert not project.stored("runs/left/retrain/1/result.json").exists()
    assert said.splitlines()[-1] == (
        "launcher: left left: retrain goes on in its Job, and what follows waits for: "
        "launcher attach left; to stop it: launcher cancel left"
    )
    status = json.loads(project.launcher("status", "left", "--json"))
    assert (status["attended"], status["next"][0]) == (False, "launcher attach left")
    project.cluster.until(project.stored("runs/left/retrain/1/result.json").is_file)
    assert project.facts("left")[-1] == ("StageStarted", "retrain")
    # Nobody recorded its end, so it stays; and nobody went on.
    project.cluster.until(lambda: ended(project.of("jobs", "left", "retrain")[0]))
    (job,) = project.of("jobs", "left")
    assert "ttlSecondsAfterFinished" not in job["spec"]

    elsewhere = project.at(tmp_path / "elsewhere")
    elsewhere.launcher("attach", "left")
    assert project.pods_of_stages("left") == ["retrain", "llm_off"]
    assert elsewhere.launcher("logs", "left", "llm_off") == "evaluated\n"
    assert not (elsewhere.root / "runs" / "self_distill" / "left").exists()
    expired = {
        name: moment
        for name, moment in patched(project.cluster, project.namespace).items()
        if name in {one["metadata"]["name"] for one in project.of("jobs", "left")}
    }
    for job in project.of("jobs", "left"):
        assert job["spec"]["ttlSecondsAfterFinished"] == _DAY
        stage = job["metadata"]["labels"]["distill-ledger/stage"]
        (end,) = [
            e["time"]
            for e in project.recorded("left")
            if (e["type"], e["data"].get("stage")) == ("StageSucceeded", stage)
        ]
        assert expired[job["metadata"]["name"]] > datetime.fromisoformat(end)


def test_a_driver_that_is_killed_is_replaced_and_each_stage_runs_once(
    project: ClusterProject,
) -> None:
    said = project.submit(
        "driven",
        *("--detach", "--promotion-target", "checkpoints/student.pt"),
        llm_on='echo "hello $API_TOKEN"',
        retrain=f"echo training; until [ -e /tmp/go ]; do sleep 0.2; done; {_STUDENT}",
        llm_off='cat "$STUDENT_CHECKPOINT"',
    )
    assert "detached: llm_on is submitted; this machine is not needed any more" in said
    status = json.loads(project.launcher("status", "driven", "--json"))
    (job,) = project.of("jobs", "driven", "driver")
    name = job["metadata"]["name"]
    assert (status["attended"], status["machine"], status["driver_ended"]) == (True, None, None)
    assert status["driver_job"] == f"{project.namespace}/{name}"
    (pod,) = project.of("pods", "driven", "driver")
    with (
        project.started(str(LAUNCHER), "logs", "driven", "-f") as log,
        project.started(str(LAUNCHER), "attach", "driven") as attached,
    ):
        project.until("driven", "StageStarted", "retrain")
        assert log.stdout is not None
        while (line := log.stdout.readline()) != "training\n":
            assert line == "hello in-a-Secret\n"
        assert project.launcher("logs", "driven", "retrain") == "training\n"
        project.cluster.kubectl(
            "-n", project.namespace, "delete", "pod", pod["metadata"]["name"], "--grace-period=1"
        )
        project.cluster.until(
            lambda: pod["metadata"]["uid"] not in uids(project, "driven", "driver")
        )
        (stage,) = project.of("pods", "driven", "retrain")
        project.cluster.kubectl(
            *("-n", project.namespace, "exec", stage["metadata"]["name"], "-c", "command", "--"),
            *("bash", "-c", ": > /tmp/go"),
        )
        shown, _ = attached.communicate(timeout=400)
        printed, _ = log.communicate(timeout=30)
    assert (attached.returncode, log.returncode) == (0, 0), shown
    assert "retrain" in shown
    assert "live    checkpoints/student.pt g1 = driven" in shown
    assert printed == "weights\n"
    assert project.pods_of_stages("driven") == ["llm_on", "retrain", "llm_off"]
    assert project.launcher("logs", "driven", "llm_on") == "hello in-a-Secret\n"
    project.cluster.until(lambda: ended(project.of("jobs", "driven", "driver")[0]) == "Complete")
    drivers = project.of("pods", "driven", "driver")
    assert pod["metadata"]["uid"] not in {one["metadata"]["uid"] for one in drivers}
    # The driver has no file of the project; the next command here that writes brought its target in step.
    assert (project.root / "checkpoints" / "student.pt").read_text() == "weights\n"
    actors = {e["actor"] for e in project.recorded("driven") if e["type"] == "RunSucceeded"}
    assert all(actor.startswith("driver for ") for actor in actors)


def test_a_run_that_fails_ends_its_driver_with_its_code_and_is_not_tried_again(
    project: ClusterProject,
) -> None:
    project.submit("failing", "--detach", retrain="exit 7")
    project.until("failing", "RunFailed", "retrain")
    project.cluster.until(lambda: ended(project.of("jobs", "failing", "driver")[0]) == "Failed")
    (pod,) = project.of("pods", "failing", "driver")
    (container,) = pod["status"]["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 7
    project.launcher("attach", "failing", code=7)


def test_a_cancelled_run_ends_stage_and_driver(project: ClusterProject) -> None:
    project.submit("stopped", "--detach", retrain="trap : TERM; sleep 300 & wait")
    with project.started(str(LAUNCHER), "attach", "stopped") as attached:
        project.until("stopped", "StageStarted", "retrain")
        assert attached.stdout is not None
        assert attached.stdout.readline().startswith("run stopped")
        attached.send_signal(signal.SIGINT)
        _, said = attached.communicate(timeout=60)
    assert attached.returncode == 130
    assert "left stopped, which its driver in the cluster goes on with" in said
    project.launcher("cancel", "stopped")
    project.cluster.until(lambda: not project.of("jobs,pods", "stopped"))
    assert json.loads(project.launcher("status", "stopped", "--json"))["status"] == "cancelled"


def test_what_a_driver_may_not_do_is_said_by_submit_and_attach_goes_on(
    project: ClusterProject,
) -> None:
    profile = project.root / "cluster.yaml"
    usual = profile.read_text()
    try:
        profile.write_text(usual.replace("{", '{"driver": {"service_account": "default"},', 1))
        said = project.submit("refused", "--detach", retrain=_STUDENT, code=5)
    finally:
        profile.write_text(usual)
    (line,) = [one for one in said.splitlines() if one.startswith("launcher: ")]
    assert "run refused has no driver: it ended: " in line
    assert "is forbidden: User" in line
    assert "launcher attach refused" in line
    status = json.loads(project.launcher("status", "refused", "--json"))
    assert (status["attended"], status["next"][0]) == (False, "launcher attach refused")
    assert "is forbidden: User" in status["driver_ended"]
    shown = project.launcher("status", "refused")
    assert "left alone: nobody drives it" in shown
    assert f"{status['driver_job']}, which ended: " in shown
    project.launcher("attach", "refused")
    assert project.pods_of_stages("refused") == ["retrain"]


def test_a_run_that_was_left_or_whose_driver_was_ended_is_given_a_new_one(
    project: ClusterProject,
) -> None:
    held = "until [ -e /tmp/go ]; do sleep 0.2; done"
    command = project.command("handed", retrain=f"{held}; {_STUDENT}", llm_off="echo evaluated")
    with project.started(*command) as first:
        project.until("handed", "StageStarted", "retrain")
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
    drivers = []
    for _ in range(2):
        said = project.launcher("resume", "handed", "--detach")
        assert "detached: retrain is submitted; this machine is not needed any more" in said
        project.cluster.until(lambda: project.of("pods", "handed", "driver"))
        (job,) = project.of("jobs", "handed", "driver")
        drivers.append(job["metadata"]["uid"])
        if len(drivers) == 1:  # as after its last failure: an ended Job that nobody took away
            spec = '{"spec": {"activeDeadlineSeconds": 1}}'
            project.cluster.kubectl(
                *("-n", project.namespace, "patch", "job", job["metadata"]["name"], "-p", spec)
            )
            project.cluster.until(
                lambda: ended(project.of("jobs", "handed", "driver")[0]) == "Failed"
            )
            shown = json.loads(project.launcher("status", "handed", "--json"))
            assert (shown["attended"], bool(shown["driver_ended"])) == (False, True)
    assert len(set(drivers)) == 2
    (pod,) = project.of("pods", "handed", "retrain")
    project.cluster.kubectl(
        *("-n", project.namespace, "exec", pod["metadata"]["name"], "-c", "command", "--"),
        *("bash", "-c", ": > /tmp/go"),
    )
    project.launcher("attach", "handed")
    assert project.pods_of_stages("handed") == ["retrain", "llm_off"]
    refused = project.launcher("resume", "handed", "--detach", code=3)
    assert "run handed has succeeded" in refused


def ended(job: dict[str, Any]) -> str | None:
    """Complete or Failed, where the Job is."""
    found = (job.get("status") or {}).get("conditions") or []
    kinds = [one["type"] for one in found if one["status"] == "True"]
    return next((kind for kind in kinds if kind in ("Complete", "Failed")), None)


def patched(cluster: Cluster, namespace: str) -> dict[str, datetime]:
    """When a launcher gave each Job its time to live, by the API server's own log."""
    found: dict[str, datetime] = {}
    for one in cluster.audited():
        about = one.get("objectRef") or {}
        ours = not one["user"].get("username", "system:").startswith("system:")
        asked = (one["verb"], about.get("resource"), about.get("subresource"))
        if ours and about.get("namespace") == namespace and asked == ("patch", "jobs", None):
            moment = datetime.fromisoformat(one["requestReceivedTimestamp"])
            assert about["name"] not in found, "asked twice"
            found[about["name"]] = moment
    return found


def uids(project: ClusterProject, run_id: str, stage: str) -> set[str]:
    """Of the pods that there are."""
    return {one["metadata"]["uid"] for one in project.of("pods", run_id, stage)}
