"""Runs whose stages are Jobs, typed as a user types them, on a real cluster and a bucket that its pods reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.audited import asked, created, gaps
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster
from tests.rig.s3 import client_of

pytestmark = on_cluster

_LAUNCHER = Path(sys.executable).with_name("launcher")
_CONFIG = """
LLM_ON_CMD='cat code/hello.txt "$TEACHER_CHECKPOINT"; echo captured > "$ARTIFACT_DIR/capture.txt"'
RELABEL_CMD='cat "$ARTIFACT_DIR/capture.txt" && echo relabelled > "$ARTIFACT_DIR/relabelled.txt"'
RETRAIN_CMD='cat "$ARTIFACT_DIR/relabelled.txt"; echo weights > "$CHECKPOINT_DIR/student.pt"; {retrain}'
LLM_OFF_CMD='cat "$STUDENT_CHECKPOINT"; echo "{{\\"success_rate\\": 0.9}}" > "$METADATA_DIR/metrics.json"'
"""
_PROFILE = """
namespace: {namespace}
agent:
  image: "{agent}"
  image_pull_policy: IfNotPresent
  resources: {{}}
  env: {{AWS_ENDPOINT_URL: "{endpoint}", AWS_REGION: us-east-1}}
  secret_env:
    AWS_ACCESS_KEY_ID: {{secret: store, key: id}}
    AWS_SECRET_ACCESS_KEY: {{secret: store, key: secret}}
defaults:
  image: "{image}"
  image_pull_policy: IfNotPresent
  grace_seconds: 3
  save_seconds: 10
"""


@dataclass(frozen=True)
class Project:
    """A project with its ledger and store in a bucket, and a namespace for its Jobs."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]

    def launcher(self, *arguments: str, code: int = 0) -> str:
        done = self.tried(*arguments)
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_LAUNCHER, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def submit(self, run_id: str, *more: str, retrain: str = "true", code: int = 0) -> str:
        (self.root / "mine.env").write_text(_CONFIG.format(retrain=retrain))
        return self.launcher(
            *("submit", "--executor", "kubernetes", "--profile", "cluster.yaml"),
            *("--config", "mine.env", "--run-id", run_id),
            *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json", *more),
            code=code,
        )

    def recorded(self, run_id: str) -> list[dict[str, Any]]:
        """The run's events, in order, from the bucket itself."""
        found = [json.loads(line) for one in self._segments() for line in one.splitlines()]
        return [one for one in found if one.get("stream") == f"run/{run_id}"]

    def _segments(self) -> list[bytes]:
        bucket, _, prefix = self.environment["LAUNCHER_STORE"].removeprefix("s3://").partition("/")
        if self.cluster.s3:
            log = self.cluster.s3.root / bucket / prefix / "ledger" / "log"
            return [one.read_bytes() for one in sorted(log.iterdir())] if log.is_dir() else []
        asked, place = client_of(self.environment), {"Bucket": bucket}
        under = f"{prefix}/ledger/log/".lstrip("/")
        pages = asked.get_paginator("list_objects_v2").paginate(**place, Prefix=under)
        keys = sorted(one["Key"] for page in pages for one in page.get("Contents", ()))
        return [asked.get_object(**place, Key=key)["Body"].read() for key in keys]

    def until_running(self, run_id: str, stage: str) -> None:
        """Until it is on record that the stage's pod started."""

        def started() -> bool:
            said = [(e["type"], e["data"].get("stage")) for e in self.recorded(run_id)]
            return ("StageStarted", stage) in said

        self.cluster.until(started)


@pytest.fixture(scope="module")
def project(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    store = cluster.bucket()
    root = tmp_path_factory.mktemp("project")
    (root / "code").mkdir()
    (root / "code" / "hello.txt").write_text("hello from the code\n")
    (root / "teacher.pt").write_text("a teacher\n")
    (root / "score.json").write_text("{}")
    (root / ".gitignore").write_text("runs/\nteacher.pt\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    access = cluster.environment()
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        (root / "cluster.yaml").write_text(
            _PROFILE.format(
                namespace=namespace,
                agent=cluster.agent_image,
                image=cluster.bash_image,
                endpoint=access["AWS_ENDPOINT_URL"],
            )
        )
        environment = {**os.environ, **access, "LAUNCHER_STORE": store}
        yield Project(cluster, root, namespace, environment)


def test_a_run_of_four_jobs_ends_well_with_its_outputs_in_the_store(project: Project) -> None:
    said = project.submit("whole", "--promotion-target", "student")
    assert "success" in said or "succeeded" in said
    stages = json.loads(project.launcher("status", "whole", "--json"))
    assert stages["status"] == "succeeded", stages
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
    project.launcher("audit")


def test_a_stage_that_fails_ends_the_run_with_its_own_code(project: Project) -> None:
    project.submit("failing", retrain="exit 7", code=7)
    assert json.loads(project.launcher("status", "failing", "--json"))["status"] == "failed"


def test_a_dry_run_prints_jobs_that_the_cluster_takes(project: Project) -> None:
    printed = project.submit("dry", "--dry-run", "-o", "yaml")
    jobs = list(yaml.safe_load_all(printed))
    stages = [job["metadata"]["labels"]["distill-ledger/stage"] for job in jobs]
    assert stages == ["llm_on", "relabel", "retrain", "llm_off"]
    project.cluster.kubectl(
        "-n", project.namespace, "create", "--dry-run=server", "--validate=strict", "-f", "-",
        given=printed,
    )  # fmt: skip
    assert "dry" not in project.launcher("list")


def test_a_killed_launcher_is_followed_by_another_and_no_stage_runs_twice(project: Project) -> None:
    (project.root / "mine.env").write_text(_CONFIG.format(retrain="sleep 8; echo trained"))
    command = [
        *(str(_LAUNCHER), "submit", "--executor", "kubernetes", "--profile", "cluster.yaml"),
        *("--config", "mine.env", "--run-id", "killed"),
        *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json"),
    ]
    with subprocess.Popen(command, cwd=project.root, env=project.environment) as first:
        project.until_running("killed", "retrain")
        first.kill()
    shutil.rmtree(project.root / "runs")  # as on a machine that has the ledger alone
    project.launcher("resume", "killed")
    assert project.launcher("logs", "killed", "retrain").endswith("trained\n")
    events = project.recorded("killed")
    assert [e["type"] for e in events].count("StageSucceeded") == 4
    uids = [e["data"]["pod_uid"] for e in events if e["type"] == "StageStarted"]
    assert len(uids) == len(set(uids)) == 4


def test_a_run_is_cancelled_and_nothing_of_it_is_left(project: Project) -> None:
    (project.root / "mine.env").write_text(_CONFIG.format(retrain="trap : TERM; sleep 300 & wait"))
    command = [
        *(str(_LAUNCHER), "submit", "--executor", "kubernetes", "--profile", "cluster.yaml"),
        *("--config", "mine.env", "--run-id", "stopped"),
        *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json"),
    ]
    with subprocess.Popen(command, cwd=project.root, env=project.environment) as first:
        project.until_running("stopped", "retrain")
        project.launcher("cancel", "stopped")
        assert first.wait(60) == 130
    state = json.loads(project.launcher("status", "stopped", "--json"))
    assert state["status"] == "cancelled"
    of_stage = "distill-ledger/run=stopped,distill-ledger/stage=retrain"
    assert project.cluster.get(project.namespace, "jobs,pods", "-l", of_stage)["items"] == []


def test_few_calls_are_made_and_the_next_job_follows_the_result_at_once(project: Project) -> None:
    """By the API server's audit log, and the moment at which the store had the result."""
    project.submit("counted")
    assert project.cluster.s3
    of_run = [
        one
        for one in asked(project.cluster, project.namespace)
        if "counted" in one["requestURI"] + json.dumps(one["objectRef"])
    ]
    store = project.cluster.s3.root / project.environment["LAUNCHER_STORE"].removeprefix("s3://")
    events = project.recorded("counted")
    found = dict(gaps(store, events, created(of_run)))
    print(f"{len(of_run)} calls; seconds from a result to the next Job: {found}")
    assert len(of_run) <= 4 * 12
    assert [*found] == ["relabel", "retrain", "llm_off"]
    # What the machine does beside it may hold up any of them. A pod's own end is told half a second later or more.
    assert min(found.values()) < 0.5
    at = {(e["type"], e["data"].get("stage")): e["time"] for e in events}
    for before, after in (("llm_on", "relabel"), ("relabel", "retrain"), ("retrain", "llm_off")):
        # One append says both, so that nothing is between them.
        assert at["StageSucceeded", before] == at["StageIntended", after]
