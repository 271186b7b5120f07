"""doctor on a profile's cluster, typed as a user types it: all well, each trouble once, each missing verb by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.client import Client
from k8s.inquiry import Inquiry
from k8s.permissions import LOOK, RUN
from launcher.doctor_cluster import permissions
from tests.k8s.roles import role
from tests.rig import job_project
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_LAUNCHER = Path(sys.executable).with_name("launcher")
_RESOURCES = {"cpu": "10m", "memory": "64Mi"}
#: What the machine itself says, and a bucket: no business of these tests.
_MACHINE = (
    "python",
    "bash",
    "git",
    "home",
    "store",
    "home disk",
    "space",
    "probe",
    "sqlite",
    "ledger",
)

Object = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A project beside a namespace of its own."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]

    def profile(self, name: str = "p.yaml", **more: Any) -> str:
        """Write a profile of small stages, with ``more`` of its keys; returns its name."""
        defaults = {
            "image": self.cluster.bash_image,
            "image_pull_policy": "IfNotPresent",
            "resources": _RESOURCES,
            **more.pop("defaults", {}),
        }
        agent = job_project.agent(self.cluster)
        whole = {"namespace": self.namespace, "agent": agent, "defaults": defaults} | more
        (self.root / name).write_text(json.dumps(whole))
        return name

    def doctor(self, *arguments: str, code: int = 0, **environment: str) -> list[Object]:
        """The findings about the cluster."""
        done = subprocess.run(
            [_LAUNCHER, "doctor", "--no-probe", "--json", *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        found: list[Object] = json.loads(done.stdout)["findings"]
        names = [one["name"] for one in found]
        return found[names.index("cluster") :]


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    access = cluster.environment()
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        environment = {**os.environ, **access, "LAUNCHER_STORE": cluster.bucket()}
        yield Place(cluster, root, namespace, environment)


def secret(name: str, kind: str = "Opaque", **values: str) -> Object:
    about = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    return {**about, "type": kind, "stringData": values}


def named(kind: str, name: str, api: str = "v1", **spec: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **spec}


def limits(**item: Object) -> Object:
    return named("LimitRange", "house", spec={"limits": [{"type": "Container", **item}]})


def test_where_all_is_well_every_line_says_ok(place: Place) -> None:
    cluster = place.cluster
    login = secret(
        "login", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": '{"auths": {}}'}
    )
    cluster.apply(
        place.namespace,
        login,
        named("ConfigMap", "prompts"),
        named("ServiceAccount", "stages"),
        named("ResourceQuota", "roomy", spec={"hard": {"requests.cpu": "40", "pods": "50"}}),
        limits(default={"cpu": "1"}, defaultRequest={"cpu": "10m"}),
    )
    try:
        profile = place.profile(
            defaults={
                "image_pull_secrets": ["login"],
                "service_account": "stages",
                "priority_class": "system-cluster-critical",
                "volumes": [{"config_map": "prompts", "mount_path": "/prompts"}],
            },
            stages={"retrain": {"resources": {"gpus": 1}}},
        )
        found = place.doctor("--profile", profile)
    finally:
        cluster.kubectl("-n", place.namespace, "delete", "quota/roomy", "limitrange/house")
    assert {one["state"] for one in found} == {"ok"}, found
    said = {one["name"]: one["what"] for one in found}
    assert said["namespace"] == f"{place.namespace}, pod security restricted"
    assert said["permissions"] == f"all {len(RUN)} that a run takes"
    assert said["secrets"] == "store (id, secret), login"
    assert said["quota"] == "1 in the namespace, with room"
    assert "and 1 nvidia.com/gpu" in said["retrain"]
    assert (
        said["admission"] == "the API server would take the Jobs and pods (asked with dryRun=All)"
    )
    made = cluster.get(place.namespace, "jobs,pods")["items"]
    assert made == []


#: What is wrong with the bad profile: (name, how the line begins).
_WRONG = (
    ("account", "there is no ServiceAccount nobody"),
    ("priority", "there is no PriorityClass none-such"),
    ("runtime", "there is no RuntimeClass none-such"),
    ("secrets", "the Secret store has no key token"),
    ("secrets", "there is no Secret wandb"),
    ("secrets", "the Secret store, to pull images with, is of type Opaque"),
    ("config maps", "there is no ConfigMap prompts-of-old"),
    ("claims", "there is no PersistentVolumeClaim models"),
    ("claims", "waiting is Pending: no volume is bound to it"),
    ("queue", "the cluster has no Kueue: a Job of the queue gpus stays suspended for ever"),
    ("limits", "llm_on, relabel, retrain, llm_off: its container command asks for 8Gi memory, and"),
    ("quota", "retrain asks for 4 requests.nvidia.com/gpu, and the quota team allows 2"),
    ("retrain", "asks for 4 nvidia.com/gpu; the largest node has 1"),
    ("llm_off", "no node takes it; the nearest, "),
    ("namespace", " has pod security restricted, and the profile mounts a folder of the node"),
)  # fmt: skip


def test_each_trouble_is_said_once(place: Place) -> None:
    cluster = place.cluster
    with cluster.namespace() as namespace:
        bad = Place(cluster, place.root, namespace, place.environment)
        cluster.apply(
            namespace,
            secret("store", id="x", secret="y"),
            named(
                "PersistentVolumeClaim",
                "waiting",
                spec={
                    "storageClassName": "",
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            ),
            named("ResourceQuota", "team", spec={"hard": {"requests.nvidia.com/gpu": "2"}}),
            limits(max={"memory": "4Gi"}, default={"memory": "1Gi"}),
        )
        profile = bad.profile(
            "bad.yaml",
            allow_host_path=True,
            defaults={
                "resources": {"cpu": "10m", "memory": "8Gi"},
                "service_account": "nobody",
                "priority_class": "none-such",
                "runtime_class": "none-such",
                "image_pull_secrets": ["store"],
                "queue": "gpus",
                "secret_env": {
                    "HF_TOKEN": {"secret": "store", "key": "token"},
                    "WANDB_API_KEY": {"secret": "wandb", "key": "key"},
                },
                "volumes": [
                    {"config_map": "prompts-of-old", "mount_path": "/prompts"},
                    {"claim": "models", "mount_path": "/models"},
                    {"claim": "waiting", "mount_path": "/waiting"},
                ],
            },
            stages={
                "llm_on": {"volumes": [{"host_path": "/srv", "mount_path": "/srv"}]},
                "retrain": {"resources": {"gpus": 4}},
                "llm_off": {"node_selector": {"gpu": "h100"}},
            },
        )
        found = bad.doctor("--profile", profile, code=2)
    failed = [(one["name"], one["what"]) for one in found if one["state"] != "ok"]
    for name, words in _WRONG:
        matching = [what for of, what in failed if of == name and words in what]
        assert len(matching) == 1, (name, words, failed)
    assert len(failed) == len(_WRONG), failed
    assert all(one["do"] for one in found if one["state"] == "failed")


@pytest.fixture
def kueue(place: Place) -> Iterator[None]:
    """A cluster that knows what a LocalQueue is: its definition, and nobody who minds it."""
    cluster, group = place.cluster, "kueue.x-k8s.io"
    if not cluster.own:
        pytest.skip("it defines something in the whole of a given cluster")
    names = {"plural": "localqueues", "singular": "localqueue", "kind": "LocalQueue"}
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}  # fmt: skip
    definition = named(
        *("CustomResourceDefinition", f"localqueues.{group}", "apiextensions.k8s.io/v1"),
        spec={"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    )
    cluster.kubectl("create", "-f", "-", given=json.dumps(definition))
    try:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/localqueues.{group}")
        cluster.until(lambda: cluster.tried("-n", place.namespace, "get", "localqueues").returncode == 0)  # fmt: skip
        yield
    finally:
        cluster.kubectl("delete", f"crd/localqueues.{group}", "--wait=false")


@pytest.mark.usefixtures("kueue")
def test_a_queue_is_there_or_is_said_not_to_be(place: Place) -> None:
    api = "kueue.x-k8s.io/v1beta1"
    queues = [
        named("LocalQueue", "open", api, spec={"clusterQueue": "gpus"}),
        named("LocalQueue", "held", api, spec={"clusterQueue": "gpus", "stopPolicy": "Hold"}),
    ]
    place.cluster.apply(place.namespace, *queues)
    stages = {"llm_on": {"queue": "open"}, "relabel": {"queue": "held"}, "retrain": {"queue": "x"}}
    found = place.doctor("--profile", place.profile(stages=stages), code=2)
    assert [(one["state"], one["what"]) for one in found if one["name"] == "queue"] == [
        ("warning", "held is stopped (Hold)"),
        ("ok", "open, of gpus"),
        ("failed", f"there is no LocalQueue x in {place.namespace}"),
    ]


def test_a_namespace_that_is_not_there_is_said_and_nothing_about_what_is_in_it(
    place: Place,
) -> None:
    profile = place.profile("nowhere.yaml", namespace="no-such-namespace")
    found = place.doctor("--profile", profile, code=2)
    assert [one["name"] for one in found if one["state"] == "failed"] == ["namespace"]


def test_no_cluster_is_one_line(place: Place, tmp_path: Path) -> None:
    nowhere = {"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}]}
    nowhere |= {"users": [{"name": "u", "user": {"token": "none"}}], "current-context": "x"}
    nowhere |= {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}
    (tmp_path / "config").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **nowhere}))
    found = place.doctor("--profile", place.profile(), code=5, KUBECONFIG=str(tmp_path / "config"))
    assert [(one["name"], one["state"]) for one in found] == [("cluster", "failed")]
    assert "does not answer" in found[0]["what"]


# --- roles ---


@pytest.fixture(scope="module")
def someone(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of a service account that has docs/policies/launcher-role.yaml and nothing else."""
    cluster, namespace = place.cluster, place.namespace
    user = {"kind": "ServiceAccount", "name": "someone", "namespace": namespace}
    [launcher_role] = role("launcher-role.yaml")
    bound = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role"}
    api = "rbac.authorization.k8s.io/v1"
    name = launcher_role["metadata"]["name"]
    cluster.apply(
        namespace,
        named("ServiceAccount", "someone"),
        launcher_role,
        named("RoleBinding", "someone", api, subjects=[user], roleRef={**bound, "name": name}),
    )
    token = cluster.kubectl("-n", namespace, "create", "token", "someone").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for one in config["users"]:
        one["user"] = {"token": token}
    path = tmp_path_factory.mktemp("someone") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def test_with_the_role_alone_a_run_is_whole_and_doctor_says_what_it_may_not_see(
    place: Place, someone: Path
) -> None:
    profile = place.profile(defaults={"queue": None})
    found = place.doctor("--profile", profile, KUBECONFIG=str(someone))
    said = {one["name"]: (one["state"], one["what"]) for one in found}
    assert said["permissions"] == ("ok", f"all {len(RUN)} that a run takes")
    assert said["nodes"] == ("warning", "not looked at: may not list nodes")
    assert said["secrets"] == ("warning", "not looked at: may not get secrets")
    assert said["quota"] == ("warning", "not looked at: may not list resourcequotas")
    assert said["cluster"][1].endswith(f"as system:serviceaccount:{place.namespace}:someone")
    assert said["admission"] == ("ok", "the API server would take the Jobs (asked with dryRun=All)")
    (place.root / "one.env").write_text("LLM_ON_CMD='echo captured'\n")
    (place.root / "teacher.pt").write_text("a teacher")
    (place.root / "score.json").write_text("{}")
    teacher = ("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json")
    given = ("--config", "one.env", "--run-id", "least", *teacher)
    done = subprocess.run(
        [_LAUNCHER, "submit", "--executor", "kubernetes", "--profile", profile, *given],
        cwd=place.root,
        env={**place.environment, "KUBECONFIG": str(someone)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_verb_that_is_missing_is_named(
    place: Place, someone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(someone))
    inquiry = Inquiry(Client.connect(place.namespace))
    every = [(one.words, one.verb, one.resource, one.group) for one in RUN]
    for words, verb, resource, group in every:
        rules = [
            {"apiGroups": [g], "resources": [r], "verbs": [v]}
            for _, v, r, g in every
            if (v, r, g) != (verb, resource, group)
        ]
        replaced(place, rules)
        said = place.cluster.until(
            lambda: (
                [one.what for one in permissions(inquiry.may) if one.state == "failed"]
                if len([1 for one in RUN if not inquiry.may(one)]) == 1
                and any(not inquiry.may(one) for one in RUN)
                else []
            ),
            10,
        )
        assert len(said) == 1
        assert said[0].startswith(f"may not {words}: "), (words, said)
    replaced(place, role("launcher-role.yaml")[0]["rules"])


def replaced(place: Place, rules: list[Object]) -> None:
    """Put other rules into the role."""
    patch = json.dumps([{"op": "replace", "path": "/rules", "value": rules}])
    name = "role/distill-ledger-launcher"
    place.cluster.kubectl("-n", place.namespace, "patch", name, "--type=json", "-p", patch)


def test_with_the_other_role_too_doctor_sees_all(place: Place, someone: Path) -> None:
    cluster, namespace = place.cluster, place.namespace
    if not cluster.own:
        pytest.skip("it grants something in the whole of a given cluster")
    api, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    user = {"kind": "ServiceAccount", "name": "someone", "namespace": namespace}
    inside, everywhere = role("doctor-role.yaml")
    everywhere["metadata"]["name"] = own = f"{namespace}-doctor"
    ref = {"apiGroup": group, "kind": "Role", "name": inside["metadata"]["name"]}
    bound = named("RoleBinding", "doctor", api, subjects=[user], roleRef=ref)
    wide = named(
        *("ClusterRoleBinding", own, api),
        subjects=[user],
        roleRef={"apiGroup": group, "kind": "ClusterRole", "name": own},
    )
    cluster.apply(namespace, inside, bound, everywhere, wide)
    try:
        profile = place.profile(defaults={"priority_class": "system-cluster-critical"})
        found = place.doctor("--profile", profile, KUBECONFIG=str(someone))
    finally:
        cluster.kubectl("delete", "clusterrolebinding", own)
        cluster.kubectl("delete", "clusterrole", own)
    assert {one["state"] for one in found} == {"ok"}, found
    assert LOOK


# --- probes ---


def test_a_probe_tries_each_kind_of_pod_from_inside_and_goes(place: Place) -> None:
    (place.root / "train.py").write_text("print('hello')\n")
    planner = {"name": "planner", "image": place.cluster.bash_image, "port": 8000}
    profile = place.profile(stages={"llm_on": {"services": [planner]}})
    found = place.doctor("--profile", profile, "--probe", "--probe-seconds", "150")
    assert {one["state"] for one in found} == {"ok"}, found
    said = sorted(one["what"] for one in found if one["name"] == "probe")
    assert len(said) == 2
    assert said[0].startswith("llm_on: on ")
    assert said[0].endswith("create-only holds; pulled for planner")
    assert said[1].startswith("relabel, retrain, llm_off: on ")
    [code] = [one["what"] for one in found if one["name"] == "code"]
    assert code.startswith("stored as sha256:")
    gone(place)


def test_what_a_probe_meets_is_said_in_words(place: Place) -> None:
    place.cluster.apply(place.namespace, secret("wrong", id="nobody", secret="x"))
    agent = job_project.agent(place.cluster, "wrong")
    profile = place.profile(agent=agent)
    found = place.doctor("--profile", profile, "--probe", "--stage", "llm_on", code=2)
    [said] = [one["what"] for one in found if one["state"] == "failed"]
    assert said.startswith("llm_on: what it needs could not be fetched (exit 2)")
    only = ("--stage", "llm_on", "--stage", "retrain")
    profile = place.profile(stages={"retrain": {"image": "localhost:1/nowhere:1"}})
    found = place.doctor("--profile", profile, "--probe", *only, code=2)
    [said] = [one["what"] for one in found if one["state"] == "failed"]
    assert said.startswith("retrain: the image localhost:1/nowhere:1 cannot be had: ")
    assert [one["what"] for one in found if one["name"] == "probe" and one["state"] == "ok"]
    gone(place)


def test_a_probe_that_is_interrupted_goes_too(place: Place) -> None:
    gone(place)
    profile = place.profile(defaults={"image": "localhost:1/nowhere:1"})
    doctor = subprocess.Popen(
        [_LAUNCHER, "doctor", "--no-probe", "--profile", profile, "--probe"],
        cwd=place.root,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        place.cluster.until(lambda: probes(place))
        doctor.send_signal(signal.SIGINT)
        _, said = doctor.communicate(timeout=30)
    finally:
        doctor.kill()
        doctor.wait()
    assert doctor.returncode == 130, said
    gone(place)


def probes(place: Place) -> list[Object]:
    found: list[Object] = place.cluster.get(place.namespace, "jobs")["items"]
    return [one for one in found if one["metadata"]["name"].startswith("doctor-")]


def gone(place: Place) -> None:
    place.cluster.until(lambda: not probes(place))
