"""The committed result decides: pods, collectors and Jobs that go in the moments around it, on a real cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fault.cluster_pods import PodRuns, pod_runs, processes_of
from tests.rig.fault_proxy import FaultProxy, Request, held, proxied
from tests.rig.k8s import OUTSIDE, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_BIG = 300_000
_LEAVES = (
    # Of each run its own: what is in the store already is not sent.
    f'{{ head -c {_BIG} /dev/zero; echo "$RUN_ID"; }} > "$ARTIFACT_DIR/big"; echo weights > "$CHECKPOINT_DIR/part"; '
    'mv "$CHECKPOINT_DIR/part" "$CHECKPOINT_DIR/student.pt"; echo "$HOSTNAME" > "$ARTIFACT_DIR/who"'
)
_COMMANDS = {
    "killed": _LEAVES,
    "removed": _LEAVES,
    "overdue": _LEAVES,
    "committed": _LEAVES,
    "twice": _LEAVES,
    "deleted": f'if [ "$ATTEMPT" = 1 ]; then sleep 300; fi; {_LEAVES}',
    "cleaned": _LEAVES,
}
_PROFILES = {"overdue": "collect_deadline_seconds: 3\ngrace_seconds: 1\nsave_seconds: 5"}
#: What each pod's store does not answer before its gate is opened.
_HELD = {
    **dict.fromkeys(("killed", "removed", "overdue", "committed", "cleaned"), "blobs/"),
    "twice": "retrain/1/result.json",
}


@dataclass
class Gate:
    """Between a run's pods and their bucket: what is held back waits until it opens."""

    proxy: FaultProxy
    opened: threading.Event = field(default_factory=threading.Event)
    waiting: list[Request] = field(default_factory=list)

    def hold(self, key: str) -> None:
        def is_held(request: Request) -> bool:
            found = len(request.body) >= _BIG or not key.startswith("blobs/")
            if found:
                self.waiting.append(request)
            return found

        self.proxy.rule(held(self.opened), method="PUT", key=key, times=1000, when=is_held)


@dataclass
class World:
    runs: PodRuns
    gates: dict[str, Gate]

    def until_held(self, run: str, times: int = 1) -> None:
        self.runs.until(lambda: len(self.gates[run].waiting) >= times)

    def until_result(self, run: str) -> None:
        self.runs.until(lambda: self.runs.object(run, "result.json"))

    def succeeded(self, run: str, pods: int = 1, attempts: int = 1) -> dict[str, bytes]:
        """The run ended well, each fact told once; returns what the stage left."""
        ended = self.runs.ended(run)
        assert ended.code == 0, ended.said
        told = [one["type"] for one in self.runs.events(run)]
        for kind, times in (
            ("StageIntended", attempts),
            ("StageSubmitted", attempts),
            ("StageStarted", pods),
            ("StageSucceeded", 1),
            ("RunSucceeded", 1),
        ):
            assert told.count(kind) == times, (kind, told)
        outputs = self.runs.outputs(run)
        assert outputs["artifacts/big"] == bytes(_BIG) + f"{run}\n".encode()
        assert outputs["checkpoints/student.pt"] == b"weights\n"
        return outputs


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All runs at once."""
    with ExitStack() as stack:
        runs = stack.enter_context(pod_runs(cluster, tmp_path_factory.mktemp("results")))
        assert cluster.s3
        gates = {}
        for run, key in _HELD.items():
            gate = Gate(stack.enter_context(proxied(cluster.s3, OUTSIDE)))
            stack.callback(gate.opened.set)
            gate.hold(key)
            gates[run] = gate
        for run, command in _COMMANDS.items():
            endpoint = gates[run].proxy.endpoint if run in gates else ""
            runs.begin(
                run, command, _PROFILES.get(run, ""), "INFRASTRUCTURE_RETRIES=1", endpoint=endpoint
            )
        yield World(runs, gates)


def test_a_job_that_is_deleted_before_its_result_is_lost_and_tried_again(world: World) -> None:
    pod = world.runs.started("deleted")
    job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    world.runs.cluster.kubectl("-n", world.runs.namespace, "delete", "job", job, "--wait=false")
    world.succeeded("deleted", pods=2, attempts=2)
    [failed] = world.runs.events("deleted", "StageFailed")
    assert (failed["cause"], failed["attempt"], failed["exit_code"]) == ("lost", 1, None), failed


def test_a_job_that_is_cleaned_up_before_anybody_looked_has_its_result(world: World) -> None:
    runs = world.runs
    pod = runs.started("cleaned")
    world.until_held("cleaned")
    launcher = runs.begun("cleaned")
    launcher.send_signal(signal.SIGSTOP)
    world.gates["cleaned"].opened.set()
    world.until_result("cleaned")
    job = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    runs.cluster.kubectl("-n", runs.namespace, "delete", "job", job, "--cascade=foreground")
    runs.until(lambda: not runs.pods("cleaned"))
    launcher.send_signal(signal.SIGCONT)
    world.succeeded("cleaned")


def test_a_collector_that_is_killed_again_and_again_goes_on_from_the_volume(world: World) -> None:
    runs = world.runs
    world.until_held("killed")
    [pod] = runs.pods("killed")
    for times in (1, 2):
        runs.kill_container(pod, "collect")
        runs.until(lambda times=times: runs.restarts(pod, "collect") == times)  # type: ignore[misc]
        world.until_held("killed", times + 1)
        assert runs.object("killed", "result.json") is None
    world.gates["killed"].opened.set()
    world.succeeded("killed")
    result = runs.object("killed", "result.json")
    assert result is not None
    assert result["pod"]["uid"] == pod["metadata"]["uid"]


def test_a_pod_that_is_deleted_while_it_collects_is_replaced_within_the_attempt(
    world: World,
) -> None:
    runs = world.runs
    world.until_held("removed")
    [pod] = runs.pods("removed")
    name, of = pod["metadata"]["name"], ("-n", runs.namespace)
    runs.cluster.kubectl(*of, "delete", "pod", name, "--wait=false")
    said = (*of, "logs", name, "-c", "command")
    runs.until(lambda: "told to end" in runs.cluster.tried(*said).stdout)
    assert runs.object("removed", "result.json") is None
    world.gates["removed"].opened.set()
    outputs = world.succeeded("removed", pods=2)
    result = runs.object("removed", "result.json")
    assert result is not None
    assert result["pod"]["uid"] != pod["metadata"]["uid"]
    assert outputs["artifacts/who"] == f"{result['pod']['name']}\n".encode()


def test_what_is_not_collected_in_time_fails_by_its_outputs(world: World) -> None:
    runs = world.runs
    ended = runs.ended("overdue")
    assert ended.code == 70, ended.said
    assert ended.last.endswith("overdue failed: stage=retrain cause=outputs exit_code=70")
    [failed] = runs.events("overdue", "StageFailed")
    assert "its outputs were not collected in time" in failed["message"], failed
    result = runs.object("overdue", "result.json")
    assert result is not None
    assert (result["exit_code"], result["closed_by"]) == (None, "outputs")
    assert runs.events("overdue", "CheckpointRecorded") == []


def test_a_pod_that_fails_after_its_result_was_committed_changes_nothing(world: World) -> None:
    """Its wrapper is stopped before it hears that all is collected, and killed after."""
    runs = world.runs
    launcher = runs.begun("committed")
    world.until_held("committed")
    launcher.send_signal(signal.SIGSTOP)
    [wrapper] = [one for one in processes_of("/committed/logs/") if _is_first(one)]
    os.kill(wrapper, signal.SIGSTOP)
    world.gates["committed"].opened.set()
    world.until_result("committed")
    [pod] = runs.pods("committed")
    runs.kill_container(pod, "command")

    def failed() -> bool:
        [job] = runs.jobs("committed")
        return any(one["type"] == "Failed" for one in job["status"].get("conditions", []))

    runs.until(failed)
    launcher.send_signal(signal.SIGCONT)
    world.succeeded("committed")
    [pod] = runs.pods("committed")
    assert pod["status"]["phase"] == "Failed"


def test_of_two_pods_of_one_attempt_one_commits_and_it_is_told_once(world: World) -> None:
    runs = world.runs
    world.until_held("twice")
    [pod] = runs.pods("twice")
    runs.cluster.apply(runs.namespace, _another(pod))

    def comers() -> set[bytes]:
        """The pods that wait; one that asks again, since nobody answers it, is the same."""
        asked = [re.search(rb'"uid":"([^"]+)"', one.body) for one in world.gates["twice"].waiting]
        return {found[1] for found in asked if found}

    runs.until(lambda: len(comers()) == 2)
    world.gates["twice"].opened.set()
    result = runs.until(lambda: runs.object("twice", "result.json"))
    assert result is not None
    ended = runs.ended("twice")
    assert ended.code == 0, ended.said
    told = [one["type"] for one in runs.events("twice")]
    assert told.count("StageSucceeded") == told.count("StageIntended") == 1
    assert runs.outputs("twice")["artifacts/who"] == f"{result['pod']['name']}\n".encode()

    def over() -> list[str]:
        phases = [one["status"]["phase"] for one in runs.pods("twice")]
        return phases if set(phases) <= {"Succeeded", "Failed"} else []

    assert runs.until(over) == ["Succeeded", "Succeeded"]
    assert runs.object("twice", "result.json") == result


def _is_first(pid: int) -> bool:
    """Whether it is the first process of its container."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = status.partition("NSpid:")[2].splitlines()[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def _another(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod once more, with nobody who made it."""
    copy = json.loads(json.dumps(pod))
    del copy["spec"]["nodeName"]
    labels = {
        name: value
        for name, value in copy["metadata"]["labels"].items()
        if "batch.kubernetes.io" not in name and name not in ("controller-uid", "job-name")
    }
    about = {"name": f"{copy['metadata']['name']}-again", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": copy["spec"]}
