"""The command line and the settings of each daemon of the cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.rig.cluster.identity import NODE_NAME, Identities
from tests.rig.cluster.images import SANDBOX
from tests.rig.cluster.machine import CGROUP, HOME, NODE, PODS, SERVICES
from tests.rig.cluster.programs import Programs

__all__ = ["AUDIT", "SOCKET", "Daemon", "daemons"]

SOCKET = HOME / "containerd.sock"
#: One line of JSON for each request that the API server answered.
AUDIT = HOME / "audit.log"
_MANIFESTS = HOME / "static"


@dataclass(frozen=True)
class Daemon:
    """A command, which runs in the namespace, and where it says that it is well."""

    name: str
    command: list[str]
    #: An address of the namespace's own loopback, or None for one that is asked otherwise.
    health: str | None


def daemons(programs: Programs, who: Identities) -> list[Daemon]:
    """In the order in which they start. Their settings are written here."""
    made: list[Callable[[Programs, Identities], Daemon]]
    made = [_etcd, _containerd, _api_server, _controllers, _scheduler, _kubelet]
    return [one(programs, who) for one in made]


def _etcd(programs: Programs, _: Identities) -> Daemon:
    url = "http://127.0.0.1:2379"
    command = [
        programs["server"],
        f"--data-dir={HOME}/etcd",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # What is kept here is thrown away at the end.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    return Daemon("etcd", command, f"{url}/health")


def _api_server(programs: Programs, who: Identities) -> Daemon:
    policy = HOME / "audit.yaml"
    rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
    _write(policy, {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules})
    command = [
        programs["kube-apiserver"],
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=443",
        f"--advertise-address={NODE}",
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={who['ca.crt']}",
        f"--tls-cert-file={who['server.crt']}",
        f"--tls-private-key-file={who['server.key']}",
        f"--token-auth-file={who['tokens.csv']}",
        # As real clusters have it; what a pod may be is its namespace's affair.
        "--allow-privileged",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,PodSecurity",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={who['accounts.key']}",
        f"--service-account-signing-key-file={who['accounts.key']}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={who['to-kubelet.crt']}",
        f"--kubelet-client-key={who['to-kubelet.key']}",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={AUDIT}",
        "--audit-log-mode=blocking",
        # A stopped server is to be gone at once, watches and all, as one that crashed.
        "--shutdown-delay-duration=0s",
    ]
    return Daemon("kube-apiserver", command, "https://127.0.0.1:443/readyz")


def _controllers(programs: Programs, who: Identities) -> Daemon:
    config = who.kubeconfig("kube-controller-manager")
    command = [
        programs["kube-controller-manager"],
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={who['accounts.key']}",
        f"--root-ca-file={who['ca.crt']}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={HOME}/controllers",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]
    return Daemon("kube-controller-manager", command, "https://127.0.0.1:10257/healthz")


def _scheduler(programs: Programs, who: Identities) -> Daemon:
    config = who.kubeconfig("kube-scheduler")
    command = [
        programs["kube-scheduler"],
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--cert-dir={HOME}/scheduler",
    ]
    return Daemon("kube-scheduler", command, "https://127.0.0.1:10259/healthz")


def _kubelet(programs: Programs, who: Identities) -> Daemon:
    settings = HOME / "kubelet.yaml"
    _MANIFESTS.mkdir()
    _write(settings, _kubelet_settings(who))
    command = [
        programs["kubelet"],
        f"--config={settings}",
        f"--kubeconfig={who.kubeconfig('kubelet')}",
        f"--root-dir={HOME}/kubelet",
        f"--cert-dir={HOME}/kubelet-keys",
        f"--node-ip={NODE}",
        f"--hostname-override={NODE_NAME}",
    ]
    return Daemon("kubelet", command, "http://127.0.0.1:10248/healthz")


def _kubelet_settings(who: Identities) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "staticPodPath": str(_MANIFESTS),
        "podLogsDir": str(HOME / "logs"),
        "volumePluginDir": str(HOME / "volume-plugins"),
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": who["ca.crt"]},
        },
        "authorization": {"mode": "AlwaysAllow"},
        # The machine is not ours alone: its kernel settings stay, and how full its disk is says nothing of us.
        "protectKernelDefaults": False,
        "makeIPTablesUtilChains": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "64Mi", "nodefs.available": "64Mi"},
        "nodeStatusUpdateFrequency": "5s",
        # A node that has never been away is found again, and a dead one missed, within a test's patience.
        "syncFrequency": "10s",
    }


def _containerd(_: Programs, __: Identities) -> Daemon:
    settings, networks = HOME / "containerd.toml", HOME / "networks"
    networks.mkdir()
    network = {
        "cniVersion": "1.0.0",
        "name": CGROUP,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(HOME / "addresses"),
                },
            }
        ],
    }
    (networks / "10-rig.conflist").write_text(json.dumps(network))
    settings.write_text(_CONTAINERD.format(home=HOME, socket=SOCKET, sandbox=SANDBOX))
    return Daemon("containerd", ["/usr/bin/containerd", "--config", str(settings)], None)


#: restrict_oom_score_adj: a machine that may not lower its processes' scores runs no container otherwise.
_CONTAINERD = """\
version = 2
root = "{home}/containerd"
state = "{home}/containerd-state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{socket}"

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{home}/networks"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/usr/sbin/runc"
        Root = "{home}/runc"
"""


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(content))
