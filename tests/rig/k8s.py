"""A real cluster for the tests: ours (tests/rig/cluster), or the one that TEST_CLUSTER_KUBECONFIG names.

KUBECONFIG alone chooses nothing: whoever has it in their shell has not asked for tests on that cluster.

Ours has one node with one GPU that it only says it has, an S3 server that pods and this machine reach under one
address, and a control over its parts. What a given cluster has is told by the environment; where a test takes what
there is none of, it is skipped and says so:

- TEST_CLUSTER_IMAGE: an image with bash and coreutils, for stages (default: BASH and DEBIAN of ours);
- TEST_CLUSTER_AGENT_IMAGE: this project's own image;
- TEST_CLUSTER_MINIGRID_IMAGE: examples/minigrid/Dockerfile's, for the demo;
- TEST_CLUSTER_S3: an s3:// URL that pods and this machine reach, with the AWS_* variables that lead there.

Tests of a cluster are marked with ``on_cluster`` and have the time for a first start. Whole files run side by side,
but for those marked ``alone``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.rig.cluster import images, layers
from tests.rig.cluster.agent_image import agent_image
from tests.rig.cluster.daemons import AUDIT, SOCKET
from tests.rig.cluster.joining import joined
from tests.rig.cluster.keeper import CONTROL, GPU
from tests.rig.cluster.machine import OUTSIDE
from tests.rig.cluster.minigrid_image import minigrid_image
from tests.rig.cluster.programs import given, kubernetes
from tests.rig.s3 import S3Server
from tests.rig.tools import skip

__all__ = ["GPU", "OUTSIDE", "Cluster", "cluster", "on_cluster", "using"]

#: Seconds for one test, the cluster's programs and images built from nothing included.
_FIRST_SECONDS = 1800
_WAIT_SECONDS = 60
_CTR = ("ctr", "--address", str(SOCKET), "-n", "k8s.io")

on_cluster = [
    pytest.mark.cluster,
    pytest.mark.timeout(_FIRST_SECONDS),
]

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """A cluster, and what the tests may do with it."""

    kubeconfig: Path
    program: str
    #: Only of ours: the parts can be stopped and started, and the audit log read.
    own: bool
    s3: S3Server | None

    def environment(self) -> dict[str, str]:
        """What leads a program to the cluster, and to its S3 server: to a given one as this shell goes there."""
        shell = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        access = self.s3.environment() if self.s3 else shell
        return {"KUBECONFIG": str(self.kubeconfig), **access}

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What `kubectl` printed; raises with what it said where it failed."""
        done = self.tried(*arguments, given=given)
        if done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def tried(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """`kubectl`, whatever comes of it."""
        return subprocess.run(
            [self.program, "--kubeconfig", str(self.kubeconfig), *arguments],
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def apply(self, namespace: str, *objects: Mapping[str, Any]) -> None:
        """Create objects in ``namespace``."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("-n", namespace, "create", "-f", "-", given=json.dumps(listed))

    def store_secret(self, namespace: str) -> None:
        """Create the Secret ``store``, whose ``id`` and ``secret`` lead an agent to the S3 server."""
        access = self.environment()
        words = {"id": access["AWS_ACCESS_KEY_ID"], "secret": access["AWS_SECRET_ACCESS_KEY"]}
        about = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}}
        self.apply(namespace, {**about, "stringData": words})

    def get(self, namespace: str, *what: str) -> Any:
        """An object, or a list of them, as the API server has it."""
        return json.loads(self.kubectl("-n", namespace, "get", *what, "-o", "json"))

    @contextmanager
    def namespace(self, enforce: str = "restricted") -> Iterator[str]:
        """A new namespace with this pod security, gone at the end of the block and all in it with it."""
        name = f"rig-{secrets.token_hex(4)}"
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        about = {"name": name, "labels": labels}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": about}
        self.kubectl("create", "-f", "-", given=json.dumps(namespace))
        self.until(
            lambda: self.tried("-n", name, "get", "serviceaccount", "default").returncode == 0
        )
        try:
            yield name
        finally:
            self.tried("-n", name, "delete", "pods", "--all", "--grace-period=1", "--wait=false")
            self.tried("delete", "namespace", name, "--wait=false")

    def until(self, asked: Callable[[], T], seconds: float = _WAIT_SECONDS) -> T:
        """The first answer that is true; asked again for so long."""
        end = time.monotonic() + seconds
        while not (answer := asked()):
            assert time.monotonic() < end, f"not within {seconds} s; the last answer was {answer!r}"
            time.sleep(0.1)
        return answer

    def bucket(self) -> str:
        """The s3:// URL of an empty place that pods reach too."""
        if self.s3:
            return f"s3://{self.s3.bucket(f'rig-{secrets.token_hex(4)}')}"
        if url := os.environ.get("TEST_CLUSTER_S3"):
            return f"{url.rstrip('/')}/rig-{secrets.token_hex(4)}"
        skip("TEST_CLUSTER_S3 names no place that the pods of the given cluster reach")
        raise AssertionError("unreachable")

    @property
    def bash_image(self) -> str:
        """The least that a stage's image may be."""
        return images.BASH if self.own else self._given("TEST_CLUSTER_IMAGE")

    @property
    def debian_image(self) -> str:
        """What a stage's image usually is; with Python. Brought into the cluster when it is first asked for."""
        if not self.own:
            return self._given("TEST_CLUSTER_IMAGE")
        if images.DEBIAN not in self._images():
            command = [*_CTR, "images", "import", str(images.debian_archive())]
            subprocess.run(command, check=True, capture_output=True)
        return images.DEBIAN

    @property
    def agent_image(self) -> str:
        """This project's own image, of the checkout that the tests run in."""
        if not self.own:
            return self._given("TEST_CLUSTER_AGENT_IMAGE")
        return self._brought(*agent_image())

    @property
    def minigrid_image(self) -> str:
        """What the demo's stages run in."""
        if not self.own:
            return self._given("TEST_CLUSTER_MINIGRID_IMAGE")
        return self._brought(*minigrid_image())

    def stop(self, name: str, how: str = "stop") -> None:
        """End a daemon of the cluster (``kube-apiserver``, ``kubelet`` …). ``how``: stop, kill or pause."""
        self._control({"do": how, "name": name})

    def start(self, name: str) -> None:
        """Start a daemon again; it is well when this returns."""
        self._control({"do": "start", "name": name})

    def go_on(self, name: str) -> None:
        """Wake a daemon that was paused."""
        self._control({"do": "go_on", "name": name})

    def audited(self) -> Iterator[dict[str, Any]]:
        """Each request that the API server answered, from its own log."""
        self._only_own("an audit log that can be read")
        with AUDIT.open() as log:
            for line in log:
                yield json.loads(line)

    def _brought(self, name: str, make: Callable[[], Path]) -> str:
        if name not in self._images():
            layers.bring(make(), name, _CTR)
        return name

    def _images(self) -> list[str]:
        """The names of the images that the node has."""
        command = [*_CTR, "images", "ls", "-q"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True)
        return listed.stdout.split()

    def _control(self, order: dict[str, str]) -> None:
        self._only_own("parts that can be stopped")
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(CONTROL))
            line.sendall(json.dumps(order).encode() + b"\n")
            answer = json.loads(line.makefile().readline())
        assert "error" not in answer, f"{order}: {answer['error']}"

    def _only_own(self, what: str) -> None:
        if not self.own:
            pytest.skip(f"the given cluster has no {what}")

    def _given(self, variable: str) -> str:
        if not (image := os.environ.get(variable)):
            skip(f"{variable} names no image for the given cluster")
            raise AssertionError("unreachable")
        return image


@contextmanager
def using() -> Iterator[Cluster]:
    """The cluster, until the end of the block."""
    if path := given():
        program = shutil.which("kubectl") or str(kubernetes() / "kubectl")
        yield Cluster(path, program, own=False, s3=None)
        return
    with joined() as said:
        s3 = S3Server(said["s3"]["endpoint"], Path(said["s3"]["root"]), said["s3"]["pid"])
        yield Cluster(Path(said["kubeconfig"]), said["kubectl"], own=True, s3=s3)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The one cluster of all tests; started by the first process that asks, gone with the last one."""
    with using() as one:
        yield one
