"""The programs of a cluster, by version, from the user's cache: built where they are not there yet.

python -m tests.rig.cluster.programs        builds and installs all that a cluster takes, and says so
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.rig import packages
from tests.rig.cluster.machine import obstacle
from tests.rig.s3 import s3_program
from tests.rig.tools import go_programs, skip

__all__ = ["ETCD", "KUBERNETES", "Programs", "given", "kubernetes", "programs"]

KUBERNETES = "1.34.4"
ETCD = "3.6.4"

_HERE = Path(__file__).parent


def given() -> Path | None:
    """The kubeconfig of the cluster that was asked for instead of ours. Fails where it is no file."""
    if not (said := os.environ.get("TEST_CLUSTER_KUBECONFIG")):
        return None
    path = Path(said).expanduser().absolute()
    if not path.is_file():
        pytest.fail(f"TEST_CLUSTER_KUBECONFIG={said} is no file")
    return path


class Programs:
    """Where each program of a cluster lies."""

    def __init__(self, kubernetes: Path, etcd: Path) -> None:
        self._folders = (kubernetes, etcd)

    def __getitem__(self, name: str) -> str:
        for folder in self._folders:
            if (folder / name).exists():
                return str(folder / name)
        raise KeyError(name)


def programs() -> Programs:
    """All programs of a cluster; skips where they cannot be had. Minutes the first time, then nothing."""
    if reason := obstacle():
        skip(reason)
    packages.installed()
    s3_program()
    return Programs(kubernetes(), _etcd())


def kubernetes() -> Path:
    """The folder of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl."""
    major, minor, _ = KUBERNETES.split(".")
    where = "k8s.io/component-base/version"
    said = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {where}.{name}={value}" for name, value in said.items())])
    return go_programs(_HERE / "kubernetes", KUBERNETES, "-trimpath", "-ldflags", flags)


def _etcd() -> Path:
    return go_programs(_HERE / "etcd", ETCD, "-trimpath", "-ldflags", "-s -w")
