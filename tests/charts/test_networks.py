"""Who reaches whom, on a network that enforces a release's policies: a night's stages, and all of its kinds of pods."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.charts.releases import Team, minute, team
from tests.rig.cluster.machine import NODE
from tests.rig.gate import Gate, gate
from tests.rig.jobs import container, job
from tests.rig.k8s import OUTSIDE, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster
from tests.rig.policed import policed

pytestmark = [*on_cluster, pytest.mark.alone]

_METRICS = 9464
_GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "profiles.md"
#: An evaluation that asks a model until it is refused, which takes as long as the network needs to know its pod; then
#: twenty times more.
_ASKS_ON = (
    "ask() {{ ({asking}) 2>/dev/null; }}; "
    "for _ in {{1..100}}; do ask || break; sleep 0.2; done; "
    "for _ in {{1..20}}; do if ask; then echo answered; exit 9; fi; done"
)


@pytest.fixture(scope="module")
def model(cluster: Cluster) -> Iterator[Gate]:
    """What answers whoever comes, on an address of this machine that pods reach."""
    with policed(cluster), gate() as made:
        yield made


@pytest.fixture(scope="module")
def ours(cluster: Cluster, model: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    config = {
        "LLM_ON_CMD": model.asking,
        "RETRAIN_CMD": 'echo weights > "$CHECKPOINT_DIR/student.pt"',
        "LLM_OFF_CMD": _ASKS_ON.format(asking=model.asking),
    }
    nightly = {
        **{"schedule": "* * * * *", "suspend": True, "promotionTarget": "student"},
        "config": "".join(f"{name}='{command}'\n" for name, command in config.items()),
        "files": {"teacher.txt": "a teacher", "scorecard.json": "{}"},
        **{"teacherCheckpoint": "files/teacher.txt", "teacherScorecard": "files/scorecard.json"},
    }
    with team(cluster, tmp_path_factory.mktemp("charts") / "team") as made:
        values = made.values(pipelines={"nightly": nightly})
        endpoint = {"ipBlock": {"cidr": f"{OUTSIDE}/32"}}
        values["networkPolicy"] |= {
            "llm": [{"to": [endpoint], "ports": [{"port": model.port}]}],
            "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        }
        made.install("nightly", values)
        yield made


def test_a_capture_asks_the_model_and_an_evaluation_cannot(ours: Team, model: Gate) -> None:
    ours.fire("nightly", "night", minute())
    assert ours.ended("night") == "Complete", ours.log("night")
    assert model.came[0].endswith(" llm_on")
    assert ours.pointer()["generations"][-1]["kind"] == "promotion"


def labels_of(template: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = template["spec"]["template"]["metadata"]["labels"]
    return found


def asleep(ours: Team, name: str, labels: dict[str, str]) -> None:
    """A pod that only its labels tell from any other; anybody who reaches it at 9464 is answered."""
    answers = f"while :; do echo here | nc -l -p {_METRICS}; done"
    command = container(ours.cluster.bash_image, answers)
    spec = job(name, command, pod={"terminationGracePeriodSeconds": 0})["spec"]["template"]["spec"]
    # A Job's own names for its pods are its controller's, which takes such a pod for its own.
    of_job = ("batch.kubernetes.io/", "controller-uid", "job-name")
    plain = {key: value for key, value in labels.items() if not key.startswith(of_job)}
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": plain}}
    ours.cluster.apply(ours.namespace, {**about, "spec": spec})


@pytest.fixture(scope="module")
def pods(ours: Team) -> dict[str, str]:
    """By who it is: the address of a pod with the labels of one."""
    jobs = ours.get("jobs", "-l", "distill-ledger/stage")["items"]
    stages = {one["metadata"]["labels"]["distill-ledger/stage"]: one for one in jobs}
    cron = ours.get("cronjob", "nightly")["spec"]["jobTemplate"]
    who = {
        "capture": labels_of(stages["llm_on"]),
        "evaluation": labels_of(stages["llm_off"]),
        "launcher": labels_of(cron),
        "care": labels_of(ours.get("cronjob", "nightly-audit")["spec"]["jobTemplate"]),
        "exporter": labels_of(ours.get("deploy", "nightly-exporter")),
        "prometheus": {"app": "prometheus"},
        "stranger": {"app": "stranger"},
    }
    for name, labels in who.items():
        asleep(ours, name, labels)
    ours.kubectl("wait", "pod", *who, "--for=condition=Ready", "--timeout=60s")
    return {name: ours.get("pod", name)["status"]["podIP"] for name in who}


#: Who reaches what, of the store, the model, the API server, the exporter's metrics and an evaluation. (Everybody
#: reaches himself.)
_REACHES = {
    "capture": {"store", "model"},
    "evaluation": {"store", "evaluation"},
    "launcher": {"store", "api"},
    "care": {"store"},
    "exporter": {"store", "metrics"},
    "prometheus": {"store", "model", "api", "metrics"},
    "stranger": {"store", "model", "api"},
}


def test_each_kind_of_pod_reaches_what_it_takes_and_no_more(
    ours: Team, model: Gate, pods: dict[str, str]
) -> None:
    places = {
        "store": ours.store,
        "model": (OUTSIDE, model.port),
        # The node's own address: the one of the service is nobody's to close.
        "api": (NODE, 443),
        "metrics": (pods["exporter"], _METRICS),
        "evaluation": (pods["evaluation"], _METRICS),
    }
    becomes(ours, _REACHES, places)


def test_the_policy_of_the_page_about_profiles_closes_the_way_to_a_model(
    ours: Team, model: Gate
) -> None:
    """Without a release."""
    pages = re.findall(r"```yaml\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    (policy,) = (one for one in pages if "kind: NetworkPolicy" in one)
    assert policy.count("10.20.0.0/16") == 1
    asleep(ours, "elsewhere", {"distill-ledger/llm": "off"})
    ours.kubectl("wait", "pod/elsewhere", "--for=condition=Ready", "--timeout=60s")
    places = {"store": ours.store, "model": (OUTSIDE, model.port)}
    becomes(ours, {"elsewhere": {"store", "model"}}, places)
    here = policy.replace("10.20.0.0/16", f"{ours.store[0]}/32")
    ours.kubectl("create", "-f", "-", given=here)
    becomes(ours, {"elsewhere": {"store"}}, places)


def becomes(
    ours: Team, reach: Mapping[str, set[str]], places: Mapping[str, tuple[str, int]]
) -> None:
    """Wait until each pod reaches just that: the network learns of pods and policies one after the other."""
    tries = "".join(
        f'timeout 5 bash -c "exec 3<>/dev/tcp/{to}/{at}" 2>/dev/null && echo {what}\n'
        for what, (to, at) in places.items()
    )
    deadline, found = time.monotonic() + 30, dict[str, set[str]]()
    while True:
        for name in reach:
            if found.get(name) != reach[name]:
                said = ours.kubectl("exec", name, "--", "bash", "-c", f"{tries}true")
                found[name] = set(said.split())
        if found == reach or time.monotonic() > deadline:
            break
    assert found == reach
