"""Two runs that want the one GPU: for what the second one waits, for how long, and what each of them held.

The first one is cancelled while it trains. The second one's launcher is killed, its pod evicted, and another machine
goes on with it: of its first pod only the ledger knows then.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.rig import job_project
from tests.rig.cluster_project import LAUNCHER, ClusterProject
from tests.rig.cluster_project import project as project
from tests.rig.k8s import GPU, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = [*on_cluster, pytest.mark.alone]

_WORDS = f"of 1 node, 1 has too little {GPU} free"
_RESOURCES = {"cpu": "100m", "memory": "64Mi", "gpus": 1}
#: Longer than it takes to submit another, look and cancel; what it has by then is kept.
_FIRST = 'echo half > "$CHECKPOINT_DIR/half.pt"; trap "exit 0" TERM; sleep 300 & wait'
_SECOND = 'sleep 15; echo weights > "$CHECKPOINT_DIR/student.pt"'


@dataclass(frozen=True)
class Story:
    """What was seen while the second run waited, and all that is on record of both."""

    project: ClusterProject
    waiting: dict[str, Any]
    listed: str
    overview: str
    said: str
    first: list[dict[str, Any]]
    second: list[dict[str, Any]]
    pods: list[dict[str, Any]]


def ended(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The end of a run's one attempt."""
    [end] = [e for e in events if e["type"] in ("StageSucceeded", "StageFailed")]
    return end


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def has_started(project: ClusterProject, run: str) -> bool:
    """Whether it is on record; where others use the cluster too, they may have the GPU first."""
    return any(event["type"] == "StageStarted" for event in project.recorded(run))


@contextmanager
def submitted(project: ClusterProject, run: str, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher of a run of this one stage; what it says goes to a file."""
    (project.root / f"{run}.env").write_text(f"RETRAIN_CMD='{command}'\n")
    words = [str(LAUNCHER), *job_project.submit(run, profile="gpu.yaml")]
    with (
        (project.root / "runs" / f"{run}.said").open("wb") as said,
        subprocess.Popen(
            words, cwd=project.root, env=project.environment, stdout=said, stderr=said
        ) as launcher,
    ):
        try:
            yield launcher
        finally:
            launcher.kill()


@pytest.fixture(scope="module")
def story(project: ClusterProject) -> Story:
    cluster = project.cluster
    if not cluster.own:
        pytest.skip("the given cluster may have more than one GPU, or none")
    profile = job_project.profile(cluster, project.namespace, resources=_RESOURCES)
    profile["stages"] = {"retrain": {"infrastructure_retries": 1}}
    (project.root / "gpu.yaml").write_text(json.dumps(profile))
    (project.root / "runs").mkdir(exist_ok=True)
    elsewhere = {**project.environment, "LAUNCHER_HOME": "runs/elsewhere"}
    other = replace(project, environment=elsewhere)

    def waits() -> dict[str, Any] | None:
        shown = other.tried("status", "second", "--json")
        found = json.loads(shown.stdout)["cluster"] if shown.returncode == 0 else None
        return found if found and found["state"] == "unschedulable" else None

    def lines() -> str:
        return Path(project.root, "runs", "second.said").read_text()

    with submitted(project, "first", _FIRST) as holder:
        project.until("first", "StageStarted", "retrain")
        with submitted(project, "second", _SECOND) as launcher:
            waiting = cluster.until(waits)
            cluster.until(lambda: _WORDS in lines())
            listed, overview = project.launcher("list"), other.launcher()
            project.launcher("cancel", "first", "--reason", "make room")
            assert holder.wait(60)
            cluster.until(lambda: has_started(project, "second"), seconds=240)
            launcher.kill()
            launcher.wait()
    [pod] = project.of("pods", "second")
    name = pod["metadata"]["name"]
    about = {"name": name, "namespace": project.namespace}
    cluster.kubectl(
        *("create", "--raw", f"/api/v1/namespaces/{project.namespace}/pods/{name}/eviction"),
        *("-f", "-"),
        given=json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": about}),
    )

    def others() -> list[dict[str, Any]]:
        found = project.of("pods", "second")
        return [one for one in found if one["metadata"]["uid"] != pod["metadata"]["uid"]]

    [_] = cluster.until(others)
    other.launcher("resume", "second")
    told = project.recorded("first"), project.recorded("second")
    return Story(project, waiting, listed, overview, lines(), *told, [pod, *others()])


def test_status_says_from_anywhere_for_what_it_waits(story: Story) -> None:
    assert story.waiting["waits_for"] == _WORDS
    assert story.waiting["stage"] == "retrain"
    assert moment(story.waiting["since"]) > moment(story.first[0]["time"])
    assert story.waiting["error"] is None
    assert "retrain  waits" in story.overview
    assert _WORDS in story.overview
    [row] = [line for line in story.listed.splitlines() if line.startswith("second")]
    assert "waiting" in row


def test_submit_says_it_once(story: Story) -> None:
    said = [line for line in story.said.splitlines() if _WORDS in line]
    assert len(said) == 1
    assert said[0].startswith("retrain  waits ")


def test_the_wait_is_on_record_and_is_no_time_of_the_gpu(story: Story) -> None:
    seconds = ended(story.second)["data"]["seconds"]
    requested = moment(story.second[0]["time"])
    [freed] = [e["time"] for e in story.first if e["type"] == "StageFailed"]
    started = [e for e in story.second if e["type"] == "StageStarted"]
    waited = moment(started[0]["data"]["held_since"]) - requested
    # Of the first pod, which nobody counted, only when it got its node is known.
    assert seconds["queued"] + seconds["scheduled"] == pytest.approx(waited, abs=6)
    assert waited >= moment(freed) - requested - 10
    assert None not in seconds.values()
    held = ended(story.second)["data"]["held"]["gpus"][GPU]
    whole = moment(ended(story.second)["time"]) - requested
    assert held <= whole - waited + 3


def test_both_pods_held_it_though_nobody_saw_the_first_one_go(story: Story) -> None:
    first, second = story.pods
    started = {e["data"]["pod_uid"]: e for e in story.second if e["type"] == "StageStarted"}
    assert set(started) == {one["metadata"]["uid"] for one in story.pods}
    since = moment(started[first["metadata"]["uid"]]["data"]["held_since"])
    replaced = moment(second["metadata"]["creationTimestamp"])
    again = moment(started[second["metadata"]["uid"]]["data"]["held_since"])
    end = ended(story.second)
    wanted = (replaced - since) + (moment(end["time"]) - again)
    data = end["data"]
    assert data["gpus"] == 1
    assert data["held"]["gpus"][GPU] == pytest.approx(wanted, abs=4)
    assert data["held"]["gpus"][GPU] >= 15 + 1
    # Our own containers ask for something, too; this profile lets them ask for nothing.
    assert data["held"]["cpu"] == pytest.approx(0.1 * data["held"]["gpus"][GPU])
    assert data["held"]["memory"] == pytest.approx(data["held"]["gpus"][GPU] / 16)
    assert data["seconds"]["running"] >= 15 + (replaced - since)


def test_what_a_cancelled_stage_held_is_on_record(story: Story) -> None:
    data = ended(story.first)["data"]
    [started] = [e for e in story.first if e["type"] == "StageStarted"]
    assert data["cause"] == "cancelled"
    wanted = moment(ended(story.first)["time"]) - moment(started["data"]["held_since"])
    assert data["held"]["gpus"][GPU] == pytest.approx(wanted, abs=4)


def test_status_and_list_show_hours_and_cost(story: Story) -> None:
    prices = {**story.project.environment, "LAUNCHER_PRICES": f"EUR {GPU}=3600"}
    priced = replace(story.project, environment=prices)
    document = json.loads(priced.launcher("status", "second", "--json"))
    held = ended(story.second)["data"]["held"]["gpus"][GPU]
    assert document["held"]["gpu_seconds"] == {GPU: held}
    assert document["cost"]["amount"] == pytest.approx(held, abs=0.01)
    shown = priced.launcher("status", "second")
    assert "GPU-h" in shown.splitlines()[0]
    assert f"{document['cost']['amount']:.2f} EUR" in shown.splitlines()[0]
    [stage] = [line for line in shown.splitlines() if line.startswith("retrain")]
    assert "waited " in stage
    assert "1 GPU " in stage
    listed = priced.launcher("list")
    assert "GPU-h" in listed
    assert "sum of these:" in listed


def test_what_a_cancelled_stage_saved_is_kept_and_an_audit_is_clean(story: Story) -> None:
    document = json.loads(story.project.launcher("status", "first", "--json"))
    assert [one["path"] for one in document["kept"]] == ["checkpoints/half.pt"]
    shown = story.project.launcher("status", "first")
    assert "kept    1 checkpoint, 5 B: launcher restore first" in shown.splitlines()
    story.project.launcher("audit")


def test_a_profile_s_infrastructure_retries_are_in_the_plan(story: Story) -> None:
    plans = {p["name"]: p for p in story.second[0]["data"]["stages"]}
    assert plans["retrain"]["infrastructure_retries"] == 1
