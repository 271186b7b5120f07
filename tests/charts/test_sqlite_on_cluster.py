"""The ledger as a file on a claim: one writer, a rollback that waits for none, and a claim that outlives its release.

And every rendering that is kept, judged by a real API server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.charts.golden import CASES, objects
from tests.charts.releases import Team, minute, team
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_GO = 'until [ -e "/tmp/go" ]; do sleep 0.2; done; '
_PIPELINE = {
    "schedule": "* * * * *",
    "suspend": True,
    "files": {"teacher.txt": "a teacher", "scorecard.json": "{}"},
    "teacherCheckpoint": "files/teacher.txt",
    "teacherScorecard": "files/scorecard.json",
    "promotionTarget": "student",
}


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_what_is_kept(cluster: Cluster, case: str) -> None:
    with cluster.namespace() as namespace:
        # What no cluster has by itself is a Prometheus operator's. A pod is refused where its account is not there.
        made = [one for one in objects(case) if "monitoring.coreos.com" not in one["apiVersion"]]
        if accounts := [one for one in made if one["kind"] == "ServiceAccount"]:
            cluster.apply(namespace, *accounts)
        rest = [one for one in made if one["kind"] != "ServiceAccount"]
        listed: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": rest}
        # The release's namespace is named only where something is bound in it.
        text = json.dumps(listed).replace('"namespace": "distill"', f'"namespace": "{namespace}"')
        # Nor has it this class.
        text = text.replace('"priorityClassName": "care"', '"priorityClassName": ""')
        words = ("-n", namespace, "create", "--dry-run=server", "--validate=strict", "-f", "-")
        done = cluster.tried(*words, given=text)
        assert done.returncode == 0, done.stderr
        assert "would violate" not in done.stderr


@pytest.fixture(scope="module")
def ours(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A namespace, and a volume of the node that belongs to whoever asks for its class there."""
    if not cluster.own:
        pytest.skip("the given cluster's classes of storage are not known")
    folder = tmp_path_factory.mktemp("volume")
    folder.chmod(0o777)  # such a volume is not given to the pod's group
    with team(cluster, tmp_path_factory.mktemp("charts") / "team") as made:
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": made.namespace},
            "spec": {
                "storageClassName": made.namespace,
                "capacity": {"storage": "5Gi"},
                "accessModes": ["ReadWriteOncePod"],
                "hostPath": {"path": str(folder)},
            },
        }
        cluster.kubectl("create", "-f", "-", given=json.dumps(volume))
        try:
            yield made
        finally:
            cluster.tried("delete", "pv", made.namespace, "--wait=false")


def values(ours: Team) -> dict[str, Any]:
    student = 'echo "weights of $RUN_ID" > "$CHECKPOINT_DIR/student.pt"'
    quick = f"RETRAIN_CMD='{student}'\n"
    slow = f"RETRAIN_CMD='{_GO}{student}'\n"
    pipelines = {
        "nightly": {**_PIPELINE, "config": quick},
        "slow": {**_PIPELINE, "config": slow},
    }
    sqlite = {"kind": "sqlite", "sqlite": {"storageClass": ours.namespace}}
    return ours.values(pipelines=pipelines, ledger=sqlite)


def test_nights_are_kept_in_the_file_and_a_rollback_waits_for_none_of_them(ours: Team) -> None:
    ours.install("nightly", values(ours))
    for number in (1, 2):
        ours.fire("nightly", f"night-{number}", minute(number))
        assert ours.ended(f"night-{number}") == "Complete", ours.log(f"night-{number}")
    # This has the claim while it runs.
    slot = minute()
    ours.fire("nightly-slow", "busy", slot)
    where = f"distill-ledger/run=slow-{slot.replace('-', '').replace(':', '')[:13]}Z"

    def running() -> list[dict[str, Any]]:
        return [one for one in ours.pods(where) if one["status"].get("phase") == "Running"]

    ours.cluster.until(running, 120)
    ours.fire("nightly-rollback", "back")
    assert ours.ended("back") == "Complete", ours.log("back")
    (pod,) = running()
    ours.kubectl("exec", pod["metadata"]["name"], "-c", "command", "--", "bash", "-c", ": >/tmp/go")
    # The ledger in the file drove the run to its end, and took the rollback over: it is well, and held.
    assert ours.ended("busy") == "Failed"
    assert "succeeded: stage=promotion cause=held exit_code=3" in ours.log("busy")
    ours.fire("nightly-audit", "audit")
    assert ours.ended("audit") == "Complete", ours.log("audit")


def test_the_claim_stays_when_the_release_goes_and_the_next_one_takes_it_up(ours: Team) -> None:
    ours.helm("uninstall", "nightly", "--wait")
    assert ours.get("pvc", "nightly-ledger")["status"]["phase"] == "Bound"
    ours.install("nightly", values(ours))
    ours.fire("nightly-audit", "audit-again")
    assert ours.ended("audit-again") == "Complete", ours.log("audit-again")
    assert "3 runs" in ours.log("audit-again")
