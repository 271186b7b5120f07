"""The administrator's policy on a real API server: what a launcher's token may not make, and that a release passes."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.releases import Team, team
from tests.rig.helm import CHARTS
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

Object = dict[str, Any]

_PIPELINE = {
    "schedule": "@yearly",
    "suspend": True,
    "config": "RETRAIN_CMD='echo w > \"$CHECKPOINT_DIR/student.pt\"'\n",
    "files": {"teacher.txt": "a teacher", "scorecard.json": "{}"},
    "teacherCheckpoint": "files/teacher.txt",
    "teacherScorecard": "files/scorecard.json",
    "promotionTarget": "student",
}


@pytest.fixture(scope="module")
def ours(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A namespace with the policy, and a release in it."""
    with team(cluster, tmp_path_factory.mktemp("charts") / "team") as made:
        values = {
            "namespaces": [made.namespace],
            "accounts": {
                "launchers": ["nightly-launcher"],
                "stages": ["nightly-stages"],
                "others": ["nightly-care"],
            },
            "images": [cluster.bash_image, cluster.agent_image.partition(":")[0] + ":"],
            "secrets": ["store"],
        }
        (made.root / "admin.json").write_text(json.dumps(values))
        policy = f"admission-{made.namespace}"
        file = f"--values={made.root / 'admin.json'}"
        made.helm("install", policy, str(CHARTS / "distill-ledger-admin"), file)
        try:
            made.install("nightly", made.values(pipelines={"yearly": _PIPELINE}))
            yield made
        finally:
            made.helm("uninstall", policy)


@pytest.fixture(scope="module")
def launcher(ours: Team) -> Path:
    """A kubeconfig with the launcher's own token."""
    return ours.as_account("nightly-launcher")


@pytest.fixture(scope="module")
def good(ours: Team) -> Object:
    """The Job of a stage, as a launcher makes it."""
    found = ours.get("configmap", "nightly-yearly")["data"]
    for name, text in found.items():
        (ours.root / name).write_text(text)
    for name, text in _PIPELINE["files"].items():  # type: ignore[attr-defined]
        (ours.root / name).write_text(text)
    given = ("--teacher-checkpoint=teacher.txt", "--teacher-scorecard=scorecard.json")
    printed = ours.launcher(
        *("submit", "--executor=kubernetes", "--profile=profile.yaml", "--config=config.env"),
        *(*given, "--code=image", "--dry-run", "-o", "yaml"),
    )
    (job,) = [one for one in yaml.safe_load_all(printed) if one]
    return dict(job)


def tried(ours: Team, kubeconfig: Path, job: Object) -> subprocess.CompletedProcess[str]:
    """What the API server says of the Job, which it does not make."""
    words = ("--kubeconfig", str(kubeconfig), "-n", ours.namespace, "create", "--dry-run=server")
    return ours.cluster.tried(*words, "-f", "-", given=json.dumps(job))


def pod_of(job: Object) -> Object:
    return dict(job["spec"]["template"]["spec"])


def command_of(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]["containers"][0]
    return found


def spec(**more: Any) -> Callable[[Object], None]:
    return lambda job: job["spec"]["template"]["spec"].update(more)


def volume(**source: Any) -> Callable[[Object], None]:
    return lambda job: job["spec"]["template"]["spec"]["volumes"].append({"name": "bad", **source})


def security(**more: Any) -> Callable[[Object], None]:
    return lambda job: command_of(job)["securityContext"].update(more)


def variable(**source: Any) -> Callable[[Object], None]:
    return lambda job: command_of(job)["env"].append({"name": "BAD", "valueFrom": source})


def command(**more: Any) -> Callable[[Object], None]:
    return lambda job: command_of(job).update(more)


def first_image(job: Object) -> None:
    job["spec"]["template"]["spec"]["initContainers"][0]["image"] = "docker.io/library/bash:5"


_TOKEN = {"sources": [{"serviceAccountToken": {"path": "token"}}]}
_BAD: dict[str, tuple[Callable[[Object], None], str]] = {
    "another Secret": (volume(secret={"secretName": "foreign"}), "a stage mounts"),
    "a folder of the node": (volume(hostPath={"path": "/etc"}), "folder of its node"),
    "the launcher's account": (
        spec(serviceAccountName="nightly-launcher"),
        "no pod of the account",
    ),
    "no account": (spec(serviceAccountName="default"), "no pod of the account default"),
    "privileged": (
        security(privileged=True, allowPrivilegeEscalation=True),
        "privileged, or has capabilities",
    ),
    "capabilities": (security(capabilities={"add": ["NET_ADMIN"]}), "or has capabilities"),
    "the node's network": (spec(hostNetwork=True), "its node's network"),
    "the node's processes": (spec(hostPID=True), "its node's network, processes"),
    "the node's memory": (spec(hostIPC=True), "processes or memory"),
    "an image from elsewhere": (command(image="docker.io/library/bash:5"), "an image"),
    "a first container's image": (first_image, "an image"),
    "a token as a volume": (volume(projected=_TOKEN), "a stage mounts"),
    "a token by itself": (spec(automountServiceAccountToken=True), "a stage has no token"),
    "another ConfigMap": (volume(configMap={"name": "foreign"}), "a stage mounts"),
    "another claim": (volume(persistentVolumeClaim={"claimName": "foreign"}), "a stage mounts"),
    "a variable of another Secret": (
        variable(secretKeyRef={"name": "foreign", "key": "id"}),
        "a stage has variables",
    ),
    "all of another Secret": (command(envFrom=[{"secretRef": {"name": "foreign"}}]), "variables"),
    "another registry's login": (spec(imagePullSecrets=[{"name": "foreign"}]), "images are had"),
    "a port of the node": (
        command(ports=[{"containerPort": 80, "hostPort": 80}]),
        "a port of its node",
    ),
    "its node by name": (spec(nodeName="rig"), "names its node"),
}


def test_what_a_launcher_makes_passes(ours: Team, launcher: Path, good: Object) -> None:
    # Not before the policy is in force is it worth anything that something passes.
    bad = copy.deepcopy(good)
    spec(hostNetwork=True)(bad)
    ours.cluster.until(lambda: tried(ours, launcher, bad).returncode)
    done = tried(ours, launcher, good)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", _BAD)
def test_a_bad_job_is_refused_with_the_launchers_own_token(
    ours: Team, launcher: Path, good: Object, what: str
) -> None:
    change, said = _BAD[what]
    bad = copy.deepcopy(good)
    change(bad)
    done = tried(ours, launcher, bad)
    assert done.returncode != 0
    assert "ValidatingAdmissionPolicy" in done.stderr
    assert said in done.stderr, done.stderr


def test_others_may_not_make_a_stage_of_it_either(ours: Team, good: Object) -> None:
    bad = copy.deepcopy(good)
    volume(secret={"secretName": "foreign"})(bad)
    assert "a stage mounts" in tried(ours, ours.cluster.kubeconfig, bad).stderr
    template = good["spec"]["template"]
    alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}, "spec": pod_of(good)}
    assert tried(ours, ours.cluster.kubeconfig, alone).returncode == 0, template
    alone["spec"] = {**pod_of(good), "serviceAccountName": "default"}
    assert (
        "no pod here has the account default" in tried(ours, ours.cluster.kubeconfig, alone).stderr
    )


def test_a_release_lives_under_it(ours: Team) -> None:
    ours.fire("nightly-yearly", "first")
    assert ours.ended("first") == "Complete", ours.log("first")
    assert ours.pointer()["live"]["generation"] == 1
    ours.fire("nightly-audit", "audit")
    assert ours.ended("audit") == "Complete", ours.log("audit")
    ours.kubectl("rollout", "restart", "deploy/nightly-exporter")
    ours.kubectl("rollout", "status", "deploy/nightly-exporter", "--timeout=60s")
    said = ours.helm("test", "nightly", "--logs", "--timeout=120s")
    assert "the API server would take the Jobs" in said
