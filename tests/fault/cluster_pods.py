"""Runs of one small stage as Jobs, many at once, each with a profile and faults of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.rig.cluster.daemons import SOCKET
from tests.rig.k8s import Cluster

__all__ = ["Ended", "PodRuns", "pod_runs", "processes_of"]

T = TypeVar("T")

_LAUNCHER = Path(sys.executable).with_name("launcher")
_SECONDS = 400
_PROFILE = """
namespace: {namespace}
agent:
  image: "{agent}"
  image_pull_policy: IfNotPresent
  resources: {resources}
  env: {{AWS_ENDPOINT_URL: "{endpoint}", AWS_REGION: us-east-1}}
  secret_env:
    AWS_ACCESS_KEY_ID: {{secret: store, key: id}}
    AWS_SECRET_ACCESS_KEY: {{secret: store, key: secret}}
defaults:
  image: "{image}"
  image_pull_policy: IfNotPresent
  grace_seconds: 2
  save_seconds: 10
"""


@dataclass(frozen=True)
class Ended:
    """How ``submit`` ended: its code, and the lines that it said."""

    code: int
    said: str

    @property
    def last(self) -> str:
        return self.said.strip().splitlines()[-1]


@dataclass
class PodRuns:
    """A project with ledger and store in a bucket, and a namespace for its Jobs."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]
    _begun: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    # --- what is typed ---

    def begin(
        self,
        run: str,
        command: str,
        profile: str = "",
        config: str = "",
        endpoint: str = "",
        resources: str = "{}",
    ) -> subprocess.Popen[str]:
        """Submit a run whose retrain is ``command``; ``profile``: lines of its defaults; it runs beside the test."""
        (self.root / f"{run}.env").write_text(f"RETRAIN_CMD='{command}'\n{config}\n")
        assert self.cluster.s3
        text = _PROFILE.format(
            namespace=self.namespace,
            agent=self.cluster.agent_image,
            image=self.cluster.bash_image,
            endpoint=endpoint or self.cluster.s3.endpoint,
            resources=resources,
        )
        lines = [line for line in profile.splitlines() if line.strip()]
        names = {line.split(":")[0].strip() for line in lines}
        before, defaults = text.split("defaults:\n")
        kept = [line for line in defaults.splitlines() if line.split(":")[0].strip() not in names]
        ours = "\n".join([*kept, *(f"  {one}" for one in lines)])
        (self.root / f"{run}.yaml").write_text(f"{before}defaults:\n{ours}\n")
        self._begun[run] = self.launched(
            *("submit", "--executor", "kubernetes", "--profile", f"{run}.yaml", "--run-id", run),
            *("--config", f"{run}.env", "--code", "image"),
            *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json"),
        )
        return self._begun[run]

    def until(self, asked: Callable[[], T]) -> T:
        """The first answer that is true; it may take long where much else runs."""
        return self.cluster.until(asked, _SECONDS)

    def begun(self, run: str) -> subprocess.Popen[str]:
        """Its ``submit``, which is at work."""
        process = self._begun[run]
        assert process.poll() is None, process.communicate()
        return process

    def ended(self, run: str) -> Ended:
        """How the run's ``submit`` ended."""
        process = self._begun[run]
        said, _ = process.communicate(timeout=_SECONDS)
        return Ended(process.returncode, said)

    def launched(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [_LAUNCHER, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def launcher(self, *arguments: str) -> Ended:
        process = self.launched(*arguments)
        said, _ = process.communicate(timeout=_SECONDS)
        return Ended(process.returncode, said)

    def end(self) -> None:
        for process in self._begun.values():
            if process.poll() is None:
                process.kill()  # one that sleeps, too
            process.communicate()

    # --- what is there ---

    @property
    def objects(self) -> Path:
        """The bucket's folder on the server."""
        assert self.cluster.s3
        return self.cluster.s3.root / self.environment["LAUNCHER_STORE"].removeprefix("s3://")

    def object(self, run: str, name: str, attempt: int = 1) -> dict[str, Any] | None:
        """``result.json`` or ``collected.json`` of an attempt."""
        place = self.objects / "runs" / run / "retrain" / str(attempt) / name
        return dict(json.loads(place.read_text())) if place.exists() else None

    def events(self, run: str, kind: str = "") -> list[dict[str, Any]]:
        """The data of the run's events of this type, or of all of them, from the bucket itself."""
        log = self.objects / "ledger" / "log"
        segments = sorted(log.iterdir()) if log.exists() else []
        lines = [line for one in segments for line in one.read_text().splitlines()]
        found = [one for one in map(json.loads, lines) if one.get("stream") == f"run/{run}"]
        return [{"type": one["type"], **one["data"]} for one in found if kind in ("", one["type"])]

    def jobs(self, run: str) -> list[dict[str, Any]]:
        return self._of("jobs", run)

    def pods(self, run: str) -> list[dict[str, Any]]:
        return self._of("pods", run)

    def _of(self, kind: str, run: str) -> list[dict[str, Any]]:
        selector = f"distill-ledger/run={run}"
        return list(self.cluster.get(self.namespace, kind, "-l", selector)["items"])

    def started(self, run: str, attempt: int = 1) -> dict[str, Any]:
        """The pod of an attempt that is on record as started."""

        def found() -> list[dict[str, Any]]:
            uids = {
                one["pod_uid"]
                for one in self.events(run, "StageStarted")
                if one["attempt"] == attempt
            }
            return [one for one in self.pods(run) if one["metadata"]["uid"] in uids]

        return self.until(found)[-1]

    def blob(self, digest: str) -> bytes:
        name = digest.removeprefix("sha256:")
        return (self.objects / "blobs" / "sha256" / name[:2] / name).read_bytes()

    def outputs(self, run: str) -> dict[str, bytes]:
        """What the manifest of the stage that succeeded lists, by path."""
        [end] = self.events(run, "StageSucceeded")
        listed = json.loads(self.blob(end["manifest_digest"]))
        return {one["path"]: self.blob(one["digest"]) for one in listed["files"]}

    # --- what is done to it ---

    def kill_container(self, pod: dict[str, Any], name: str) -> None:
        """SIGKILL to the first process of a container as it is now."""
        now = self.cluster.get(self.namespace, "pod", pod["metadata"]["name"])["status"]
        found = [*now["initContainerStatuses"], *now["containerStatuses"]]
        [one] = [one for one in found if one["name"] == name]
        subprocess.run(
            [
                *("ctr", "--address", str(SOCKET), "-n", "k8s.io", "task", "kill", "-s", "SIGKILL"),
                one["containerID"].removeprefix("containerd://"),
            ],
            check=True,
            capture_output=True,
        )

    def restarts(self, pod: dict[str, Any], name: str) -> int:
        """How often a sidecar that runs now was started again."""
        now = self.cluster.get(self.namespace, "pod", pod["metadata"]["name"])["status"]
        [one] = [one for one in now["initContainerStatuses"] if one["name"] == name]
        return int(one["restartCount"]) if one["state"].get("running") else -1


def processes_of(mark: str) -> list[int]:
    """The processes of this machine, pods' included, that have ``mark`` in their command line."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                line = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in line:
                found.append(int(place.name))
    return found


@contextmanager
def pod_runs(cluster: Cluster, root: Path) -> Iterator[PodRuns]:
    """The project in ``root``; what it started is gone at the end."""
    if cluster.s3 is None or not cluster.own:
        pytest.skip("its bucket's files cannot be read here, nor its containers killed")
    (root / "teacher.pt").write_text("a teacher\n")
    (root / "score.json").write_text("{}")
    access = cluster.environment()
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        environment = {**os.environ, **access, "LAUNCHER_STORE": cluster.bucket()}
        runs = PodRuns(cluster, root, namespace, environment)
        try:
            yield runs
        finally:
            runs.end()
