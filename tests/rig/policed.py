"""Network policies enforced on the tests' cluster, by kube-router's firewall, for as long as a test wants it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.rig.cluster.identity import NODE_NAME
from tests.rig.cluster.machine import LOGS, SERVICES, inside, note_process
from tests.rig.k8s import Cluster
from tests.rig.packages import installed_package
from tests.rig.tools import go_tool

__all__ = ["policed", "policy_program"]

_VERSION = "2.1.0"
_HEALTH_PORT = 20244
_START_SECONDS = 60
_IPTABLES, _IPSET = "/usr/sbin/iptables", "/usr/sbin/ipset"
#: Nothing else of the namespace filters; a rule that stayed would hold for whoever gets a pod's address later.
_REMOVE = ([_IPTABLES, "--flush"], [_IPTABLES, "--delete-chain"], [_IPSET, "destroy"])


def policy_program() -> Path:
    """kube-router, built, with what it calls installed; skips where they cannot be had."""
    installed_package(_IPSET, "ipset")
    return go_tool("github.com/cloudnativelabs/kube-router/v2", "cmd/kube-router", _VERSION)


@contextmanager
def policed(cluster: Cluster) -> Iterator[None]:
    """Policies hold until the end of the block; skips on a given cluster. For tests marked ``alone``."""
    if not cluster.own:
        pytest.skip("whether the given cluster enforces network policies is not known")
    command = [
        str(policy_program()),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--service-cluster-ip-range={SERVICES}",
        f"--health-port={_HEALTH_PORT}",
    ]
    log = LOGS / "kube-router.log"
    with inside(), log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    note_process("kube-router", process.pid)
    try:
        with inside():
            _await(process, log)
        yield
    finally:
        _end(process)


def _await(process: subprocess.Popen[bytes], log: Path) -> None:
    """It is well. In the namespace."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-600:]
        try:
            with urlopen(f"http://127.0.0.1:{_HEALTH_PORT}/healthz", timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()[-600:]
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)
    with inside():
        for remove in _REMOVE:
            subprocess.run(remove, check=True, capture_output=True)
