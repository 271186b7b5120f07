"""A project whose runs are Jobs: ledger and store in a bucket that pods reach, a namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tests.rig.k8s import Cluster

__all__ = ["LAUNCHER", "ClusterProject", "cluster_project"]

LAUNCHER = Path(sys.executable).with_name("launcher")
_POLICIES = Path(__file__).resolve().parents[2] / "docs" / "policies"
_SECONDS = 500


@dataclass(frozen=True)
class ClusterProject:
    """``environment`` leads the launcher to the cluster, the store, and nothing of the machine's own."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]

    def at(self, root: Path) -> ClusterProject:
        """As another machine has it: store, ledger and cluster, and another folder."""
        root.mkdir(parents=True)
        home = str(root / "home")  # its caches are its own
        return replace(self, root=root, environment={**self.environment, "HOME": home})

    def command(self, run_id: str, *more: str, **stages: str) -> list[str]:
        """What submits a run of these stages' commands."""
        lines = [f"{name.upper()}_CMD='{command}'\n" for name, command in stages.items()]
        (self.root / f"{run_id}.env").write_text("".join(lines) + "API_TOKEN=known-here-alone\n")
        return [
            *(str(LAUNCHER), "submit", "--executor", "kubernetes", "--profile", "cluster.yaml"),
            *("--config", f"{run_id}.env", "--run-id", run_id),
            *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json", *more),
        ]

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
        )

    # --- what became of it ---

    def recorded(self, run_id: str) -> list[dict[str, Any]]:
        """The run's events, in order, from the bucket itself."""
        log = self.stored("ledger") / "log"
        segments = sorted(log.iterdir()) if log.is_dir() else []
        found = [json.loads(line) for one in segments for line in one.read_text().splitlines()]
        return [one for one in found if one.get("stream") == f"run/{run_id}"]

    def facts(self, run_id: str) -> list[tuple[str, str | None]]:
        """(type, stage) of the run's events."""
        return [(e["type"], e["data"].get("stage")) for e in self.recorded(run_id)]

    def stored(self, key: str) -> Path:
        """Where the S3 server keeps an object, or the objects below ``key``."""
        assert self.cluster.s3
        bucket = self.environment["LAUNCHER_STORE"].removeprefix("s3://")
        return self.cluster.s3.root / bucket / key

    def until(self, run_id: str, fact: str, stage: str | None) -> None:
        """Until that is on record."""
        self.cluster.until(lambda: (fact, stage) in self.facts(run_id), 400)

    def of(self, kind: str, run_id: str, stage: str | None = None) -> list[dict[str, Any]]:
        """The run's Jobs, or pods, as the API server has them; of a stage, or of its driver, alone."""
        selector = f"distill-ledger/run={run_id}"
        selector += f",distill-ledger/stage={stage}" if stage else ""
        found: list[dict[str, Any]] = self.cluster.get(self.namespace, kind, "-l", selector)[
            "items"
        ]
        return found

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
def cluster_project(cluster: Cluster, root: Path, more: str = "") -> Iterator[ClusterProject]:
    """A new one in ``root``, its profile in cluster.yaml with ``more`` at its end; drivers may drive there."""
    assert cluster.s3
    (root / "code").mkdir(parents=True)
    (root / "code" / "hello.txt").write_text("hello from the code\n")
    (root / "teacher.pt").write_text("a teacher\n")
    (root / "score.json").write_text("{}")
    (root / ".gitignore").write_text("runs/\nteacher.pt\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    access = cluster.environment()
    with cluster.namespace() as namespace:
        values = {"id": access["AWS_ACCESS_KEY_ID"], "secret": access["AWS_SECRET_ACCESS_KEY"]}
        cluster.apply(namespace, _secret("store", values), _secret("token", {"key": "in-a-Secret"}))
        cluster.apply(
            namespace, *_objects("launcher-role.yaml"), *_objects("driver.yaml", namespace)
        )
        agent = {
            "image": cluster.agent_image,
            "image_pull_policy": "IfNotPresent",
            "resources": {},
            "env": {"AWS_ENDPOINT_URL": cluster.s3.endpoint, "AWS_REGION": "us-east-1"},
            "secret_env": {
                "AWS_ACCESS_KEY_ID": {"secret": "store", "key": "id"},
                "AWS_SECRET_ACCESS_KEY": {"secret": "store", "key": "secret"},
            },
        }
        defaults = {
            "image": cluster.bash_image,
            "image_pull_policy": "IfNotPresent",
            "grace_seconds": 3,
            "save_seconds": 10,
            "secret_env": {"API_TOKEN": {"secret": "token", "key": "key"}},
        }
        profile = {"namespace": namespace, "agent": agent, "defaults": defaults}
        (root / "cluster.yaml").write_text(json.dumps(profile, indent=1)[:-2] + f"{more}\n}}\n")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
        environment = {**kept, **access, "LAUNCHER_STORE": cluster.bucket()}
        yield ClusterProject(cluster, root, namespace, environment)


def _objects(file: str, namespace: str = "") -> list[Mapping[str, Any]]:
    """What a file of docs/policies makes, in this namespace."""
    text = (_POLICIES / file).read_text().replace("namespace: distill", f"namespace: {namespace}")
    return list(yaml.safe_load_all(text))


def _secret(name: str, values: Mapping[str, str]) -> Mapping[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": dict(values),
    }
