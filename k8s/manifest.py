"""A stage's attempt as a Job, as a plain dict in the API's own words. Pure.

1. One pod at a time: ``restartPolicy: Never``, ``backoffLimit: 0``, and a pod that went for a disruption, or that
   was told to end, is replaced within the attempt once it is gone (``podReplacementPolicy: Failed``).
2. Any other exit code of the command's container ends the Job. So does a pod that fails in any other way.
3. The same attempt is the same Job wherever it is made: nothing here depends on moment, machine or order.
4. No secret has a value in it. No ``ttlSecondsAfterFinished``: it gets one once its end is on record.
5. With a queue it is created suspended, and whoever has the queue lets it go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from k8s.containers import (
    COMMAND,
    FETCH,
    StageJob,
    Volumes,
    agent_containers,
    command_container,
    holding,
    matching,
    service_container,
    services_of,
)
from k8s.errors import Problem, ProfileError
from k8s.names import PROFILE_DIGEST, QUEUE, TASK_DIGEST, job_annotations, job_labels, job_name
from k8s.profile import StageProfile
from k8s.profile_text import ReadProfile
from k8s.wrapper import TERMINATED
from ledger.events import StageName

__all__ = ["COMMAND", "StageJob", "job_manifest"]

_FAILURE_POLICY: Final[Mapping[str, Any]] = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        *(
            {
                "action": "Ignore",
                "onExitCodes": {"containerName": name, "operator": "In", "values": [TERMINATED]},
            }
            for name in (COMMAND, FETCH)
        ),
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": COMMAND, "operator": "NotIn", "values": [0]},
        },
    ]
}


def job_manifest(job: StageJob, read: ReadProfile, stage_name: StageName) -> dict[str, Any]:
    """The Job of ``job``'s attempt, of stage ``stage_name``, by the profile that was read.

    Raises ProfileError: no image, no store, or a secret that no Secret brings.
    """
    stage = read.stages[stage_name]
    _check(job, read, stage_name)
    made = job_labels(job.attempt, llm=stage.llm or "on")
    if stage.labels:
        made = {**stage.labels, **made}
    about: dict[str, Any] = {
        "name": job_name(job.attempt),
        **({"namespace": read.profile.namespace} if read.profile.namespace else {}),
        "labels": {**made, **({QUEUE: stage.queue} if stage.queue else {})},
        "annotations": {
            **stage.annotations,
            **job_annotations(job.attempt),
            PROFILE_DIGEST: read.digest,
            TASK_DIGEST: job.task,
        },
    }
    pod_about: dict[str, Any] = {"labels": made}
    if stage.annotations:
        pod_about["annotations"] = dict(stage.annotations)
    spec: dict[str, Any] = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _copied(_FAILURE_POLICY),
        **({"activeDeadlineSeconds": stage.deadline_seconds} if stage.deadline_seconds else {}),
        **({"suspend": True} if stage.queue else {}),
        "template": {"metadata": pod_about, "spec": _pod(job, read, stage)},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": spec}


def _check(job: StageJob, read: ReadProfile, name: StageName) -> None:
    stage, problems = read.stages[name], []
    if stage.image is None:
        problems.append(Problem(f"stages.{name}.image", "missing, and there is no defaults.image"))
    if read.profile.store is None and not (job.store or "").startswith("s3://"):
        message = "missing: pods do not reach a folder of this machine; name a volume, or have the store in a bucket"
        problems.append(Problem("store", message))
    withheld = _without_llm(job, read, stage)
    for secret in sorted(set(job.secrets) - stage.secret_env.keys() - withheld):
        message = "missing: its value is secret, so a Secret must bring it"
        problems.append(Problem(f"stages.{name}.secret_env.{secret}", message))
    for path in sorted(job.private):
        if holding(path, stage) is None:
            message = (
                f"none of them has {path}, which INPUTS_PRIVATE names and which is never stored"
            )
            problems.append(Problem(f"stages.{name}.volumes", message))
    if problems:
        raise ProfileError(read.file, problems)


def _without_llm(job: StageJob, read: ReadProfile, stage: StageProfile) -> frozenset[str]:
    """The names that a stage with ``llm: off`` must not have."""
    if stage.llm != "off":
        return frozenset()
    urls = [one.url_variable for one in stage.services if one.url_variable]
    names = {*job.environment, *job.secrets, *stage.env, *stage.secret_env, *urls}
    return matching(names, read.profile.llm_variables)


def _pod(job: StageJob, read: ReadProfile, stage: StageProfile) -> dict[str, Any]:
    llm = _without_llm(job, read, stage)
    services = services_of(stage, llm)
    volumes = Volumes()
    volumes.own(
        "workspace", **({"sizeLimit": stage.workspace_size} if stage.workspace_size else {})
    )
    # In memory: an exit code can be handed over even when the disk is full.
    volumes.own("handover", medium="Memory", sizeLimit="1Mi")
    for name in ("tmp", "home", "agent-tmp", *(["service-tmp"] if services else [])):
        volumes.own(name)
    if stage.shared_memory:
        volumes.own("shared-memory", medium="Memory", sizeLimit=stage.shared_memory)
    fetch, collect = agent_containers(job, read.profile, stage, volumes)
    beside = [service_container(one, bool(stage.shared_memory), volumes) for one in services]
    command = command_container(job, stage, llm, volumes)
    group = stage.fs_group or stage.run_as_user
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # What other Services of the namespace are called is no business of the command.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": stage.grace_seconds + stage.save_seconds,
        **_placement(stage),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": stage.run_as_user,
            "runAsGroup": stage.run_as_group or stage.run_as_user,
            "fsGroup": group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # Sidecars are told to end in the opposite order, the collector last.
        "initContainers": [fetch, collect, *beside],
        "containers": [command],
        "volumes": [*volumes.listed(), *_store_volume(read)],
    }


def _placement(stage: StageProfile) -> dict[str, Any]:
    affinity = stage.affinity.model_dump(exclude_none=True) if stage.affinity else {}
    given: dict[str, Any] = {
        "nodeSelector": dict(stage.node_selector),
        "affinity": affinity,
        "tolerations": [one.model_dump(exclude_none=True) for one in stage.tolerations],
        "priorityClassName": stage.priority_class,
        "runtimeClassName": stage.runtime_class,
        "serviceAccountName": stage.service_account,
        "imagePullSecrets": [{"name": name} for name in stage.image_pull_secrets],
    }
    return {key: value for key, value in given.items() if value}


def _store_volume(read: ReadProfile) -> list[dict[str, Any]]:
    store = read.profile.store
    if store is None:
        return []
    if store.claim:
        return [{"name": "store", "persistentVolumeClaim": {"claimName": store.claim}}]
    return [{"name": "store", "hostPath": {"path": store.host_path, "type": "Directory"}}]


def _copied(value: Any) -> Any:
    """A manifest is its caller's to change."""
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
