"""A pod that is taken away while it trains: evicted, deleted, suspended with its Job, preempted. The same attempt goes
on in another pod, from the checkpoint that the first one saved; the log of both is kept, and nothing is a failure.

All of it happens at once; each test looks at its own run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fault.cluster_runs import ClusterRuns, Ended, Launch, cluster_runs
from tests.rig.gate import Gate, gate
from tests.rig.jobs import RESTRICTED
from tests.rig.k8s import GPU, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

#: Saved by a rename while it trains, and once more when it is told to end; it says 0 of that, as trainers do.
_TRAIN = """
save() {{ echo "weights $1" > "$CHECKPOINT_DIR/part"; mv "$CHECKPOINT_DIR/part" "$CHECKPOINT_DIR/$1.pt"; }}
if [ -n "${{RESUME_CHECKPOINT:-}}" ]; then
  echo "goes on from $(cat "$RESUME_CHECKPOINT")"
  {passing}
  save student
  exit
fi
trap "{trap}; exit 0" TERM
save step-17
echo trained
{coming} || :
"""
_STAGE = "retrain"


class Taken:
    """How a run's first pod is taken away once its first checkpoint is saved."""

    def __init__(self, runs: ClusterRuns, doors: Gate, priority: str) -> None:
        self.runs, self.doors, self.priority = runs, doors, priority

    def evict(self, run: str) -> None:
        pod = self._trains(run)
        about = {"name": pod, "namespace": self.runs.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": about}
        url = f"/api/v1/namespaces/{self.runs.namespace}/pods/{pod}/eviction"
        self.runs.cluster.kubectl("create", "--raw", url, "-f", "-", given=json.dumps(body))

    def delete(self, run: str) -> None:
        self._kubectl("delete", "pod", self._trains(run), "--wait=false")

    def suspend(self, run: str) -> None:
        self._trains(run)
        [job] = self.runs.jobs(run)
        self._kubectl("patch", "job", job["metadata"]["name"], "-p", '{"spec": {"suspend": true}}')
        self.runs.until(lambda: not self.runs.pods(run))
        self.runs.until(lambda: "it was suspended" in self.runs.forked_said(run))
        self._kubectl("patch", "job", job["metadata"]["name"], "-p", '{"spec": {"suspend": false}}')

    def preempt(self, run: str) -> None:
        self._trains(run)
        container = {
            "name": "command",
            "image": self.runs.cluster.bash_image,
            "command": ["sleep", "1"],
            "securityContext": RESTRICTED,
            "resources": {"limits": {GPU: "1"}},
        }
        spec = {
            "restartPolicy": "Never",
            "priorityClassName": self.priority,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        }
        about = {"name": "urgent"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}
        self.runs.cluster.apply(self.runs.namespace, pod)

    def _trains(self, run: str) -> str:
        """The pod, once it has saved."""
        self.doors.here(f"{run} {_STAGE}")
        progress = self.runs.objects(run) / "runs" / run / _STAGE / "1" / "progress"
        self.runs.until(lambda: progress.exists() and any(progress.glob("*/*.json")))
        [pod] = self.runs.pods(run)
        return str(pod["metadata"]["name"])

    def _kubectl(self, *arguments: str) -> None:
        self.runs.cluster.kubectl("-n", self.runs.namespace, *arguments)


#: How, what the command does when it is told to end, and what the second pod goes on from.
CASES: dict[str, tuple[Callable[[Taken, str], None], str, str]] = {
    "evicted": (Taken.evict, "save step-18", "step-18"),
    "deleted": (Taken.delete, ":", "step-17"),
    "suspended": (Taken.suspend, "save step-18", "step-18"),
    "preempted": (Taken.preempt, ":", "step-17"),
}


@pytest.fixture(scope="module")
def priority(cluster: Cluster) -> Iterator[str]:
    """A class of pods that others make way for."""
    name = f"rig-{secrets.token_hex(3)}"
    cluster.kubectl("create", "priorityclass", name, "--value=1000")
    yield name
    cluster.kubectl("delete", "priorityclass", name)


@pytest.fixture(scope="module")
def ended(
    cluster: Cluster, priority: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ClusterRuns, Gate, dict[str, Ended]]]:
    with (
        cluster_runs(cluster, tmp_path_factory.mktemp("disruptions")) as runs,
        ThreadPoolExecutor(len(CASES) + 1) as pool,
        gate() as doors,
    ):
        launches = {}
        for run, (_, trap, _) in CASES.items():
            command = _TRAIN.format(passing=doors.passing, coming=doors.coming, trap=trap)
            profile = "resources: {gpus: 1}" if run == "preempted" else ""
            wanted = ("--promotion-target", f"of-{run}")
            typed = runs.submit(run, *wanted, profile=profile, retrain=command)
            launches[run] = Launch(run, typed)
        driven = pool.submit(runs.forked, launches)
        taken = Taken(runs, doors, priority)
        for one in [pool.submit(how, taken, run) for run, (how, _, _) in CASES.items()]:
            one.result()
        yield runs, doors, driven.result()


@pytest.mark.parametrize("run", CASES)
def test_the_attempt_goes_on_in_another_pod_from_what_was_saved(
    ended: tuple[ClusterRuns, Gate, dict[str, Ended]], run: str
) -> None:
    runs, doors, ends = ended
    saved = CASES[run][2]
    assert ends[run].code == 0, ends[run].said
    runs.check(run, _STAGE, pods=2)
    assert runs.log(run, _STAGE) == f"trained\ngoes on from weights {saved}\n"
    assert doors.came.count(f"{run} {_STAGE}") == 2
    intents = [one for one in runs.recorded(run) if one["type"] == "StageIntended"]
    assert [one["data"]["attempt"] for one in intents] == [1]
    kept = {one["path"].rsplit("/", 1)[-1]: one for one in _checkpoints(runs, run)}
    assert runs.blob(run, kept["student.pt"]["digest"]) == "weights student\n"
    assert kept["student.pt"]["student"]


def _checkpoints(runs: ClusterRuns, run: str) -> list[dict[str, Any]]:
    events = runs.recorded(run)
    return [one["data"] for one in events if one["type"] == "CheckpointRecorded"]
