"""Runs of one small stage as Jobs, many at once, each with a profile and faults of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.rig import job_project
from tests.rig.cluster.daemons import SOCKET
from tests.rig.job_project import LAUNCHER
from tests.rig.k8s import Cluster

__all__ = ["Ended", "PodRuns", "pod_runs", "processes_of"]

T = TypeVar("T")

_SECONDS = 400


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
        agent: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Submit a run whose retrain is ``command``; ``profile``: lines of its defaults; it runs beside the test.

        ``agent``: what our own containers ask for.
        """
        (self.root / f"{run}.env").write_text(f"RETRAIN_CMD='{command}'\n{config}\n")
        lines = yaml.safe_load(profile) or {}
        made = job_project.profile(self.cluster, self.namespace, **{"grace_seconds": 2, **lines})
        made["agent"]["resources"] = dict(agent or {})
        if endpoint:
            made["agent"]["env"]["AWS_ENDPOINT_URL"] = endpoint
        (self.root / f"{run}.yaml").write_text(json.dumps(made))
        typed = job_project.submit(run, "--code", "image", profile=f"{run}.yaml")
        self._begun[run] = self.launched(*typed)
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
            [LAUNCHER, *arguments],
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
        store = self.environment["LAUNCHER_STORE"]
        found = job_project.events(self.cluster, store, f"run/{run}")
        return [{"type": one["type"], **one["data"]} for one in found if kind in ("", one["type"])]

    def jobs(self, run: str) -> list[dict[str, Any]]:
        return job_project.objects(self.cluster, self.namespace, "jobs", run)

    def pods(self, run: str) -> list[dict[str, Any]]:
        return job_project.objects(self.cluster, self.namespace, "pods", run)

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
    job_project.make_folder(root, "*")
    environment = job_project.environment(cluster, cluster.bucket())
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        runs = PodRuns(cluster, root, namespace, environment)
        try:
            yield runs
        finally:
            runs.end()
