"""The containers of a stage's pod: fetch, collect, the services, and the command's. Pure.

All of them pass Kubernetes' ``restricted`` policy. Quantities are strings, since the client's models want them so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any, Final

from k8s.names import Attempt
from k8s.profile import Agent, Profile, Resources, SecretRef, Service, StageProfile, Volume
from k8s.wrapper import HANDOVER, PRIVATE, as_arguments, literal

__all__ = [
    "COLLECT",
    "COMMAND",
    "FETCH",
    "HOME",
    "WORKSPACE",
    "StageJob",
    "Volumes",
    "agent_containers",
    "agent_environment",
    "command_container",
    "holding",
    "image_of",
    "mount_of",
    "resources_of",
    "security_context",
    "service_container",
]

COMMAND: Final = "command"
FETCH: Final = "fetch"
COLLECT: Final = "collect"
#: Where code, inputs and the run's folder lie, in the command's container and in ours.
WORKSPACE: Final = "/workspace"
HOME: Final = "/home/stage"
_USER: Final = "stage"
_AGENT: Final = ("python3", "-m", "launcher.agent")
_PROBE_SECONDS: Final = 2

Container = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StageJob:
    """What the launcher knows of an attempt; the profile has the rest.

    ``environment`` holds no secret: ``secrets`` are the names whose values the config has, or the launcher's
    environment, and which a Secret must bring here. ``cwd`` and ``log`` are paths in the pod, ``store`` is what the
    agent is to open (None where the profile names a volume), ``task`` the digest of the stored task that tells it what
    to fetch and to collect. ``private``: files, as paths in the pod, that are never stored; a volume has to have them.
    """

    attempt: Attempt
    command: str
    log: str
    task: str
    store: str | None = None
    cwd: str = WORKSPACE
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Collection[str] = frozenset()
    private: Collection[str] = ()


class Volumes:
    """The pod's volumes, as its containers come to mount them: one a source, named by number."""

    def __init__(self) -> None:
        self._sources: dict[str, dict[str, Any]] = {}

    def own(self, name: str, **empty_dir: str) -> None:
        """An emptyDir of ours."""
        self._sources[name] = {"emptyDir": empty_dir}

    def mount(self, volume: Volume) -> dict[str, Any]:
        """How a container mounts it."""
        kind, name = volume.source
        source = _source(kind, name)
        same = [key for key, one in self._sources.items() if one == source]
        # Two that are empty are two; whatever has a name is itself.
        key = same[0] if same and kind != "empty_dir" else f"volume-{len(self._sources)}"
        self._sources[key] = source
        mount: dict[str, Any] = {"name": key, "mountPath": volume.mount_path}
        if volume.sub_path:
            mount["subPath"] = volume.sub_path
        if volume.read_only or kind in ("config_map", "secret"):
            mount["readOnly"] = True
        return mount

    def listed(self) -> list[dict[str, Any]]:
        return [{"name": name, **source} for name, source in self._sources.items()]


def _source(kind: str, name: str) -> dict[str, Any]:
    match kind:
        case "claim":
            return {"persistentVolumeClaim": {"claimName": name}}
        case "config_map":
            return {"configMap": {"name": name}}
        case "secret":
            return {"secret": {"secretName": name}}
        case "host_path":
            return {"hostPath": {"path": name, "type": "Directory"}}
        case _:
            return {"emptyDir": {"sizeLimit": name}}


def command_container(
    job: StageJob, stage: StageProfile, llm: Collection[str], volumes: Volumes
) -> Container:
    """The stage's command in the user's image, with the wrapper around it. ``llm`` are names it must not have."""
    command, args = as_arguments(
        job.command,
        log=job.log,
        grace_seconds=stage.grace_seconds,
        save_seconds=stage.save_seconds,
        collect_seconds=stage.collect_deadline_seconds,
    )
    mounts = [
        mount_of("workspace", WORKSPACE),
        mount_of("handover", HANDOVER),
        mount_of("tmp", "/tmp"),
        mount_of("home", HOME),
    ]
    if stage.shared_memory:
        mounts.append(mount_of("shared-memory", "/dev/shm"))
    secret_env = {name: ref for name, ref in stage.secret_env.items() if name not in llm}
    plain = {
        # Programs that ask who they are find no such user in the image.
        **{"HOME": HOME, "TMPDIR": "/tmp", "USER": _USER, "LOGNAME": _USER},
        **job.environment,
        **stage.env,
        **{one.url_variable: _url(one) for one in services_of(stage, llm) if one.url_variable},
    }
    plain = {name: value for name, value in plain.items() if name not in {*llm, *secret_env}}
    return {
        "name": COMMAND,
        **image_of(stage.image or "", stage.image_pull_policy),
        "command": command,
        "args": args,
        "workingDir": job.cwd,
        "env": _environment(plain, secret_env),
        "resources": resources_of(stage.resources),
        "securityContext": security_context(stage.read_only_root),
        "volumeMounts": [*mounts, *(volumes.mount(one) for one in stage.volumes)],
    }


def services_of(stage: StageProfile, llm: Collection[str]) -> list[Service]:
    """The services that run beside the stage: not those that lead it to a model where it must have none."""
    return [one for one in stage.services if one.url_variable not in llm]


def service_container(service: Service, shared_memory: bool, volumes: Volumes) -> Container:
    """A sidecar that the kubelet waits for before it starts the command, until its startup probe succeeds."""
    probe: dict[str, Any] = {"tcpSocket": {"port": service.port}}
    if service.ready_path:
        probe = {"httpGet": {"path": service.ready_path, "port": service.port}}
    failures = ceil(Fraction(service.startup_seconds, _PROBE_SECONDS))
    mounts = [mount_of("service-tmp", "/tmp"), *(volumes.mount(one) for one in service.volumes)]
    if shared_memory:
        mounts.append(mount_of("shared-memory", "/dev/shm"))
    made: Container = {
        "name": service.name,
        **image_of(service.image, service.image_pull_policy),
        "restartPolicy": "Always",
    }
    if service.command is not None:
        made["command"] = [literal(one) for one in service.command]
    if service.args:
        made["args"] = [literal(one) for one in service.args]
    plain = {"HOME": "/tmp", "USER": _USER, "LOGNAME": _USER, **service.env}
    return {
        **made,
        "ports": [{"containerPort": service.port}],
        "env": _environment(
            {name: value for name, value in plain.items() if name not in service.secret_env},
            service.secret_env,
        ),
        "startupProbe": {**probe, "periodSeconds": _PROBE_SECONDS, "failureThreshold": failures},
        "readinessProbe": {**probe, "periodSeconds": 5 * _PROBE_SECONDS},
        "resources": resources_of(service.resources),
        "securityContext": security_context(service.read_only_root),
        "volumeMounts": mounts,
    }


def holding(path: str, stage: StageProfile) -> Volume | None:
    """The volume of the stage that has the file ``path``; the innermost one, as it hides the others."""
    found = [one for one in stage.volumes if _is_below(path, one.mount_path)]
    innermost = max(found, key=lambda one: len(one.mount_path), default=None)
    return innermost if innermost and innermost.source[0] != "empty_dir" else None


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def agent_containers(
    job: StageJob, profile: Profile, stage: StageProfile, volumes: Volumes
) -> tuple[Container, Container]:
    """(fetch, collect): ours, with the store's credentials, which no other container has."""
    agent, store = profile.agent, profile.store
    place = store.path if store else job.store
    assert place is not None
    args = [
        f"--store={place}",
        f"--task={job.task}",
        f"--workspace={WORKSPACE}",
        f"--handover={HANDOVER}",
    ]
    mounts = [
        mount_of("workspace", WORKSPACE),
        mount_of("handover", HANDOVER),
        mount_of("agent-tmp", "/tmp"),
    ]
    if store:
        mounts.append(
            {
                **mount_of("store", store.path),
                **({"subPath": store.sub_path} if store.sub_path else {}),
            }
        )
    shared = {
        **image_of(agent.image, agent.image_pull_policy),
        "env": agent_environment(agent),
        "resources": resources_of(agent.resources),
        "securityContext": security_context(True),
        # Its last lines are its last words: why it failed is then said without its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    given = [literal(one) for one in args]
    python, flag, module = _AGENT
    fetch = {"name": FETCH, **shared, "command": [python, flag, f"{module}.fetch"], "args": given}
    if private := _private_mounts(job, stage, volumes):
        fetch["volumeMounts"] = [*mounts, *private]
    collect = {
        "name": COLLECT,
        **shared,
        "restartPolicy": "Always",
        "command": [python, flag, f"{module}.collect"],
        "args": given,
    }
    return fetch, collect


def _private_mounts(job: StageJob, stage: StageProfile, volumes: Volumes) -> list[dict[str, Any]]:
    """Beside the workspace, not in it: a mount's folder there would be root's, and nothing could be brought into it."""
    found = {one.mount_path: one for path in job.private if (one := holding(path, stage))}
    return [
        {**volumes.mount(one), "mountPath": f"{PRIVATE}{path}", "readOnly": True}
        for path, one in sorted(found.items())
    ]


def agent_environment(agent: Agent, own: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What our containers find: who they are, the profile's variables, and ``own``, which beat those."""
    here = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "NODE_NAME": "spec.nodeName"}
    plain = {"HOME": "/tmp", **agent.env, **(own or {})}
    secret = {name: ref for name, ref in agent.secret_env.items() if name not in (own or {})}
    return [
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in here.items()
        ),
        *_environment(
            {n: v for n, v in plain.items() if n not in {*here, *secret}},
            secret,
        ),
    ]


def _environment(plain: Mapping[str, str], secret: Mapping[str, SecretRef]) -> list[dict[str, Any]]:
    """Sorted, so that the same attempt is the same Job everywhere."""
    made: list[dict[str, Any]] = [
        {"name": n, "value": literal(v)} for n, v in sorted(plain.items())
    ]
    for name, ref in sorted(secret.items()):
        source: dict[str, Any] = {"name": ref.secret, "key": ref.key}
        if ref.optional:
            source["optional"] = True
        made.append({"name": name, "valueFrom": {"secretKeyRef": source}})
    return made


def resources_of(asked: Resources) -> dict[str, Any]:
    same: dict[str, str] = {}
    if asked.memory:
        same["memory"] = asked.memory
    if asked.ephemeral_storage:
        same["ephemeral-storage"] = asked.ephemeral_storage
    if asked.gpus:
        same[asked.gpu_resource] = str(asked.gpus)
    same |= {name: str(count) for name, count in asked.extended.items()}
    requests = {**({"cpu": asked.cpu} if asked.cpu else {}), **same}
    limits = {**({"cpu": asked.cpu_limit} if asked.cpu_limit else {}), **same}
    return {
        **({"requests": requests} if requests else {}),
        **({"limits": limits} if limits else {}),
    }


def security_context(read_only_root: bool) -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }


def image_of(image: str, policy: str | None) -> dict[str, str]:
    return {"image": image, **({"imagePullPolicy": policy} if policy else {})}


def mount_of(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "mountPath": path}


def _url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}{service.url_path}"


def matching(names: Iterable[str], patterns: Collection[str]) -> frozenset[str]:
    """Those of ``names`` that a pattern names; a ``*`` at its end stands for anything."""
    exact = {one for one in patterns if not one.endswith("*")}
    starts = tuple(one[:-1] for one in patterns if one.endswith("*"))
    return frozenset(name for name in names if name in exact or name.startswith(starts))
