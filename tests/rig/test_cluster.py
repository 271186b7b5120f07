"""The cluster of the tests does what a real one does: what the launcher will stand on is tried here by hand."""

from __future__ import annotations

import datetime
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.jobs import container, finished, job, pod_of, sidecar
from tests.rig.k8s import GPU, OUTSIDE, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = [*on_cluster, pytest.mark.alone]


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def _ended(cluster: Cluster, namespace: str, name: str, seconds: float = 90) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = cluster.get(namespace, "job", name)
        return found if finished(found) else None

    found = cluster.until(look, seconds)
    assert found
    return found


def _pod(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    return pod_of(cluster.get(namespace, "pods", "-l", f"rig={name}"))


def _running(cluster: Cluster, namespace: str, name: str, container: str = "command") -> Any:
    """The pod, once its container runs."""

    def look() -> dict[str, Any] | None:
        for pod in cluster.get(namespace, "pods", "-l", f"rig={name}")["items"]:
            status = pod["status"]
            every = status.get("containerStatuses", []) + status.get("initContainerStatuses", [])
            if any(one["name"] == container and "running" in one["state"] for one in every):
                return dict(pod)
        return None

    return cluster.until(look)


def _end(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> None:
    """Tell a command that waits for it to end; a kubelet that has just started has yet to find its pods."""
    name = pod["metadata"]["name"]
    touch = ("-n", namespace, "exec", name, "-c", "command", "--", "touch", "/shared/end")
    cluster.until(lambda: cluster.tried(*touch).returncode == 0)


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def test_a_command_ends_its_job_and_the_sidecar_flushes_after_it(
    cluster: Cluster, namespace: str
) -> None:
    beside = (
        "trap 'cat /shared/result; echo flushed; exit 0' TERM; echo ready; "
        "while :; do sleep 0.1; done"
    )
    image = cluster.bash_image
    cluster.apply(
        namespace,
        job("flush", container(image, "echo 42 > /shared/result"), sidecar(image, beside)),
    )
    assert finished(_ended(cluster, namespace, "flush")) == "Complete"
    said = cluster.kubectl("-n", namespace, "logs", "job/flush", "-c", "beside")
    assert said.split() == ["ready", "42", "flushed"]
    pod = _pod(cluster, namespace, "flush")
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_an_exit_code_fails_the_job_by_its_rule(cluster: Cluster, namespace: str) -> None:
    cluster.apply(namespace, job("seven", container(cluster.bash_image, "exit 7")))
    [failure] = [
        one
        for one in _ended(cluster, namespace, "seven")["status"]["conditions"]
        if one["type"] == "Failed"
    ]
    assert failure["reason"] == "PodFailurePolicy"
    assert "exit code 7" in failure["message"]


def test_jobs_that_want_the_one_gpu_run_one_after_the_other(
    cluster: Cluster, namespace: str
) -> None:
    if not cluster.own:
        pytest.skip("a given cluster may have more than one GPU, or none")
    names = ["first", "second", "third"]
    command = container(cluster.bash_image, "sleep 1.5")
    cluster.apply(namespace, *(job(name, command, gpus=1) for name in names))

    def waiting() -> list[str]:
        pods = cluster.get(namespace, "pods")["items"]
        return [
            condition["message"]
            for pod in pods
            for condition in pod["status"].get("conditions", [])
            if condition.get("reason") == "Unschedulable"
        ]

    assert all(f"Insufficient {GPU}" in message for message in cluster.until(waiting))
    for name in names:
        assert finished(_ended(cluster, namespace, name)) == "Complete"
    times = []
    for name in names:
        [status] = _pod(cluster, namespace, name)["status"]["containerStatuses"]
        ended = status["state"]["terminated"]
        times.append((_time(ended["startedAt"]), _time(ended["finishedAt"])))
    times.sort()
    for (_, before), (after, _) in itertools.pairwise(times):
        assert before <= after, times


def test_a_pod_that_may_do_more_than_restricted_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    bad = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bad"},
        "spec": {"containers": [{"name": "one", "image": cluster.bash_image}]},
    }
    done = cluster.tried("-n", namespace, "create", "-f", "-", given=json.dumps(bad))
    assert done.returncode
    assert 'violates PodSecurity "restricted:latest"' in done.stderr
    assert "runAsNonRoot" in done.stderr


def test_a_restricted_pod_writes_its_volume_and_not_its_root(
    cluster: Cluster, namespace: str
) -> None:
    command = "id -u; touch /shared/one && echo kept; touch /one 2>/dev/null || echo refused"
    cluster.apply(namespace, job("root", container(cluster.bash_image, command)))
    _ended(cluster, namespace, "root")
    assert cluster.kubectl("-n", namespace, "logs", "job/root").split() == [
        "1000",
        "kept",
        "refused",
    ]


def test_a_restricted_pod_and_this_machine_meet_in_the_bucket_under_one_address(
    cluster: Cluster, namespace: str
) -> None:
    url = cluster.bucket()
    code = (
        "from launcher.storage.opening import open_store; import sys; "
        "store = open_store(sys.argv[1]); store.create('from/pod', b'hello'); "
        "print(store.read('from/pod').decode())"
    )
    env = [{"name": name, "value": value} for name, value in _s3_environment(cluster).items()]
    command = container(
        cluster.agent_image,
        "",
        command=["python3", "-c", code, url],
        env=[*env, {"name": "HOME", "value": "/shared"}, {"name": "TMPDIR", "value": "/shared"}],
    )
    cluster.apply(namespace, job("agent", command))
    ended = _ended(cluster, namespace, "agent")
    said = cluster.kubectl("-n", namespace, "logs", "job/agent")
    assert finished(ended) == "Complete", said
    assert said.strip() == "hello"
    if cluster.s3:
        kept = cluster.s3.root / url.removeprefix("s3://") / "from" / "pod"
        assert kept.read_bytes() == b"hello"


def _s3_environment(cluster: Cluster) -> dict[str, str]:
    return {name: value for name, value in cluster.environment().items() if name.startswith("AWS_")}


def test_the_projects_image_is_whole_and_says_its_version(cluster: Cluster, namespace: str) -> None:
    command = container(cluster.agent_image, "", command=["launcher", "--version"])
    cluster.apply(namespace, job("version", command))
    ended = _ended(cluster, namespace, "version")
    said = cluster.kubectl("-n", namespace, "logs", "job/version")
    assert finished(ended) == "Complete", said
    here = subprocess.run(
        [Path(sys.executable).with_name("launcher"), "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said == here.stdout


def test_an_account_reaches_the_api_from_inside_and_may_do_what_it_was_given(
    cluster: Cluster, namespace: str
) -> None:
    cluster.kubectl("-n", namespace, "create", "serviceaccount", "reader")
    cluster.kubectl(
        *("-n", namespace, "create", "role", "reader", "--verb=get,list", "--resource=jobs")
    )
    who = f"--serviceaccount={namespace}:reader"
    cluster.kubectl("-n", namespace, "create", "rolebinding", "reader", "--role=reader", who)
    code = (
        "import kubernetes as k, sys; k.config.load_incluster_config()\n"
        "print([one.metadata.name for one in k.client.BatchV1Api().list_namespaced_job(sys.argv[1]).items])\n"
        "try: k.client.CoreV1Api().list_namespaced_secret(sys.argv[1])\n"
        "except k.client.ApiException as exc: print(exc.status)\n"
    )
    command = container(cluster.agent_image, "", command=["python3", "-c", code, namespace])
    account = {"serviceAccountName": "reader", "automountServiceAccountToken": True}
    cluster.apply(namespace, job("inside", command, pod=account))
    ended = _ended(cluster, namespace, "inside")
    said = cluster.kubectl("-n", namespace, "logs", "job/inside")
    assert finished(ended) == "Complete", said
    assert said.split("\n")[:2] == ["['inside']", "403"]


def test_the_log_of_a_pod_is_followed_while_it_runs(cluster: Cluster, namespace: str) -> None:
    command = "for i in 1 2 3; do echo line $i; sleep 0.5; done"
    cluster.apply(namespace, job("follow", container(cluster.bash_image, command)))
    _running(cluster, namespace, "follow")
    said = cluster.kubectl("-n", namespace, "logs", "-f", "job/follow")
    assert said.split("\n")[:3] == ["line 1", "line 2", "line 3"]
    _ended(cluster, namespace, "follow")


def test_an_evicted_pod_is_replaced_and_not_charged(cluster: Cluster, namespace: str) -> None:
    url = "/api/v1/namespaces/{}/pods/{}/eviction"
    command = "trap 'exit 143' TERM; sleep 300 & wait"
    cluster.apply(namespace, job("moved", container(cluster.bash_image, command)))
    name = _running(cluster, namespace, "moved")["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    cluster.kubectl(
        "create", "--raw", url.format(namespace, name), "-f", "-", given=json.dumps(eviction)
    )

    def replaced() -> Any:
        pods = cluster.get(namespace, "pods", "-l", "rig=moved")["items"]
        return [one for one in pods if one["metadata"]["name"] != name]

    assert cluster.until(replaced)
    found = cluster.get(namespace, "job", "moved")
    assert finished(found) is None
    assert not found["status"].get("failed")


def test_a_pod_lives_through_a_restart_of_its_kubelet(cluster: Cluster, namespace: str) -> None:
    command = "until [ -e /shared/end ]; do sleep 0.1; done; echo through"
    cluster.apply(namespace, job("through", container(cluster.bash_image, command)))
    before = _running(cluster, namespace, "through")
    cluster.stop("kubelet", "kill")
    cluster.start("kubelet")
    _end(cluster, namespace, before)
    assert finished(_ended(cluster, namespace, "through")) == "Complete"
    after = _pod(cluster, namespace, "through")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    [status] = after["status"]["containerStatuses"]
    assert status["restartCount"] == 0
    [node] = cluster.get("default", "nodes")["items"]
    assert node["status"]["allocatable"][GPU] == "1"


def test_jobs_are_all_there_after_a_restart_of_the_api_server(
    cluster: Cluster, namespace: str
) -> None:
    command = container(cluster.bash_image, "until [ -e /shared/end ]; do sleep 0.1; done")
    cluster.apply(namespace, job("there", command))
    before = _running(cluster, namespace, "there")
    cluster.stop("kube-apiserver", "kill")
    assert cluster.tried("get", "--raw", "/readyz").returncode
    cluster.start("kube-apiserver")
    _end(cluster, namespace, before)
    assert finished(_ended(cluster, namespace, "there")) == "Complete"


def test_a_schedule_starts_a_job(cluster: Cluster, namespace: str) -> None:
    """One that was due a minute ago, as its status is made to say, so that no minute is waited for."""
    spec = job("unused", container(cluster.bash_image, "echo nightly"))["spec"]
    nightly = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {
            "schedule": "* * * * *",
            "startingDeadlineSeconds": 120,
            "jobTemplate": {"spec": spec},
        },
    }
    cluster.apply(namespace, nightly)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=90)
    status = {"status": {"lastScheduleTime": before.strftime("%Y-%m-%dT%H:%M:%SZ")}}
    cluster.kubectl(
        *("-n", namespace, "patch", "cronjob", "nightly", "--subresource=status"),
        *("--type=merge", "-p", json.dumps(status)),
    )

    def fired() -> Any:
        return [
            one
            for one in cluster.get(namespace, "jobs")["items"]
            if one["metadata"]["name"].startswith("nightly-")
        ]

    [first, *_] = cluster.until(fired)
    _ended(cluster, namespace, first["metadata"]["name"])


def test_a_pod_reaches_a_server_of_this_machine(cluster: Cluster, namespace: str) -> None:
    """So a proxy of faults on this machine can stand between a pod and the bucket."""
    if not cluster.own:
        pytest.skip("a given cluster may not reach this machine")
    served = subprocess.Popen(
        [sys.executable, "-u", "-c", _ONE_ANSWER, OUTSIDE],
        stdout=subprocess.PIPE,
        text=True,
    )
    with served:
        try:
            assert served.stdout
            port = int(served.stdout.readline())
            command = f"nc {OUTSIDE} {port} < /dev/null"
            cluster.apply(namespace, job("out", container(cluster.bash_image, command)))
            assert finished(_ended(cluster, namespace, "out")) == "Complete"
            said = cluster.kubectl("-n", namespace, "logs", "job/out")
            assert said.strip() == "from outside"
        finally:
            served.kill()


_ONE_ANSWER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1])
    client, _ = server.accept()
    client.sendall(b"from outside\\n")
    client.close()
"""


def test_processes_that_want_a_cluster_at_once_have_the_same(cluster: Cluster) -> None:
    if not cluster.own:
        pytest.skip("a given cluster is there, however many use it")
    said = [
        subprocess.Popen(
            [sys.executable, "-c", _WHOSE], stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        for _ in range(2)
    ]
    uid = cluster.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
    assert [process.communicate()[0].strip() for process in said] == [uid, uid]
    # They have left, and it is still ours.
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


_ROOT = Path(__file__).parents[2]
_WHOSE = """
from tests.rig.k8s import using
with using() as one:
    print(one.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"))
"""


def test_what_the_api_server_answered_can_be_read(cluster: Cluster, namespace: str) -> None:
    cluster.apply(namespace, job("noted", container(cluster.bash_image, ":")))
    noted = [
        one
        for one in cluster.audited()
        if one["verb"] == "create"
        and one["objectRef"].get("namespace") == namespace
        and one["objectRef"].get("name") == "noted"
        and one["objectRef"]["resource"] == "jobs"
    ]
    assert [one["responseStatus"]["code"] for one in noted] == [201]
    assert noted[0]["user"]["username"] == "rig-admin"
