"""A project whose runs are Jobs: ledger and store in a bucket that pods reach, a namespace of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig import job_project
from tests.rig.job_project import LAUNCHER
from tests.rig.k8s import Cluster

__all__ = ["LAUNCHER", "ClusterProject", "cluster_project", "project"]

_POLICIES = Path(__file__).resolve().parents[2] / "docs" / "policies"
_SECONDS = 500


@dataclass(frozen=True)
class ClusterProject:
    """``environment`` leads the launcher to the cluster, the store, and nothing of the machine's own."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]
    #: Of what the launcher makes; pods are another user, which its own may keep out of a folder.
    umask: int = -1

    def at(self, root: Path) -> ClusterProject:
        """As another machine has it: store, ledger and cluster, and another folder."""
        root.mkdir(parents=True)
        home = str(root / "home")  # its caches are its own
        return replace(self, root=root, environment={**self.environment, "HOME": home})

    def command(self, run_id: str, *more: str, **stages: str) -> list[str]:
        """What submits a run of these stages' commands."""
        lines = [f"{name.upper()}_CMD='{command}'\n" for name, command in stages.items()]
        (self.root / f"{run_id}.env").write_text("".join(lines) + "API_TOKEN=known-here-alone\n")
        return [str(LAUNCHER), *job_project.submit(run_id, *more)]

    def submit(self, run_id: str, *more: str, code: int = 0, **stages: str) -> str:
        return self._checked(self.tried(*self.command(run_id, *more, **stages)[1:]), code)

    def launcher(self, *arguments: str, code: int = 0) -> str:
        return self._checked(self.tried(*arguments), code)

    def _checked(self, done: subprocess.CompletedProcess[str], code: int) -> str:
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def tried(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.started(str(LAUNCHER), *arguments) as process:
            out, err = process.communicate(timeout=_SECONDS)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def started(self, *command: str) -> subprocess.Popen[str]:
        """A command that goes on; its output is to be read."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=self.umask,
        )

    # --- what became of it ---

    def recorded(self, run_id: str) -> list[dict[str, Any]]:
        """The run's events, in order, from the bucket itself."""
        return job_project.events(self.cluster, self.environment["LAUNCHER_STORE"], f"run/{run_id}")

    def facts(self, run_id: str) -> list[tuple[str, str | None]]:
        """(type, stage) of the run's events."""
        return [(e["type"], e["data"].get("stage")) for e in self.recorded(run_id)]

    def stored(self, key: str) -> Path:
        """Where the S3 server keeps an object, or the objects below ``key``."""
        if self.cluster.s3 is None:
            pytest.skip("the files of the given cluster's bucket cannot be read here")
        bucket = self.environment["LAUNCHER_STORE"].removeprefix("s3://")
        return self.cluster.s3.root / bucket / key

    def until(self, run_id: str, fact: str, stage: str | None) -> None:
        """Until that is on record."""
        self.cluster.until(lambda: (fact, stage) in self.facts(run_id), 400)

    def of(self, kind: str, run_id: str, stage: str | None = None) -> list[dict[str, Any]]:
        """The run's Jobs, or pods, as the API server has them; of a stage, or of its driver, alone."""
        return job_project.objects(self.cluster, self.namespace, kind, run_id, stage)

    def pods_of_stages(self, run_id: str) -> list[str]:
        """The stages of which the cluster has pods, ended ones included, one entry a pod, oldest first."""
        found = sorted(
            (
                one["metadata"]["creationTimestamp"],
                one["metadata"]["labels"]["distill-ledger/stage"],
            )
            for one in self.of("pods", run_id)
        )
        return [stage for _, stage in found if stage != "driver"]


@contextmanager
def cluster_project(cluster: Cluster, root: Path) -> Iterator[ClusterProject]:
    """A new one in ``root``, its profile in cluster.yaml, as JSON; drivers may drive there."""
    job_project.make_folder(root, "runs/", "teacher.pt")
    (root / "code").mkdir()
    (root / "code" / "hello.txt").write_text("hello from the code\n")
    environment = job_project.environment(cluster, cluster.bucket())
    token = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}}
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        cluster.apply(namespace, {**token, "stringData": {"key": "in-a-Secret"}})
        cluster.apply(
            namespace, *_objects("launcher-role.yaml"), *_objects("driver.yaml", namespace)
        )
        secrets = {"API_TOKEN": {"secret": "token", "key": "key"}}
        profile = job_project.profile(cluster, namespace, secret_env=secrets)
        (root / "cluster.yaml").write_text(json.dumps(profile))
        yield ClusterProject(cluster, root, namespace, environment)


@pytest.fixture(scope="module")
def project(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    with cluster_project(cluster, tmp_path_factory.mktemp("projects") / "project") as made:
        yield made


def _objects(file: str, namespace: str = "") -> list[Mapping[str, Any]]:
    """What a file of docs/policies makes, in this namespace."""
    text = (_POLICIES / file).read_text().replace("namespace: distill", f"namespace: {namespace}")
    return list(yaml.safe_load_all(text))
