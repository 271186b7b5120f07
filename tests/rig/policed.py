"""Network policies enforced on the tests' cluster, by kube-router's firewall, for as long as a test wants it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.rig.cluster.daemons import POLICIES
from tests.rig.cluster.machine import inside
from tests.rig.k8s import Cluster

__all__ = ["policed"]

#: Nothing else of the namespace filters; a rule that stayed would hold for whoever gets a pod's address later.
_REMOVE = (
    ["/usr/sbin/iptables", "--flush"],
    ["/usr/sbin/iptables", "--delete-chain"],
    ["/usr/sbin/ipset", "destroy"],
)


@contextmanager
def policed(cluster: Cluster) -> Iterator[None]:
    """Policies hold until the end of the block; skips on a given cluster. For tests marked ``alone``."""
    cluster.start(POLICIES)
    try:
        yield
    finally:
        cluster.stop(POLICIES)
        with inside():
            for command in _REMOVE:
                subprocess.run(command, check=True, capture_output=True)
