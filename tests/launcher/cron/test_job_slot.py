"""Which slot a CronJob's Job means, as a real API server has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from k8s.client import Client
from launcher.cron.job_slot import slot_of_job
from launcher.cron.schedule import Schedule
from launcher.errors import UsageError
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

SECURITY = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_it_is_on_the_job_or_the_newest_at_its_creation(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = {"name": "one", "image": "none", "securityContext": CONTAINER}
    pod = {"restartPolicy": "Never", "securityContext": SECURITY, "containers": [container]}
    job: dict[str, Any] = {"suspend": True, "template": {"spec": pod}}
    nightly = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {
            "schedule": "* * * * *",
            "timeZone": "Europe/Berlin",
            "jobTemplate": {"spec": job},
        },
    }
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    with cluster.namespace() as namespace:
        cluster.apply(namespace, nightly)
        by_hand = ("-n", namespace, "create", "job", "--from=cronjob/nightly", "by-hand")
        cluster.kubectl(*by_hand)
        client = Client.connect(namespace)
        began = datetime.fromisoformat(
            cluster.get(namespace, "job", "by-hand")["metadata"]["creationTimestamp"]
        )
        hourly = slot_of_job(client, "by-hand", Schedule("0 * * * *"))
        assert hourly == began.astimezone(UTC).strftime("%Y-%m-%dT%H:00:00Z")

        def fired() -> list[dict[str, Any]]:
            jobs: list[dict[str, Any]] = cluster.get(namespace, "jobs")["items"]
            return [one for one in jobs if one["metadata"]["name"] != "by-hand"]

        (first, *_) = cluster.until(fired, 90)
        about = first["metadata"]
        slot = slot_of_job(client, about["name"], Schedule("0 0 1 1 *"))
        # The CronJob names its Jobs by the minute of the slot.
        minute = int(about["name"].rpartition("-")[2]) * 60
        assert slot == datetime.fromtimestamp(minute, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with pytest.raises(UsageError, match="no Job absent"):
            slot_of_job(client, "absent", Schedule("* * * * *"))
