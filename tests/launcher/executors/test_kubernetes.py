"""Runs whose stages are Jobs, typed as a user types them, on a real cluster and a bucket that its pods reach."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess

import yaml

from tests.rig.audited import asked, created, gaps, settled
from tests.rig.cluster_project import ClusterProject
from tests.rig.cluster_project import project as project
from tests.rig.k8s import cluster as cluster
from tests.rig.k8s import on_cluster

pytestmark = on_cluster

_STAGES = {
    "llm_on": 'cat code/hello.txt "$TEACHER_CHECKPOINT"; echo captured > "$ARTIFACT_DIR/capture.txt"',
    "relabel": 'cat "$ARTIFACT_DIR/capture.txt" && echo relabelled > "$ARTIFACT_DIR/relabelled.txt"',
    "retrain": 'cat "$ARTIFACT_DIR/relabelled.txt"; echo weights > "$CHECKPOINT_DIR/student.pt"',
    "llm_off": 'cat "$STUDENT_CHECKPOINT"; echo "{\\"success_rate\\": 0.9}" > "$METADATA_DIR/metrics.json"',
}


def stages(retrain: str = "true") -> dict[str, str]:
    """The four; after what it does always, the retrain does this, too."""
    return {**_STAGES, "retrain": f"{_STAGES['retrain']}; {retrain}"}


def test_a_run_of_four_jobs_ends_well_with_its_outputs_in_the_store(
    project: ClusterProject,
) -> None:
    said = project.submit("whole", "--promotion-target", "student", **stages())
    assert "success" in said or "succeeded" in said
    shown = json.loads(project.launcher("status", "whole", "--json"))
    assert shown["status"] == "succeeded", shown
    assert project.launcher("logs", "whole", "llm_on") == "hello from the code\na teacher\n"
    assert project.launcher("logs", "whole", "llm_off") == "weights\n"
    project.launcher("pull", "pointer:student", "pulled.pt")
    assert (project.root / "pulled.pt").read_text() == "weights\n"
    jobs = project.cluster.get(project.namespace, "jobs")["items"]
    events = project.recorded("whole")
    for stage in ("llm_on", "relabel", "retrain", "llm_off"):
        told = [e["type"] for e in events if e["data"].get("stage") == stage]
        assert told[:4] == ["StageIntended", "StageSubmitted", "StageStarted", "StageSucceeded"]
    submitted = [e["data"]["handle"] for e in events if e["type"] == "StageSubmitted"]
    assert {one["job_uid"] for one in submitted} == {one["metadata"]["uid"] for one in jobs}
    pods = project.cluster.get(project.namespace, "pods")["items"]
    started = {e["data"]["pod_uid"] for e in events if e["type"] == "StageStarted"}
    assert started == {one["metadata"]["uid"] for one in pods}
    for event in events:
        if event["type"] == "StageSucceeded":
            assert None not in event["data"]["seconds"].values(), event["data"]
            assert event["data"]["watch_restarts"] == 0, event["data"]
    project.launcher("audit")


def test_a_stage_that_fails_ends_the_run_with_its_own_code(project: ClusterProject) -> None:
    project.submit("failing", code=7, **stages(retrain="exit 7"))
    assert json.loads(project.launcher("status", "failing", "--json"))["status"] == "failed"


def test_a_dry_run_prints_jobs_that_the_cluster_takes(project: ClusterProject) -> None:
    typed = project.command("dry", "--dry-run", "-o", "yaml", **stages())
    printed = project.tried(*typed[1:]).stdout
    jobs = list(yaml.safe_load_all(printed))
    of = [job["metadata"]["labels"]["distill-ledger/stage"] for job in jobs]
    assert of == ["llm_on", "relabel", "retrain", "llm_off"]
    project.cluster.kubectl(
        "-n", project.namespace, "create", "--dry-run=server", "--validate=strict", "-f", "-",
        given=printed,
    )  # fmt: skip
    assert "dry" not in project.launcher("list")


def test_a_killed_launcher_is_followed_by_another_and_no_stage_runs_twice(
    project: ClusterProject,
) -> None:
    command = project.command("killed", **stages(retrain="sleep 8; echo trained"))
    with subprocess.Popen(command, cwd=project.root, env=project.environment) as first:
        project.until("killed", "StageStarted", "retrain")
        first.kill()
    shutil.rmtree(project.root / "runs")  # as on a machine that has the ledger alone
    project.launcher("resume", "killed")
    assert project.launcher("logs", "killed", "retrain").endswith("trained\n")
    events = project.recorded("killed")
    assert [e["type"] for e in events].count("StageSucceeded") == 4
    uids = [e["data"]["pod_uid"] for e in events if e["type"] == "StageStarted"]
    assert len(uids) == len(set(uids)) == 4


def test_a_run_is_cancelled_and_nothing_of_it_is_left(project: ClusterProject) -> None:
    command = project.command("stopped", **stages(retrain="trap : TERM; sleep 300 & wait"))
    with subprocess.Popen(command, cwd=project.root, env=project.environment) as first:
        project.until("stopped", "StageStarted", "retrain")
        project.launcher("cancel", "stopped")
        assert first.wait(60) == 130
    state = json.loads(project.launcher("status", "stopped", "--json"))
    assert state["status"] == "cancelled"
    assert project.of("jobs,pods", "stopped", "retrain") == []


def test_few_calls_are_made_and_the_next_job_follows_the_result_at_once(
    project: ClusterProject,
) -> None:
    """By the API server's audit log, and the moment at which the store had the result."""
    project.submit("counted", **stages())
    of_run = [
        one
        for one in asked(project.cluster, project.namespace)
        if "counted" in one["requestURI"] + json.dumps(one["objectRef"])
    ]
    events = project.recorded("counted")
    found = dict(gaps(project.stored(""), events, created(of_run)))
    print(f"{len(of_run)} calls; seconds from a result to the next Job: {found}")
    assert len(of_run) <= 4 * 12
    assert [*found] == ["relabel", "retrain", "llm_off"]
    # None waited for the Job before it, of which the controller tells late.
    made, ended = created(of_run), settled(project.cluster, project.namespace)
    jobs = [e["data"]["job_name"] for e in events if e["type"] == "StageIntended"]
    assert all(made[after] < ended[before] for before, after in itertools.pairwise(jobs))
    at = {(e["type"], e["data"].get("stage")): e["time"] for e in events}
    for before, after in (("llm_on", "relabel"), ("relabel", "retrain"), ("retrain", "llm_off")):
        # One append says both, so that nothing is between them.
        assert at["StageSucceeded", before] == at["StageIntended", after]
