"""Record what a real cluster says of Jobs in each of their states: ``python -m tests.rig.record [CASE ...]``.

Each case of ``CASES`` runs in a namespace of its own until its moment comes, which is then written to
tests/k8s/recorded/CASE.yaml: the Job, its pods and the events about both, as the API server gave them, less
``managedFields``. ``job`` is null where there is none any more. Run again, it overwrites; without names, all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from tests.rig.jobs import container, finished, job, sidecar
from tests.rig.k8s import Cluster, using

__all__ = ["CASES", "FOLDER", "Case", "Moment", "read"]

FOLDER = Path(__file__).parents[1] / "k8s" / "recorded"
_SECONDS = 90
_WAIT = "trap 'exit 143' TERM; sleep 300 & wait"
#: Until bash itself, or one that it started, has more than its container may.
_GREEDY = "x=$(head -c 100m /dev/zero | tr '\\0' x)"
_SMALL = {"resources": {"limits": {"memory": "32Mi", "cpu": "500m"}}}


@dataclass(frozen=True)
class Moment:
    """What the API server has of one Job at one moment."""

    job: dict[str, Any] | None
    pods: list[dict[str, Any]]
    events: list[dict[str, Any]]

    def ended(self) -> bool:
        """The Job's own end, whatever it is."""
        return self.job is not None and finished(self.job) is not None

    def condition(self, kind: str) -> bool:
        """A pod has this condition."""
        return any(
            one["type"] == kind and one["status"] == "True"
            for pod in self.pods
            for one in pod["status"].get("conditions", [])
        )

    def states(self, kind: str) -> list[dict[str, Any]]:
        """Of all containers of all pods that are running, waiting or terminated, what is said of it."""
        return [
            one["state"][kind]
            for pod in self.pods
            for part in ("containerStatuses", "initContainerStatuses")
            for one in pod["status"].get(part, [])
            if kind in one["state"]
        ]

    def event(self, reason: str) -> bool:
        """Something was said for this reason."""
        return any(one["reason"] == reason for one in self.events)


Then = Callable[["Scene"], None]


@dataclass(frozen=True)
class Case:
    """A Job, what is done to it, and the moment that is kept."""

    body: Callable[[Cluster], dict[str, Any]]
    moment: Callable[[Moment], bool] = Moment.ended
    #: Before the Job is made.
    first: Then | None = None
    #: Once the command runs.
    then: Then | None = None


@dataclass
class Scene:
    """One case on the cluster."""

    cluster: Cluster
    namespace: str
    name: str

    def now(self) -> Moment:
        """What there is, asked for at once."""
        batch, core, namespace = client.BatchV1Api(), client.CoreV1Api(), self.namespace
        jobs = _items(batch.list_namespaced_job(namespace, _preload_content=False))
        kept = [one for one in jobs if one["metadata"]["name"] == self.name]
        pods = [
            one
            for one in _items(core.list_namespaced_pod(namespace, _preload_content=False))
            if one["metadata"]["labels"].get("rig") == self.name
        ]
        names = {self.name, *(one["metadata"]["name"] for one in pods)}
        events = [
            one
            for one in _items(core.list_namespaced_event(namespace, _preload_content=False))
            if one["involvedObject"]["name"] in names
        ]
        return Moment(kept[0] if kept else None, pods, events)

    def until(self, moment: Callable[[Moment], bool]) -> Moment:
        """The first moment of this kind; looked for often, since some are short."""
        end = time.monotonic() + _SECONDS
        while not moment(now := self.now()):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {json.dumps(now.__dict__)[-2000:]}")
            time.sleep(0.02)
        return now

    def running(self) -> dict[str, Any]:
        """The pod, once its command runs."""

        def command(now: Moment) -> bool:
            return any(
                "running" in one["state"]
                for pod in now.pods
                for one in pod["status"].get("containerStatuses", [])
            )

        return self.until(command).pods[0]

    def evict(self) -> None:
        """Ask for the pod's place, as a drain does."""
        pod = self.running()["metadata"]["name"]
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        url = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.cluster.kubectl("create", "--raw", url, "-f", "-", given=json.dumps(eviction))

    def evict_and_wait(self) -> None:
        """The first pod is seen on its way out before the second is looked for."""
        self.evict()
        self.until(_replaced)

    def delete(self) -> None:
        """Delete the Job behind everybody's back."""
        self.cluster.kubectl("-n", self.namespace, "delete", "job", self.name, "--wait=false")

    def suspend(self) -> None:
        """Suspend the Job, as a queue does."""
        patch = '{"spec": {"suspend": true}}'
        self.cluster.kubectl("-n", self.namespace, "patch", "job", self.name, "-p", patch)

    def quota(self) -> None:
        """No pod may be made here."""
        self.cluster.kubectl("-n", self.namespace, "create", "quota", "none", "--hard=pods=0")

    def taken(self) -> None:
        """Another Job has the one GPU."""
        image = self.cluster.bash_image
        self.cluster.apply(self.namespace, job("other", container(image, _WAIT), gpus=1))
        Scene(self.cluster, self.namespace, "other").running()

    def preempt(self) -> None:
        """One that matters more wants the GPU."""
        pod = {"priorityClassName": "system-cluster-critical"}
        urgent = job("urgent", container(self.cluster.bash_image, ":"), gpus=1, pod=pod)
        self.cluster.apply(self.namespace, urgent)


def _items(answer: Any) -> list[dict[str, Any]]:
    read: dict[str, Any] = json.loads(answer.data)
    return list(read["items"])


def _simple(command: str, **more: Any) -> Callable[[Cluster], dict[str, Any]]:
    """A Job, not yet named, whose command is this."""
    gpus = more.pop("gpus", 0)
    around = more.pop("around", {})
    pod = more.pop("pod", None)
    return lambda cluster: job(
        "case", container(cluster.bash_image, command, **more), gpus=gpus, pod=pod, **around
    )


def _beside(command: str, beside: str) -> Callable[[Cluster], dict[str, Any]]:
    def body(cluster: Cluster) -> dict[str, Any]:
        image = cluster.bash_image
        return job("case", container(image, command), sidecar(image, beside))

    return body


def _fetching(beside: str) -> Callable[[Cluster], dict[str, Any]]:
    def body(cluster: Cluster) -> dict[str, Any]:
        image = cluster.bash_image
        return job("case", container(image, ":"), container(image, beside, "fetch"))

    return body


def _waits(reason: str) -> Callable[[Moment], bool]:
    return lambda now: any(one.get("reason") == reason for one in now.states("waiting"))


def _unschedulable(now: Moment) -> bool:
    return any(
        one.get("reason") == "Unschedulable"
        for pod in now.pods
        for one in pod["status"].get("conditions", [])
    )


def _replaced(now: Moment) -> bool:
    return now.condition("DisruptionTarget") and any(
        one["status"]["phase"] == "Failed" for one in now.pods
    )


def _gone(now: Moment) -> bool:
    return now.job is None and not now.pods


CASES: dict[str, Case] = {
    "succeeded": Case(_beside("echo done", "trap 'exit 0' TERM; while :; do sleep 0.1; done")),
    "running": Case(
        _beside("sleep 5", "trap 'exit 0' TERM; while :; do sleep 0.1; done"),
        lambda now: len(now.states("running")) == 2,
    ),
    "exit-7": Case(_simple("exit 7")),
    "out-of-memory": Case(_simple(_GREEDY, **_SMALL)),
    "out-of-memory-child": Case(_simple(f'bash -c "{_GREEDY}"; exit $?', **_SMALL)),
    "image-missing": Case(_simple(":", image="rig.local/absent:1"), _waits("ImagePullBackOff")),
    "image-never-pulled": Case(
        _simple(":", image="rig.local/absent:1", imagePullPolicy="Never"),
        _waits("ErrImageNeverPull"),
    ),
    "image-name-invalid": Case(_simple(":", image="Rig.local/UPPER:1"), _waits("InvalidImageName")),
    "unschedulable": Case(_simple(":", gpus=2), _unschedulable),
    "waiting-for-gpu": Case(_simple(":", gpus=1), _unschedulable, first=Scene.taken),
    "evicted": Case(_simple(_WAIT), _replaced, then=Scene.evict),
    "evicted-and-replaced": Case(
        _simple(_WAIT),
        lambda now: bool(now.job and now.pods and not now.condition("DisruptionTarget")),
        then=Scene.evict_and_wait,
    ),
    "preempted": Case(_simple(_WAIT, gpus=1), _replaced, then=Scene.preempt),
    "volume-limit": Case(
        _simple(
            "head -c 8m /dev/zero > /shared/big; sleep 120",
            pod={"volumes": [{"name": "shared", "emptyDir": {"sizeLimit": "1Mi"}}]},
        )
    ),
    "deadline": Case(_simple(_WAIT, around={"activeDeadlineSeconds": 3})),
    "deleting": Case(
        _simple("trap 'sleep 3; exit 143' TERM; sleep 300 & wait"),
        lambda now: any("deletionTimestamp" in pod["metadata"] for pod in now.pods),
        then=Scene.delete,
    ),
    "deleted": Case(_simple(_WAIT), _gone, then=Scene.delete),
    "suspended": Case(_simple(":", around={"suspend": True}), lambda now: bool(_suspended(now))),
    "suspended-while-running": Case(
        _simple(_WAIT), lambda now: _suspended(now) and not now.pods, then=Scene.suspend
    ),
    "quota": Case(_simple(":"), lambda now: now.event("FailedCreate"), first=Scene.quota),
    "refused-by-pod-security": Case(
        _simple(":", securityContext={"runAsNonRoot": False}), lambda now: now.event("FailedCreate")
    ),
    "node-refused": Case(_simple(":", gpus=2, pod={"nodeName": "rig-node"})),
    "fetch-failed": Case(_fetching("exit 3")),
    # One that ends at once is never seen started, and what waits for it never starts either.
    "sidecar-never-started": Case(_beside("sleep 20", "exit 1"), lambda now: now.event("BackOff")),
    "sidecar-crashing": Case(
        _beside("sleep 60", "sleep 2; exit 1"), lambda now: now.event("BackOff")
    ),
    "secret-missing": Case(
        _simple(
            ":",
            env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "one"}}}],
        ),
        _waits("CreateContainerConfigError"),
    ),
}


def _suspended(now: Moment) -> bool:
    return now.job is not None and any(
        one["type"] == "Suspended" and one["status"] == "True"
        for one in now.job.get("status", {}).get("conditions", [])
    )


def record(cluster: Cluster, name: str, case: Case) -> Moment:
    """Run one case and keep its moment."""
    with cluster.namespace() as namespace:
        scene = Scene(cluster, namespace, name)
        if case.first:
            case.first(scene)
        body = case.body(cluster)
        body["metadata"]["name"] = name
        body["spec"]["template"]["metadata"]["labels"]["rig"] = name
        cluster.apply(namespace, body)
        if case.then:
            scene.running()
            case.then(scene)
        return scene.until(case.moment)


def read(name: str) -> Moment:
    """The moment that is kept in FOLDER."""
    kept = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return Moment(kept["job"], kept["pods"], kept["events"])


def write(name: str, moment: Moment) -> Path:
    """The moment, as a file of FOLDER."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.yaml"
    kept = {"job": moment.job, "pods": moment.pods, "events": moment.events}
    path.write_text(yaml.safe_dump(_without_fields(kept), sort_keys=True, width=120))
    return path


def _without_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_fields(one) for key, one in value.items() if key != "managedFields"}
    if isinstance(value, list):
        return [_without_fields(one) for one in value]
    return value


def main(names: list[str]) -> int:
    """Record the named cases, or all."""
    if unknown := sorted(set(names) - set(CASES)):
        print(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    with using() as cluster:
        load: Any = config.load_kube_config
        load(str(cluster.kubeconfig))
        for name in names or CASES:
            began = time.monotonic()
            path = write(name, record(cluster, name, CASES[name]))
            print(f"{path}  {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
