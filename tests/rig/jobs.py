"""Jobs as the tests of a cluster need them: small, restricted, and ended by a rule for their command's exit code."""

from __future__ import annotations

from typing import Any

from tests.rig.k8s import GPU

__all__ = ["RESTRICTED", "container", "finished", "job", "pod_of", "sidecar"]

RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_AS_NOBODY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(image: str, command: str, /, name: str = "command", **more: Any) -> dict[str, Any]:
    """A container that runs ``command`` in bash, and has /shared with the others of its pod."""
    made = {
        "name": name,
        "image": image,
        "command": ["bash", "-c", command],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }
    return {**made, **more}


def sidecar(image: str, command: str, name: str = "beside", **more: Any) -> dict[str, Any]:
    """One that starts before the command and is told to end after it."""
    return container(image, command, name, restartPolicy="Always", **more)


def job(
    name: str,
    command: dict[str, Any],
    *beside: dict[str, Any],
    gpus: int = 0,
    pod: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A Job of one try. A disruption does not count, any exit code of ``command`` but 0 fails it."""
    if gpus:
        command = {**command, "resources": {"limits": {GPU: str(gpus)}}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 20,
        "securityContext": _AS_NOBODY,
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": list(beside),
        "containers": [command],
        **(pod or {}),
    }
    failing = {"containerName": "command", "operator": "NotIn", "values": [0]}
    policy = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": failing},
    ]
    body = {
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": policy},
        "template": {"metadata": {"labels": {"rig": name}}, "spec": spec},
        **more,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}


def finished(found: dict[str, Any]) -> str | None:
    """Complete or Failed, once a Job is; else None."""
    for one in found.get("status", {}).get("conditions", []):
        if one["type"] in ("Complete", "Failed") and one["status"] == "True":
            return str(one["type"])
    return None


def pod_of(found: dict[str, Any]) -> dict[str, Any]:
    """The one pod of a list."""
    [pod] = found["items"]
    return dict(pod)
