"""The client on a real API server: what it makes, finds, refuses and takes away."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from k8s.client import Client
from k8s.errors import ClusterRefusedError, ClusterUnavailableError, JobTakenError
from k8s.manifest import job_manifest
from k8s.names import Attempt, name_start, selector
from k8s.profile_text import parse_profile
from k8s.watch import Mirror
from tests.k8s.golden import stage_job
from tests.rig.accounts import Account
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_ATTEMPT = Attempt("rig", "client", "retrain", 1, f"sha256:{'5' * 64}")


def made(cluster: Cluster, attempt: Attempt = _ATTEMPT) -> dict[str, Any]:
    """A Job that is never let go, so that nothing runs."""
    image = f'image: "{cluster.bash_image}"'
    text = f"agent: {{{image}, resources: {{}}}}\ndefaults: {{{image}, queue: nobody}}"
    job = stage_job("retrain", attempt=attempt)
    return job_manifest(job, parse_profile(text, "p.yaml"), "retrain")


@pytest.fixture
def client(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    with cluster.namespace() as namespace:
        yield Client.connect(namespace)


def until(asked: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not asked():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_job_is_made_once_and_then_adopted(cluster: Cluster, client: Client) -> None:
    first = client.create_or_adopt_job(made(cluster), _ATTEMPT)
    again = client.create_or_adopt_job(made(cluster), _ATTEMPT)
    assert first["metadata"]["uid"] == again["metadata"]["uid"]
    assert len(client.listed("jobs", selector("rig", "client")).items) == 1


def test_a_job_of_our_name_that_is_another_is_refused_and_left_alone(
    cluster: Cluster, client: Client
) -> None:
    name = made(cluster)["metadata"]["name"]
    theirs = made(cluster, replace(_ATTEMPT, project="theirs"))
    theirs["metadata"]["name"] = name
    client.create_or_adopt_job(theirs, _ATTEMPT)
    with pytest.raises(JobTakenError, match="its project is theirs, not rig"):
        client.create_or_adopt_job(made(cluster), _ATTEMPT)
    assert client.job(name) is not None


def test_only_the_very_job_is_deleted(cluster: Cluster, client: Client) -> None:
    job = client.create_or_adopt_job(made(cluster), _ATTEMPT)
    name = job["metadata"]["name"]
    client.delete_job(name, "00000000-0000-0000-0000-000000000000")
    assert (client.job(name) or {})["metadata"].get("deletionTimestamp") is None
    client.delete_job(name, job["metadata"]["uid"])
    until(lambda: client.job(name) is None)
    client.delete_job(name, job["metadata"]["uid"])


def test_a_job_gets_its_time_to_live_once_it_is_known_by_its_uid(
    cluster: Cluster, client: Client
) -> None:
    job = client.create_or_adopt_job(made(cluster), _ATTEMPT)
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    client.expire_job(name, "00000000-0000-0000-0000-000000000000", 60)
    assert "ttlSecondsAfterFinished" not in (client.job(name) or {})["spec"]
    client.expire_job(name, uid, 60)
    client.expire_job(name, uid, 60)
    assert (client.job(name) or {})["spec"]["ttlSecondsAfterFinished"] == 60
    client.delete_job(name, uid)
    until(lambda: client.job(name) is None)
    client.expire_job(name, uid, 60)


def test_a_job_that_is_only_tried_is_judged_and_not_made(cluster: Cluster, client: Client) -> None:
    client.try_job(made(cluster))
    assert client.listed("jobs").items == []
    wrong = copy.deepcopy(made(cluster))
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(ClusterRefusedError, match="restartPolicy"):
        client.try_job(wrong)
    client.create_or_adopt_job(made(cluster), _ATTEMPT)
    client.try_job(made(cluster))


def test_what_the_server_refuses_is_said_in_its_words(cluster: Cluster, client: Client) -> None:
    wrong = copy.deepcopy(made(cluster))
    wrong["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(ClusterRefusedError, match="restartPolicy") as refused:
        client.create_or_adopt_job(wrong, _ATTEMPT)
    assert refused.value.status == 422


@pytest.mark.alone
def test_a_mirror_follows_and_survives_a_server_that_is_killed(
    cluster: Cluster, client: Client
) -> None:
    mirror = Mirror(client, selector("rig", "client"), lambda n: n.startswith(name_start("client")))
    mirror.open()
    try:
        assert mirror.ready(30).error is None
        client.create_or_adopt_job(made(cluster), _ATTEMPT)
        until(lambda: len(mirror.seen().jobs) == 1)
        cluster.stop("kube-apiserver", "kill")
        with pytest.raises(ClusterUnavailableError, match="does not answer"):
            client.job("any")
        cluster.start("kube-apiserver")
        second = replace(_ATTEMPT, attempt=2)
        client.create_or_adopt_job(made(cluster, second), second)
        until(lambda: len(mirror.seen().jobs) == 2 and mirror.seen().error is None)
    finally:
        mirror.close()


def test_credentials_that_expire_are_read_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after they were taken, they are awaited; refused from the start, they are wrong."""
    with cluster.namespace() as namespace:
        account = Account(cluster, namespace, tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(account.kubeconfig))
        account.renew()
        client = Client.connect()
        assert client.namespace == namespace
        assert client.job("none") is None
        assert client.listed("jobs").items == []

        account.revoke()
        cluster.until(lambda: _is_away(lambda: client.listed("jobs")))
        wrong = Client.connect()
        with pytest.raises(ClusterRefusedError) as refused:
            wrong.listed("jobs")
        assert refused.value.status == 401
        account.kubeconfig.write_text("users: [")
        assert _is_away(lambda: client.listed("jobs"))
        account.renew()
        assert client.listed("jobs").items == []

        # As of a server that has just started and does not know yet what whom is allowed.
        account.allow("get")
        cluster.until(lambda: _is_away(lambda: client.listed("jobs")))
        with pytest.raises(ClusterRefusedError, match="cannot list resource"):
            Client.connect().listed("jobs")
        with pytest.raises(ClusterRefusedError, match="cannot list resource"):
            client.listed("pods")
        account.allow("get", "list")
        cluster.until(lambda: not _is_away(lambda: client.listed("jobs")))


def _is_away(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ClusterUnavailableError:
        return True
    return False
