"""A run's driver: the Job that it is, what of it is replaced, and what is seen of it."""

from __future__ import annotations

from typing import Any

import pytest

from k8s.driver import DRIVER, TRY_AGAIN, DriverJob, driver_manifest, driver_seen
from k8s.profile_file import read_profile
from tests.k8s.golden import ROOT

_RUN = "20261125T091500Z-ab12"
_JOB = DriverJob(
    project="robots",
    run_id=_RUN,
    spec_digest=f"sha256:{'5' * 64}",
    environment={"LAUNCHER_STORE": "s3://bucket", "AWS_ENDPOINT_URL": "http://of.the.launcher"},
)


def made(profile: str = "tests/golden/profiles/everything.yaml") -> dict[str, Any]:
    return driver_manifest(_JOB, read_profile(ROOT / profile))


def test_it_is_the_same_job_wherever_it_is_made_and_called_after_its_run() -> None:
    assert made() == made()
    name = made()["metadata"]["name"]
    assert name == _JOB.name
    assert name.startswith("20261125t091500z-ab12-driver-")
    assert len(name) <= 57


def test_it_has_the_agents_image_and_variables_and_what_the_profile_gives_a_driver() -> None:
    pod = made()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert container["image"].startswith("r.example.com/agent@")
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "store"
    assert env["AWS_ENDPOINT_URL"]["value"] == "http://of.the.launcher"
    assert env["LAUNCHER_STORE"]["value"] == "s3://bucket"
    assert container["args"] == [_RUN]
    assert container["resources"] == {
        "requests": {"cpu": "50m", "memory": "256Mi"},
        "limits": {"memory": "256Mi"},
    }
    assert pod["serviceAccountName"] == "robots-driver"
    assert pod["nodeSelector"] == {"pool": "small"}
    assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert made()["spec"]["ttlSecondsAfterFinished"] == 3600


def test_without_a_word_in_the_profile_it_has_the_service_account_of_the_policies() -> None:
    spec = made("configs/profiles/cpu.yaml")["spec"]
    assert spec["template"]["spec"]["serviceAccountName"] == "distill-ledger-driver"
    assert spec["template"]["spec"]["automountServiceAccountToken"] is True
    assert spec["ttlSecondsAfterFinished"] == 86400


@pytest.mark.parametrize(
    ("code", "action"),
    [(0, None), (1, "FailJob"), (2, "FailJob"), (7, "FailJob"), (70, "FailJob"), (130, "FailJob"),
     (TRY_AGAIN, None), (137, None), (143, "Ignore")],
)  # fmt: skip
def test_only_what_may_pass_has_its_pod_replaced(code: int, action: str | None) -> None:
    """As the Job controller reads the rules: the first that fits; none: counted, and tried again."""
    rules = [r for r in made()["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    found = None
    for rule in rules:
        of = rule["onExitCodes"]
        assert of["containerName"] == DRIVER
        if code and (code in of["values"]) == (of["operator"] == "In"):
            found = rule["action"]
            break
    assert found == action


def of_cluster(job: dict[str, Any], *conditions: str) -> dict[str, Any]:
    """The Job as the API server has it once these conditions are true."""
    status = {"conditions": [{"type": kind, "status": "True"} for kind in conditions]}
    metadata = {**job["metadata"], "uid": "u", "creationTimestamp": "2026-11-25T09:15:00Z"}
    return {**job, "metadata": metadata, "status": status if conditions else {}}


def of_pod(job: dict[str, Any], state: dict[str, Any], phase: str) -> dict[str, Any]:
    labels = job["spec"]["template"]["metadata"]["labels"]
    about = {"name": "p", "uid": "p", "labels": labels, "creationTimestamp": "2026-11-25T09:15:01Z"}
    return {
        "metadata": about,
        "spec": {"containers": [{"name": DRIVER}]},
        "status": {"phase": phase, "containerStatuses": [{"name": DRIVER, "state": state}]},
    }


def test_a_driver_drives_until_its_job_has_ended_and_then_has_last_words() -> None:
    job = made()
    assert driver_seen([], [], []) is None
    begun = driver_seen([of_cluster(job)], [], [])
    assert begun is not None
    assert begun.drives
    words = {"exitCode": 2, "message": "run x\nlauncher: jobs is forbidden: User y\n"}
    pod = of_pod(job, {"terminated": words}, "Failed")
    over = driver_seen([of_cluster(job, "Failed")], [pod], [])
    assert over is not None
    assert (over.drives, over.message) == (False, "launcher: jobs is forbidden: User y")


def test_a_stages_job_is_no_driver() -> None:
    job = of_cluster(made())
    job["metadata"]["labels"] = {**job["metadata"]["labels"], "distill-ledger/stage": "retrain"}
    assert driver_seen([job], [], []) is None
