"""A profile: where stages run, and on what. The models; ``profile_text`` reads them from YAML. Pure.

1. ``defaults`` hold for every stage; what a stage says itself beats them, key by key. Of the keys in MERGED a stage
   adds to the default's entries; anything else it replaces. ``null`` (of a list ``[]``) takes a default away.
2. A secret has no value here, only the name of a Secret and a key in it.
3. Keys are ours and in snake_case; ``affinity`` and ``tolerations`` are Kubernetes' own, as in a pod's spec.
4. What no cluster could ever run is refused here; what this cluster cannot run is for ``launcher doctor``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from k8s.profile_values import (
    READY_PATH,
    SECRET_KEY,
    URL_PATH,
    Amount,
    Cpu,
    EnvName,
    EnvValue,
    FreeLabelKey,
    Image,
    Label,
    LabelKey,
    LabelValue,
    MountPath,
    Name,
    ResourceName,
    Seconds,
    Section,
    SubPath,
    Switch,
    VariablePattern,
)
from k8s.quantity import amount

__all__ = [
    "LLM_VARIABLES",
    "MERGED",
    "Affinity",
    "Agent",
    "Driver",
    "Profile",
    "Resources",
    "SecretRef",
    "Service",
    "StageProfile",
    "Stages",
    "Store",
    "Toleration",
    "Volume",
]

#: Keys whose entries a stage adds to those of the defaults.
MERGED: Final = ("annotations", "env", "labels", "node_selector", "resources", "secret_env")
#: What leads to a language model, unless the profile says otherwise; a * stands for any ending.
LLM_VARIABLES: Final = ("ANTHROPIC_*", "AZURE_OPENAI_*", "LLM_*", "OPENAI_*", "PLANNER_*")

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
_Key = Annotated[str, Field(pattern=SECRET_KEY, max_length=253)]


class SecretRef(Section):
    """One key of a Secret of the namespace."""

    secret: Name = Field(description="The Secret's name.")
    key: _Key = Field(description="The key in it.")
    optional: bool = Field(False, description="Whether the stage may start without it.")


class Resources(Section):
    """What a container asks for. Memory and GPUs are limits too; CPUs are one only by cpu_limit."""

    cpu: Cpu | None = Field(None, description="CPUs asked for: 4, 0.5 or 500m.")
    cpu_limit: Cpu | None = Field(
        None, description="CPUs it may not exceed; it is slowed down there."
    )
    memory: Amount | None = Field(None, description="Memory asked for, and the limit: 16Gi.")
    ephemeral_storage: Amount | None = Field(
        None,
        description="Disk of the node for the workspace, temporary files and output, and the limit.",
    )
    gpus: int = Field(0, ge=0, le=1024, description="GPUs, as a whole number.")
    gpu_resource: ResourceName = Field(
        "nvidia.com/gpu", description="The resource by which the cluster counts GPUs."
    )
    extended: dict[ResourceName, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Further extended resources, such as rdma/hca: 1."
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong with it): no rule of the model, since a stage and its defaults come together later."""
        if self.gpu_resource in self.extended:
            yield "extended", f"names {self.gpu_resource} again: gpus is for it"
        cpu, limit = self.cpu, self.cpu_limit
        if cpu and limit and amount(cpu) > amount(limit):
            yield "cpu_limit", f"{limit} is less than the cpu, {cpu}, that is asked for"


class Toleration(Section):
    """As in a pod's spec."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(ge=0)] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _possible(self) -> Toleration:
        if self.key is None and self.operator != "Exists":
            raise ValueError("without a key its operator must be Exists")
        if self.operator == "Exists" and self.value:
            raise ValueError("an operator Exists has no value")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds is for the effect NoExecute")
        return self


class Affinity(Section):
    """As in a pod's spec."""

    nodeAffinity: dict[str, Any] | None = None  # noqa: N815
    podAffinity: dict[str, Any] | None = None  # noqa: N815
    podAntiAffinity: dict[str, Any] | None = None  # noqa: N815


class Volume(Section):
    """Something that is mounted into the command's container, or into a service's: exactly one of its sources."""

    mount_path: MountPath = Field(description="Where it is mounted, absolute.")
    claim: Name | None = Field(None, description="A PersistentVolumeClaim.")
    config_map: Name | None = Field(None, description="A ConfigMap; it is read-only.")
    secret: Name | None = Field(None, description="A Secret, as files; it is read-only.")
    host_path: MountPath | None = Field(
        None, description="A folder of the node; only with allow_host_path."
    )
    empty_dir: Amount | None = Field(
        None, description="Room on the node, of this size, gone with the pod."
    )
    sub_path: SubPath | None = Field(None, description="Only this folder of it.")
    read_only: bool = Field(False, description="Whether it cannot be written.")

    @property
    def source(self) -> tuple[str, str]:
        """(kind, name) of where it comes from."""
        given = self.model_dump(include={"claim", "config_map", "secret", "host_path", "empty_dir"})
        return next((kind, name) for kind, name in given.items() if name is not None)

    @model_validator(mode="after")
    def _one_source(self) -> Volume:
        sources = (self.claim, self.config_map, self.secret, self.host_path, self.empty_dir)
        if sum(one is not None for one in sources) != 1:
            raise ValueError(
                "must have exactly one of claim, config_map, secret, host_path, empty_dir"
            )
        return self


class Service(Section):
    """A server beside the command, for as long as it runs: started before it, reachable at 127.0.0.1."""

    name: Label = Field(description="The container's name.")
    image: Image
    image_pull_policy: PullPolicy | None = None
    command: list[str] | None = Field(None, description="Instead of the image's own entrypoint.")
    args: list[str] = Field(default_factory=list)
    port: int = Field(ge=1, le=65535, description="Where it listens, on all addresses.")
    url_variable: EnvName | None = Field(
        None, description="The variable that tells the command its URL."
    )
    url_path: str = Field("", pattern=URL_PATH, description="The end of that URL, such as /v1.")
    ready_path: str | None = Field(
        None,
        pattern=READY_PATH,
        description="Ready when HTTP GET of it succeeds; without it, when the port is open.",
    )
    startup_seconds: Seconds = Field(
        600, description="How long it may take until it is ready for the first time."
    )
    resources: Resources = Field(default_factory=Resources)
    env: dict[EnvName, EnvValue] = Field(default_factory=dict)
    secret_env: dict[EnvName, SecretRef] = Field(default_factory=dict)
    volumes: list[Volume] = Field(default_factory=list)
    read_only_root: bool = True


class StageProfile(Section):
    """One stage, or what holds for every stage."""

    image: Image | None = Field(
        None, description="The image of the stage's command; it needs bash and coreutils."
    )
    image_pull_policy: PullPolicy | None = None
    image_pull_secrets: list[Name] = Field(default_factory=list)
    resources: Resources = Field(default_factory=Resources)
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    affinity: Affinity | None = None
    tolerations: list[Toleration] = Field(default_factory=list)
    priority_class: Name | None = None
    runtime_class: Name | None = None
    service_account: Name | None = Field(None, description="Its token is never mounted.")
    volumes: list[Volume] = Field(default_factory=list)
    shared_memory: Amount | None = Field(
        None, description="The size of /dev/shm; it counts as memory."
    )
    workspace_size: Amount | None = Field(
        None, description="The most that code, inputs and outputs may take."
    )
    env: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Variables; they beat the config's."
    )
    secret_env: dict[EnvName, SecretRef] = Field(
        default_factory=dict, description="Variables out of Secrets."
    )
    queue: Label | None = Field(
        None, description="A Kueue LocalQueue: the Job is created suspended and waits."
    )
    deadline_seconds: Seconds | None = Field(
        None, description="The most for the whole Job, waiting included."
    )
    pending_deadline_seconds: Seconds | None = Field(
        None, description="The longest wait for a place to run."
    )
    infrastructure_retries: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None,
        description="How often to try again what failed through no fault of the stage; None: as the config says.",
    )
    services: list[Service] = Field(default_factory=list)
    llm: Switch | None = Field(
        None,
        description="off: no variable of llm_variables, no service that one names. None: off for llm_off alone.",
    )
    grace_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        30, description="From TERM to KILL for the command, when its pod has to go."
    )
    save_seconds: Annotated[int, Field(ge=5, le=86400)] = Field(
        60, description="After that, to save log and checkpoints."
    )
    collect_deadline_seconds: Seconds = Field(
        3600, description="The most that storing the outputs may take."
    )
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1000
    run_as_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="None: as run_as_user."
    )
    fs_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="None: as run_as_user."
    )
    read_only_root: bool = Field(
        True, description="Whether the image's own files cannot be written."
    )
    labels: dict[FreeLabelKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[FreeLabelKey, str] = Field(default_factory=dict)


class Stages(Section):
    """What differs from the defaults, by stage."""

    llm_on: StageProfile = Field(default_factory=StageProfile)
    relabel: StageProfile = Field(default_factory=StageProfile)
    retrain: StageProfile = Field(default_factory=StageProfile)
    llm_off: StageProfile = Field(default_factory=StageProfile)


class Agent(Section):
    """The launcher's own containers beside a stage, which fetch and collect. Its variables reach no stage."""

    image: Image = Field(description="The image of distill-ledger.")
    image_pull_policy: PullPolicy | None = None
    resources: Resources = Field(default_factory=lambda: Resources(cpu="100m", memory="512Mi"))
    env: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Such as AWS_ENDPOINT_URL."
    )
    secret_env: dict[EnvName, SecretRef] = Field(
        default_factory=dict, description="Such as the store's credentials."
    )


class Driver(Section):
    """The Job that goes from stage to stage where no launcher stays (submit --detach)."""

    service_account: Name = Field(
        "distill-ledger-driver", description="Whose token it has: it makes and watches the Jobs."
    )
    resources: Resources = Field(default_factory=lambda: Resources(cpu="100m", memory="512Mi"))
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    priority_class: Name | None = None
    image_pull_secrets: list[Name] = Field(default_factory=list)
    labels: dict[FreeLabelKey, LabelValue] = Field(default_factory=dict)
    annotations: dict[FreeLabelKey, str] = Field(default_factory=dict)


class Store(Section):
    """A store that is a folder on a shared volume."""

    path: MountPath = Field("/store", description="Where the agent sees it.")
    claim: Name | None = Field(
        None, description="The PersistentVolumeClaim; ReadWriteMany, for several nodes."
    )
    host_path: MountPath | None = Field(
        None, description="A folder of the node; only with allow_host_path."
    )
    sub_path: SubPath | None = Field(None, description="Only this folder of it.")

    @model_validator(mode="after")
    def _one_source(self) -> Store:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("must have exactly one of claim and host_path")
        return self


class Profile(Section):
    """A whole file. Without ``store`` the launcher's own is used, which must then be a bucket."""

    namespace: Label | None = Field(
        None, description="Where the Jobs are; None: as the kubeconfig says."
    )
    agent: Agent
    driver: Driver = Field(default_factory=Driver)
    store: Store | None = None
    allow_host_path: bool = Field(False, description="Whether volumes may be folders of the node.")
    keep_finished_seconds: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        86400,
        description="How long a Job stays once it has ended and its end is on record; null: for ever.",
    )
    llm_variables: list[VariablePattern] = Field(
        default_factory=lambda: list(LLM_VARIABLES), description="What leads to a language model."
    )
    defaults: StageProfile = Field(default_factory=StageProfile)
    stages: Stages = Field(default_factory=Stages)
