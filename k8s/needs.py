"""What a Job refers to by name, read off the Job itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from k8s.names import QUEUE
from k8s.requests import containers_of

__all__ = ["Needs", "together"]

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Needs:
    """Names in the Job's namespace, and of the cluster.

    ``secrets``: the keys that must be in each, none where only the Secret must be there. ``written``: the claims that
    are mounted to be written. ``host_path``: a folder of the node is mounted.
    """

    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pull_secrets: frozenset[str] = frozenset()
    config_maps: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    service_accounts: frozenset[str] = frozenset()
    priority_classes: frozenset[str] = frozenset()
    runtime_classes: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    host_path: bool = False


def together(jobs: Iterable[Object]) -> Needs:
    """What all of ``jobs`` need, each thing once."""
    secrets: dict[str, frozenset[str]] = {}
    sets: dict[str, set[str]] = {
        "pull_secrets": set(), "config_maps": set(), "claims": set(), "written": set(),
        "service_accounts": set(), "priority_classes": set(), "runtime_classes": set(), "queues": set(),
    }  # fmt: skip
    host_path = False
    for job in jobs:
        spec = job["spec"]["template"]["spec"]
        sets["pull_secrets"] |= {one["name"] for one in spec.get("imagePullSecrets") or ()}
        for into, value in (
            ("service_accounts", spec.get("serviceAccountName")),
            ("priority_classes", spec.get("priorityClassName")),
            ("runtime_classes", spec.get("runtimeClassName")),
            ("queues", (job["metadata"].get("labels") or {}).get(QUEUE)),
        ):
            sets[into] |= {value} if value else set()
        for name, keys in _secrets(spec):
            secrets[name] = secrets.get(name, frozenset()) | keys
        claims = _claims(spec)
        sets["claims"] |= set(claims.values())
        sets["written"] |= _written(spec, claims)
        for volume in spec.get("volumes") or ():
            sets["config_maps"] |= {volume["configMap"]["name"]} if "configMap" in volume else set()
            host_path |= "hostPath" in volume
    return Needs(
        secrets=secrets,
        host_path=host_path,
        **{name: frozenset(found) for name, found in sets.items()},
    )


def _secrets(spec: Object) -> Iterable[tuple[str, frozenset[str]]]:
    for container in containers_of(spec):
        for one in container.get("env") or ():
            ref = (one.get("valueFrom") or {}).get("secretKeyRef")
            if ref and not ref.get("optional"):
                yield ref["name"], frozenset({ref["key"]})
    for volume in spec.get("volumes") or ():
        if "secret" in volume:
            yield volume["secret"]["secretName"], frozenset()


def _claims(spec: Object) -> dict[str, str]:
    """The claim behind each volume that has one."""
    volumes = spec.get("volumes") or ()
    found = ((one["name"], one.get("persistentVolumeClaim")) for one in volumes)
    return {name: claim["claimName"] for name, claim in found if claim}


def _written(spec: Object, claims: Mapping[str, str]) -> set[str]:
    mounts = (mount for one in containers_of(spec) for mount in one.get("volumeMounts") or ())
    return {claims[m["name"]] for m in mounts if m["name"] in claims and not m.get("readOnly")}
