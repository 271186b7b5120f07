"""A run's driver: the Job that goes from stage to stage where no launcher stays. Pure.

1. One a run, called after it: whoever makes it again meets the first.
2. Its pod is replaced when it is evicted, killed or told to end, and when it ends with TRY_AGAIN; any other code ends
   the Job, for the run has ended or nothing but a person can help.
3. It is ours alone: the agent's image and variables, restricted, and the one pod of a run that has the token of a
   service account, which docs/policies/driver.yaml makes.
4. Nothing is kept in it that the ledger does not have, so it may go by itself when it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from k8s.containers import (
    WORKSPACE,
    agent_environment,
    image_of,
    mount_of,
    resources_of,
    security_context,
)
from k8s.names import ATTEMPT, PROFILE_DIGEST, STAGE, Attempt, job_annotations, job_labels, job_name
from k8s.outcome import has_ended, outcome
from k8s.pods import container_state
from k8s.profile_text import ReadProfile
from k8s.wrapper import literal

__all__ = [
    "DRIVER",
    "TRY_AGAIN",
    "DriverJob",
    "DriverSeen",
    "driver_manifest",
    "driver_seen",
]

#: The name of its container, and what its Job is labelled with instead of a stage.
DRIVER: Final = "driver"
#: What it ends with where the same may go well a little later.
TRY_AGAIN: Final = 75
#: 128 + SIGTERM: it was told to end, and whoever replaces it goes on.
_TOLD_TO_END: Final = 143
#: 128 + SIGKILL: out of memory, or its node would not wait.
_KILLED: Final = 137
#: With the controller's growing pauses some hours of trying.
_REPLACEMENTS: Final = 20
_GRACE_SECONDS: Final = 10

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DriverJob:
    """What the launcher knows: whose driver it is, and the settings that it is to have, none of them secret."""

    project: str
    run_id: str
    spec_digest: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def attempt(self) -> Attempt:
        """What makes it one and the same Job everywhere."""
        return Attempt(self.project, self.run_id, DRIVER, 1, self.spec_digest)

    @property
    def name(self) -> str:
        return job_name(self.attempt)


@dataclass(frozen=True, slots=True)
class DriverSeen:
    """``drives``: its Job has not ended. ``stuck``: its pod does not start, and waiting alone may not help.

    ``message`` says what it waits for, or why it ended; it may be empty.
    """

    drives: bool
    stuck: bool
    message: str
    job: Object


def driver_manifest(driver: DriverJob, read: ReadProfile) -> dict[str, Any]:
    """The Job."""
    profile, wanted = read.profile, read.profile.driver
    labels = {**wanted.labels, **job_labels(driver.attempt, llm="on")}
    about: dict[str, Any] = {
        "name": driver.name,
        **({"namespace": profile.namespace} if profile.namespace else {}),
        "labels": labels,
        "annotations": {
            **wanted.annotations,
            **job_annotations(driver.attempt),
            PROFILE_DIGEST: read.digest,
        },
    }
    pod_about: dict[str, Any] = {"labels": labels}
    if wanted.annotations:
        pod_about["annotations"] = dict(wanted.annotations)
    kept = profile.keep_finished_seconds
    spec: dict[str, Any] = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": _REPLACEMENTS,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(),
        **({"ttlSecondsAfterFinished": kept} if kept is not None else {}),
        "template": {"metadata": pod_about, "spec": _pod(driver, read)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": spec}


def _failure_policy() -> dict[str, Any]:
    def on(action: str, operator: str, *codes: int) -> dict[str, Any]:
        said = {"containerName": DRIVER, "operator": operator, "values": list(codes)}
        return {"action": action, "onExitCodes": said}

    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": disrupted},
            on("Ignore", "In", _TOLD_TO_END),
            on("FailJob", "NotIn", 0, TRY_AGAIN, _KILLED, _TOLD_TO_END),
        ]
    }


def _pod(driver: DriverJob, read: ReadProfile) -> dict[str, Any]:
    agent, wanted, user = read.profile.agent, read.profile.driver, read.profile.defaults
    group = user.run_as_group or user.run_as_user
    placed: dict[str, Any] = {
        "nodeSelector": dict(wanted.node_selector),
        "tolerations": [one.model_dump(exclude_none=True) for one in wanted.tolerations],
        "priorityClassName": wanted.priority_class,
        "imagePullSecrets": [{"name": name} for name in wanted.image_pull_secrets],
    }
    container = {
        "name": DRIVER,
        **image_of(agent.image, agent.image_pull_policy),
        "command": ["python3", "-m", "launcher.cli.driver"],
        "args": [literal(driver.run_id)],
        "workingDir": WORKSPACE,
        "env": agent_environment(agent, driver.environment),
        "resources": resources_of(wanted.resources),
        "securityContext": security_context(True),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount_of("workspace", WORKSPACE), mount_of("tmp", "/tmp")],
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": wanted.service_account,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        **{key: value for key, value in placed.items() if value},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user.run_as_user,
            "runAsGroup": group,
            "fsGroup": user.fs_group or user.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {}} for name in ("workspace", "tmp")],
    }


def driver_seen(
    jobs: Sequence[Object], pods: Sequence[Object], events: Sequence[Object]
) -> DriverSeen | None:
    """The driver among what a cluster has of one run; None where there is none."""
    job = next(filter(_is_driver, jobs), None)
    if job is None:
        return None
    own = [pod for pod in pods if _is_driver(pod)]
    said = outcome(job, own, events, command=DRIVER)
    if not has_ended(job):
        runs = said.state in ("running", "collecting")
        stuck = said.state in ("blocked", "stuck", "image_error")
        return DriverSeen(True, stuck, "" if runs else said.message, job)
    last = max(own, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)
    words = str(container_state(last, DRIVER)[1].get("message") or "") if last else ""
    return DriverSeen(False, False, words.strip().rpartition("\n")[2] or said.message, job)


def _is_driver(found: Object) -> bool:
    said = found["metadata"].get("labels") or {}
    return (said.get(STAGE), said.get(ATTEMPT)) == (DRIVER, "1")
