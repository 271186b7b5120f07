"""Our Jobs on a real cluster: it takes them as they are printed, and they end as ``outcome`` says.

The agents are played by bash: fetch does nothing, collect answers the wrapper as the real one does. All Jobs are made
at once, and each test looks at what became of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from k8s.manifest import job_manifest
from k8s.names import RUN, Attempt, label_value
from k8s.outcome import Outcome, outcome
from k8s.profile_text import parse_profile
from k8s.quantity import amount
from k8s.yaml_text import to_yaml
from tests.k8s.golden import CASES, document, stage_job
from tests.rig.cluster.images import SANDBOX
from tests.rig.k8s import GPU, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_SECONDS = 90
OUT_OF_MEMORY = "it met its memory limit of 32Mi: raise resources.memory of retrain in the profile"
_COLLECT = """
trap 'exit 0' TERM
until [ -e /launcher/exit.json ]; do sleep 0.1; done
if [ -e /launcher/terminating ]; then echo saved; else echo committed; fi > /launcher/part
mv /launcher/part /launcher/collected
while :; do sleep 0.1; done
"""
_NEVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
#: Until bash itself, or a worker that it started, has more than its container may.
_GREEDY = 'x=$(head -c 100m /dev/zero | tr "\\0" x)'
_SMALL = "resources: {memory: 32Mi, cpu: 500m, cpu_limit: 500m}"
#: Told to end it says 0, as a trainer does that has saved.
_WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
_TOY = """services:
    - name: toy
      image: {image}
      image_pull_policy: IfNotPresent
      command:
        - sh
        - -c
        - |
          trap exit TERM
          while type nc; do echo hello | nc -lp 7000; done
          python3 -c '
          from socketserver import StreamRequestHandler, TCPServer
          says = type("Says", (StreamRequestHandler,), {"handle": lambda self: self.wfile.write(b"hello\\n")})
          TCPServer(("", 7000), says).serve_forever()' & wait
      port: 7000
      url_variable: TOY_URL
"""

_PROFILE = """
agent: {{image: "{image}", image_pull_policy: IfNotPresent, resources: {{}}}}
defaults:
  image: "{image}"
  image_pull_policy: IfNotPresent
  grace_seconds: 3
  save_seconds: 5
  {more}
"""


@dataclass(frozen=True)
class Case:
    """A command, and what surrounds it."""

    command: str
    more: str = "env: {}"
    collect: str = _COLLECT
    fetch: str = ":"
    #: Done to it once it runs; returns the first pod's name, and the second one is waited for.
    then: Callable[[Live], str] | None = None


class Live:
    """One Job of ours in the cluster."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, case: Case) -> None:
        self.cluster, self.namespace, self.case = cluster, namespace, case
        image = cluster.bash_image
        more = case.more.replace("{image}", image)
        profile = parse_profile(_PROFILE.format(image=image, more=more), f"{name}.yaml")
        attempt = Attempt("rig", name, "retrain", 1, f"sha256:{'5' * 64}")
        log = "/workspace/runs/logs/03_retrain.log"
        job = stage_job("retrain", attempt=attempt, command=case.command, log=log)
        made = job_manifest(job, profile, "retrain")
        fetch, collect, *_ = made["spec"]["template"]["spec"]["initContainers"]
        for container, script in ((fetch, case.fetch), (collect, case.collect)):
            container["command"], container["args"] = ["bash", "-c", script], []
        if name == "no-bash":
            made["spec"]["template"]["spec"]["containers"][0]["image"] = SANDBOX
        self.made, self.name, self.run = made, made["metadata"]["name"], name

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, given=given)

    def create(self) -> None:
        self.kubectl("create", "-f", "-", given=to_yaml(self.made))

    def moment(self) -> dict[str, Any]:
        jobs = json.loads(
            self.kubectl("get", "jobs", "-l", f"{RUN}={label_value(self.run)}", "-o", "json")
        )
        pods = json.loads(
            self.kubectl("get", "pods", "-l", f"{RUN}={label_value(self.run)}", "-o", "json")
        )
        events = json.loads(self.kubectl("get", "events", "-o", "json"))
        return {
            "job": next(iter(jobs["items"]), None),
            "pods": pods["items"],
            "events": events["items"],
        }

    def look(self) -> Outcome:
        return outcome(**self.moment())

    def until(self, asked: Callable[[Outcome], bool]) -> Outcome:
        end = time.monotonic() + _SECONDS
        while not asked(seen := self.look()):
            assert time.monotonic() < end, f"{self.run}: {seen}"
            time.sleep(0.3)
        return seen

    def running(self) -> str:
        """The pod's name, once its command runs."""
        seen = self.until(lambda one: one.state == "running")
        assert seen.pod
        return seen.pod.name

    def log(self) -> str:
        return self.kubectl("logs", f"job/{self.name}", "-c", "command")

    def delete_pod(self) -> str:
        pod = self.running()
        self.kubectl("delete", "pod", pod, "--wait=false")
        return pod

    def delete_pod_while_fetching(self) -> str:
        seen = self.until(lambda one: one.state == "fetching")
        assert seen.pod
        self.kubectl("delete", "pod", seen.pod.name, "--wait=false")
        return seen.pod.name

    def evict(self) -> str:
        pod = self.running()
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        url = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", url, "-f", "-", given=json.dumps(body))
        return pod

    def suspend_and_let_go(self) -> str:
        pod = self.running()
        self.kubectl("patch", "job", self.name, "-p", '{"spec": {"suspend": true}}')
        self.until(lambda one: one.state == "queued")
        self.kubectl("patch", "job", self.name, "-p", '{"spec": {"suspend": false}}')
        return pod


@dataclass(frozen=True)
class Seen:
    """What became of a Job: its outcome, its pods, the log of its command."""

    end: Outcome
    job: Any
    pods: list[Any]
    log: str


#: Run once, all at the same time.
LIVES: dict[str, Case] = {
    "done": Case(
        'echo "$EPISODES $PRICE $(echo nested) $HOME $USER"; echo x > "$HOME/x"; touch /x'
    ),
    "written": Case('echo x > "$HOME/x"; echo x > "$TMPDIR/x"; echo x > x; [ ! -w /bin ]; echo $?'),
    "exit-7": Case("echo no >&2; exit 7"),
    "own-143": Case("kill -TERM $$"),
    "uncollected": Case("echo done", more="collect_deadline_seconds: 1", collect=_NEVER),
    "out-of-memory": Case(_GREEDY, more=_SMALL),
    "out-of-memory-worker": Case(f"bash -c '{_GREEDY}' || exit 3", more=_SMALL),
    "no-bash": Case("true"),
    "fetch-failed": Case("true", fetch="echo 'error: no such blob' >&2; exit 4"),
    "deleted-pod": Case(_WAITS, then=Live.delete_pod),
    "deleted-while-fetching": Case(
        _WAITS, fetch="trap 'exit 143' TERM; sleep 30 & wait", then=Live.delete_pod_while_fetching
    ),
    "evicted": Case(_WAITS, then=Live.evict),
    "suspended": Case(_WAITS, then=Live.suspend_and_let_go),
    "service": Case('read -r line < /dev/tcp/127.0.0.1/7000; echo "$line at $TOY_URL"', more=_TOY),
    "gpu": Case("true", more="resources: {gpus: 1}"),
}


@pytest.fixture(scope="module")
def seen(cluster: Cluster) -> Iterator[dict[str, Seen]]:
    with cluster.namespace() as namespace, ThreadPoolExecutor(len(LIVES)) as pool:
        lives = {name: Live(cluster, namespace, name, case) for name, case in LIVES.items()}
        found = {name: pool.submit(_lived, live) for name, live in lives.items()}
        yield {name: one.result() for name, one in found.items()}


def _lived(live: Live) -> Seen:
    """One Job from its creation to its end, or to its second pod."""
    live.create()
    if live.case.then is None:
        end = live.until(lambda one: one.gone)
    else:
        first = live.case.then(live)
        end = live.until(
            lambda one: (
                one.state in ("running", "fetching")
                and one.pod is not None
                and one.pod.name != first
            )
        )
    moment = live.moment()
    started = end.pod is not None and end.pod.started_at and end.state != "fetching"
    return Seen(end, moment["job"], moment["pods"], live.log() if started else "")


def test_a_command_gets_what_was_written_and_may_write_where_it_should(
    seen: dict[str, Seen],
) -> None:
    """Nothing of Kubernetes' own $(…) touches it; the root is read-only, though the image says nothing of it."""
    done = seen["done"]
    assert (done.end.state, done.end.exit_code) == ("failed", 1)
    assert done.log.startswith("50 $(RUN_ID) costs $$5 nested /home/stage stage\n")
    assert "Read-only file system" in done.log
    assert seen["written"].log == "0\n"
    assert seen["written"].end.state == "completed"
    assert seen["written"].end.gone


@pytest.mark.parametrize(
    ("name", "cause", "code", "words"),
    [
        ("exit-7", "application", 7, "the command ended with exit code 7"),
        ("own-143", "application", 143, "the command ended with exit code 143"),
        ("uncollected", "outputs", None, "its outputs were not collected in time"),
        ("out-of-memory-worker", "out_of_memory", 3, OUT_OF_MEMORY),
        ("no-bash", "image", None, "its image has no bash"),
        ("fetch-failed", "storage", None, "what it needs could not be fetched (exit 4): error: no such blob"),
    ],
)  # fmt: skip
def test_why_it_failed_is_said(
    seen: dict[str, Seen], name: str, cause: str, code: int | None, words: str
) -> None:
    end = seen[name].end
    assert (end.state, end.cause, end.exit_code, end.message) == ("failed", cause, code, words)
    assert end.gone
    assert end.disruptions == ()


def test_out_of_memory_is_said_whether_the_wrapper_was_spared_or_not(seen: dict[str, Seen]) -> None:
    end = seen["out-of-memory"].end
    assert (end.cause, end.message) == ("out_of_memory", OUT_OF_MEMORY)
    assert end.exit_code in (None, 137)


@pytest.mark.parametrize("name", ["deleted-pod", "deleted-while-fetching", "evicted", "suspended"])
def test_a_pod_that_was_told_to_end_is_replaced_in_the_same_job(
    seen: dict[str, Seen], name: str
) -> None:
    """Though its command said 0 of it, and by nothing but the Job itself."""
    one = seen[name]
    assert one.end.state in ("running", "fetching")
    assert one.job["status"].get("failed", 0) == 0
    assert "succeeded" not in one.job["status"]


def test_a_service_is_ready_before_the_command_starts(seen: dict[str, Seen]) -> None:
    assert seen["service"].log == "hello at http://127.0.0.1:7000\n"
    assert seen["service"].end.state == "completed"


def test_a_gpu_is_asked_for(seen: dict[str, Seen]) -> None:
    assert seen["gpu"].end.state == "completed"
    [pod] = seen["gpu"].pods
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}


def test_every_pod_was_restricted_and_had_no_token(seen: dict[str, Seen]) -> None:
    """The namespace takes no other; so this is about the token."""
    for one in seen.values():
        for pod in one.pods:
            assert not any("projected" in volume for volume in pod["spec"]["volumes"])


@pytest.mark.parametrize("name", CASES)
def test_a_cluster_takes_each_golden_job_as_it_is_printed(cluster: Cluster, name: str) -> None:
    """Read by kubectl's own YAML, checked by the API server for unknown and impossible fields."""
    with cluster.namespace(enforce="privileged") as namespace:
        given = yaml.safe_load(document(name))
        given["metadata"].pop("namespace", None)
        taken = json.loads(
            cluster.kubectl(
                "-n", namespace, "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-",
                given=to_yaml(given),
            )
        )  # fmt: skip
    assert _missing(given, taken) == []


def _missing(given: Any, taken: Any, at: str = "") -> list[str]:
    """What of ``given`` is not in ``taken``, which may have more."""
    if isinstance(given, dict):
        return [
            line
            for key, one in given.items()
            for line in (
                _missing(one, taken.get(key), f"{at}.{key}") if one not in ({}, [], False) else []
            )
        ]
    if isinstance(given, list):
        if not isinstance(taken, list) or len(given) != len(taken):
            return [at]
        return [
            line
            for i, (one, other) in enumerate(zip(given, taken, strict=True))
            for line in _missing(one, other, f"{at}[{i}]")
        ]
    return [] if given == taken or _same_amount(given, taken) else [f"{at}: {given!r} {taken!r}"]


def _same_amount(given: Any, taken: Any) -> bool:
    """The API server writes quantities its own way."""
    try:
        return amount(str(given)) == amount(str(taken))
    except ValueError:
        return False
