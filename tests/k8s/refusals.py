"""Profiles that are refused, and what is said of each: what test_profile.py and test_profile_schema.py go through."""

from __future__ import annotations

from typing import Final

from tests.k8s.profiles import LEAST

__all__ = ["BEYOND", "SEEN", "in_retrain"]

_SECRET = "by its name it is a secret: give a Secret's name and key under secret_env"
_HOST_PATH = "a folder of the node is refused unless the profile says allow_host_path: true"
_ONE_SOURCE = "must have exactly one of claim, config_map, secret, host_path, empty_dir"
_PLACE = "is no place to mount at: no '.', '..', ':' or empty parts, and not /"
_LABEL = "is no Kubernetes name (a-z, 0-9, - inside)"
_IMAGE = "is no image such as registry.example.com/team/train:1.2 (its name in small letters)"
_MAPPING = "must be a mapping of keys to values"


def in_retrain(text: str) -> str:
    """A profile whose third line says this of the retrain."""
    return f"{LEAST}stages: {{retrain: {{{text}}}}}\n"


def _volume(text: str) -> str:
    return in_retrain(f"volumes: [{{{text}}}]")


def _service(text: str) -> str:
    return in_retrain(f"services: [{{name: m, image: v, {text}}}]")


def _retrain(problem: str) -> list[str]:
    return [f"stages.retrain.{problem} (line 3)"]


def _taken(own: str) -> list[str]:
    return _retrain(f"volumes[0].mount_path: the launcher mounts its own {own} there")


#: text: every problem. What an editor with the published schema marks, too.
SEEN: Final[dict[str, list[str]]] = {
    # Unknown keys.
    f"{LEAST}stage: {{}}": ["stage: unknown key; is stages meant? (line 3)"],
    f"{LEAST}stages: {{retrian: {{}}}}": [
        "stages.retrian: unknown key; is retrain meant? (line 3)"
    ],
    in_retrain("gpus: 1"): _retrain("gpus: unknown key"),
    in_retrain("shared_memroy: 1Gi"): _retrain(
        "shared_memroy: unknown key; is shared_memory meant?"
    ),
    in_retrain("resources: {memmory: 1Gi}"): _retrain(
        "resources.memmory: unknown key; is memory meant?"
    ),
    in_retrain("affinity: {nodeAfinity: {}}"): _retrain(
        "affinity.nodeAfinity: unknown key; is nodeAffinity meant?"
    ),
    in_retrain("secret_env: {A: {secret: s, key: k, value: hunter2}}"): _retrain(
        "secret_env.A.value: unknown key"
    ),
    # What is missing, and what is of another kind.
    "defaults: {image: r/t}": ["agent: missing"],
    "agent: {}\ndefaults: {image: r/t}": ["agent.image: missing"],
    in_retrain("secret_env: {A: {secret: s}}"): ["stages.retrain.secret_env.A.key: missing"],
    _service("args: []"): ["stages.retrain.services[0].port: missing"],
    f"{LEAST}stages: null": [f"stages: is empty: it {_MAPPING} (line 3)"],
    f"{LEAST}stages: {{retrain: []}}": [f"stages.retrain: {_MAPPING} (line 3)"],
    f"{LEAST}stages:\n  retrain:\n": [f"stages.retrain: is empty: it {_MAPPING} (line 4)"],
    in_retrain("tolerations: {key: a}"): _retrain("tolerations: must be a list"),
    in_retrain("read_only_root: yes"): _retrain("read_only_root: 'yes' must be true or false"),
    in_retrain("secret_env: {A: hunter2}"): _retrain(f"secret_env.A: 'hunter2' {_MAPPING}"),
    in_retrain("annotations: {a: 1}"): _retrain("annotations.a: 1 must be text: put it in quotes"),
    in_retrain("node_selector: {zone: true}"): _retrain(
        "node_selector.zone: true must be text: put it in quotes"
    ),
    in_retrain("env: {A: [x]}"): _retrain("env.A: must be text: put it in quotes"),
    in_retrain("env: {A: null}"): _retrain("env.A: has no value: write '' for an empty one"),
    # Images.
    in_retrain("image: Team/Train"): _retrain(f"image: 'Team/Train' {_IMAGE}"),
    in_retrain("image: 'r/train:1 '"): _retrain(f"image: 'r/train:1 ' {_IMAGE}"),
    in_retrain("image: ''"): _retrain(f"image: '' {_IMAGE}"),
    in_retrain("image: 7"): _retrain("image: 7 must be text: put it in quotes"),
    in_retrain("image_pull_policy: always"): _retrain(
        "image_pull_policy: 'always' must be 'Always', 'IfNotPresent' or 'Never'"
    ),
    # Amounts and numbers.
    in_retrain("resources: {memory: 16GB}"): _retrain(
        "resources.memory: '16GB' is no quantity such as 500m, 2 or 16Gi"
    ),
    in_retrain("resources: {memory: -1Gi}"): _retrain(
        "resources.memory: '-1Gi' is no quantity such as 500m, 2 or 16Gi"
    ),
    in_retrain("resources: {cpu: lots}"): _retrain(
        "resources.cpu: 'lots' is no quantity such as 500m, 2 or 16Gi"
    ),
    in_retrain("resources: {gpus: -1}"): _retrain("resources.gpus: -1 must be at least 0"),
    in_retrain("resources: {gpus: 0.5}"): _retrain("resources.gpus: '0.5' must be a whole number"),
    in_retrain("resources: {gpu_resource: gpu}"): _retrain(
        "resources.gpu_resource: 'gpu' is no resource name such as nvidia.com/gpu"
    ),
    in_retrain("resources: {extended: {rdma/hca: 0}}"): _retrain(
        "resources.extended.rdma/hca: 0 must be at least 1"
    ),
    in_retrain("deadline_seconds: 0"): _retrain("deadline_seconds: 0 must be at least 1"),
    in_retrain("deadline_seconds: 1h"): _retrain("deadline_seconds: '1h' must be a whole number"),
    in_retrain("deadline_seconds: 1e3"): _retrain("deadline_seconds: '1e3' must be a whole number"),
    in_retrain("deadline_seconds: 010"): _retrain("deadline_seconds: '010' must be a whole number"),
    in_retrain("infrastructure_retries: 101"): _retrain(
        "infrastructure_retries: 101 must be at most 100"
    ),
    in_retrain("grace_seconds: -1"): _retrain("grace_seconds: -1 must be at least 0"),
    in_retrain("save_seconds: 4"): _retrain("save_seconds: 4 must be at least 5"),
    in_retrain("run_as_user: 0"): _retrain("run_as_user: 0 must be at least 1"),
    _service("port: 70000"): _retrain("services[0].port: 70000 must be at most 65535"),
    in_retrain("llm: no"): _retrain("llm: 'no' must be on or off"),
    # Names, paths and labels.
    f"{LEAST}namespace: Lab": [f"namespace: 'Lab' {_LABEL} (line 3)"],
    in_retrain("queue: a.b"): _retrain(f"queue: 'a.b' {_LABEL}"),
    in_retrain("node_selector: {'a b': c}"): _retrain(
        "node_selector.'a b': 'a b' is no label's name such as example.com/team"
    ),
    in_retrain("node_selector: {zone: a b}"): _retrain(
        "node_selector.zone: 'a b' is no label's value (letters, digits, - _ . inside)"
    ),
    in_retrain("env: {1A: x}"): _retrain(
        "env.1A: '1A' is no variable name (letters, digits and _, first no digit)"
    ),
    f"{LEAST}llm_variables: ['*']": [
        "llm_variables[0]: '*' is no variable name, with or without a * at its end (line 3)"
    ],
    in_retrain("secret_env: {A: {secret: S_S, key: k}}"): _retrain(
        "secret_env.A.secret: 'S_S' is no Kubernetes name (a-z, 0-9, - and . inside)"
    ),
    in_retrain("secret_env: {A: {secret: s, key: a b}}"): _retrain(
        "secret_env.A.key: 'a b' is no key of a Secret (letters, digits, - _ .)"
    ),
    _volume("mount_path: data, claim: a"): _retrain(
        "volumes[0].mount_path: 'data' is no absolute path"
    ),
    _service("port: 80, url_path: v1"): _retrain(
        "services[0].url_path: 'v1' is no path of a URL such as /v1"
    ),
    _service("port: 80, ready_path: health"): _retrain(
        "services[0].ready_path: 'health' is no path of a URL such as /health"
    ),
}

#: … and what only the launcher sees, since it takes more than one place of the file, or more than a pattern.
BEYOND: Final[dict[str, list[str]]] = {
    "agent: {image: r/agent}\nstages: {llm_on: {image: a}, relabel: {image: a}, llm_off: {image: a}}": [
        "stages.retrain.image: missing, and there is no defaults.image"
    ],
    in_retrain("resources: {memory: 16}"): _retrain(
        "resources.memory: 16 is 16 bytes: is a unit missing, such as Gi?"
    ),
    in_retrain("resources: {memory: 100E}"): _retrain(
        "resources.memory: '100E' is more than any machine has"
    ),
    in_retrain("resources: {cpu: 0}"): _retrain(
        "resources.cpu: 0 is 0 CPUs: such as 4, 0.5 or 500m"
    ),
    in_retrain("resources: {cpu: 5000}"): _retrain(
        "resources.cpu: 5000 is 5000 CPUs: such as 4, 0.5 or 500m"
    ),
    in_retrain("resources: {cpu: 4, cpu_limit: 2}"): _retrain(
        "resources.cpu_limit: 2 is less than the cpu, 4, that is asked for"
    ),
    in_retrain("resources: {extended: {nvidia.com/gpu: 1}}"): _retrain(
        "resources.extended: names nvidia.com/gpu again: gpus is for it"
    ),
    in_retrain("resources: {memory: 1Gi}, shared_memory: 2Gi"): _retrain(
        "shared_memory: 2Gi is more than the memory, 1Gi, that it counts as"
    ),
    in_retrain("deadline_seconds: 60, pending_deadline_seconds: 60"): _retrain(
        "pending_deadline_seconds: 60 is no less than deadline_seconds, 60"
    ),
    in_retrain("tolerations: [{effect: NoSchedule}]"): _retrain(
        "tolerations[0]: without a key its operator must be Exists"
    ),
    in_retrain("tolerations: [{key: a, operator: Exists, value: b}]"): _retrain(
        "tolerations[0]: an operator Exists has no value"
    ),
    in_retrain("tolerations: [{key: a, tolerationSeconds: 5}]"): _retrain(
        "tolerations[0]: tolerationSeconds is for the effect NoExecute"
    ),
    # Volumes.
    _volume("mount_path: /data"): _retrain(f"volumes[0]: {_ONE_SOURCE}"),
    _volume("mount_path: /data, claim: a, secret: b"): _retrain(f"volumes[0]: {_ONE_SOURCE}"),
    _volume("mount_path: /, claim: a"): _retrain(f"volumes[0].mount_path: '/' {_PLACE}"),
    _volume("mount_path: /a/../b, claim: a"): _retrain(
        f"volumes[0].mount_path: '/a/../b' {_PLACE}"
    ),
    _volume("mount_path: /data, claim: a, sub_path: ../b"): _retrain(
        "volumes[0].sub_path: '../b' must lead down from the volume"
    ),
    _volume("mount_path: /workspace/, claim: a"): _taken("/workspace"),
    _volume("mount_path: /home, claim: a"): _taken("/home/stage"),
    _volume("mount_path: /dev, claim: a"): _taken("/dev/shm"),
    _volume("mount_path: /launcher/exit.json, claim: a"): _taken("/launcher"),
    in_retrain("volumes: [{mount_path: /d, claim: a}, {mount_path: /d/, claim: b}]"): _retrain(
        "volumes[1].mount_path: /d is another volume's, too"
    ),
    _volume("mount_path: /data, host_path: /srv"): _retrain(f"volumes[0].host_path: {_HOST_PATH}"),
    _service("port: 80, volumes: [{mount_path: /d, host_path: /srv}]"): _retrain(
        f"services[0].volumes[0].host_path: {_HOST_PATH}"
    ),
    f"{LEAST}store: {{host_path: /srv}}": [f"store.host_path: {_HOST_PATH} (line 3)"],
    f"{LEAST}store: {{path: /store}}": [
        "store: must have exactly one of claim and host_path (line 3)"
    ],
    f"{LEAST}store: {{claim: a, sub_path: /x}}": [
        "store.sub_path: '/x' must lead down from the volume (line 3)"
    ],
    f"{LEAST}store: {{claim: a, path: /workspace}}": [
        "store.path: the launcher mounts its own /workspace there (line 3)"
    ],
    # Variables and secrets.
    in_retrain("env: {WANDB_API_KEY: abcdefgh}"): _retrain(f"env.WANDB_API_KEY: {_SECRET}"),
    _service("port: 80, env: {A_TOKEN: x}"): _retrain(f"services[0].env.A_TOKEN: {_SECRET}"),
    "agent: {image: r/agent, env: {DB_PASSWORD: x}}\ndefaults: {image: r/t}": [
        f"agent.env.DB_PASSWORD: {_SECRET} (line 1)"
    ],
    in_retrain("env: {RUN_ID: x}"): _retrain("env.RUN_ID: is set by the launcher"),
    in_retrain("secret_env: {RUN_DIR: {secret: s, key: k}}"): _retrain(
        "secret_env.RUN_DIR: is set by the launcher"
    ),
    in_retrain('env: {A: "x\\0y"}'): _retrain("env.A: 'x\\x00y' has a NUL character"),
    in_retrain("env: {A: x}, secret_env: {A: {secret: s, key: k}}"): _retrain(
        "env.A: is in secret_env, too"
    ),
    in_retrain("labels: {kueue.x-k8s.io/queue-name: q}"): _retrain(
        "labels.kueue.x-k8s.io/queue-name: 'kueue.x-k8s.io/queue-name' is set by the launcher"
    ),
    in_retrain("labels: {distill-ledger/run: q}"): _retrain(
        "labels.distill-ledger/run: 'distill-ledger/run' is set by the launcher"
    ),
    # Services.
    _service("port: 80, url_variable: RUN_DIR"): _retrain(
        "services: RUN_DIR is set by the launcher"
    ),
    _service("port: 80, env: {A: x}, secret_env: {A: {secret: s, key: k}}"): _retrain(
        "services[0].env.A: is in secret_env, too"
    ),
    _service("port: 80, resources: {cpu: 4, cpu_limit: 2}"): _retrain(
        "services[0].resources.cpu_limit: 2 is less than the cpu, 4, that is asked for"
    ),
    in_retrain("services: [{name: collect, image: v, port: 80}]"): _retrain(
        "services: the name collect is the launcher's own"
    ),
    in_retrain("services: [{name: m, image: v, port: 80}, {name: m, image: v, port: 80}]"): [
        *_retrain("services: two of them have the name m"),
        *_retrain("services: two of them have the port 80"),
    ],
}
