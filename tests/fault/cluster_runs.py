"""A project whose stages are small Jobs, with many runs of it at once, and what must be true of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.rig import job_project
from tests.rig.k8s import Cluster

__all__ = ["ClusterRuns", "Ended", "Launch", "cluster_runs"]

T = TypeVar("T")

_CHILD = Path(__file__).with_name("cluster_child.py")
_SECONDS = 600
_WAIT_SECONDS = 240


@dataclass(frozen=True)
class Launch:
    """One launcher: its command line, the run it is about, and where it dies (``tests/fault/cluster_child.py``).

    ``machine`` names the home it has, an empty one where nobody had it before (default: one of the run's own);
    ``awaits``: it begins when the run is on record; ``after``: when the launch of this name has ended.
    """

    run: str
    arguments: Sequence[str]
    machine: str = ""
    death: tuple[str, int, str] | None = None
    awaits: bool = False
    after: str = ""
    kubeconfig: Path | None = None


@dataclass(frozen=True)
class Ended:
    """``code`` is -9 where it was killed; ``calls`` in the order in which they were begun."""

    code: int
    said: str
    calls: list[str]


@dataclass
class ClusterRuns:
    """A project, and a namespace for the Jobs of its runs. Each run has a ledger and a store of its own, below one
    bucket: many at once do not wait for each other."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]
    _number: int = 0

    # --- what is typed ---

    def submit(self, run: str, *more: str, profile: str = "", **stages: str) -> list[str]:
        """The command line of a run of these stages; ``profile``: lines of its profile's ``defaults``."""
        config = self.root / f"{run}.env"
        config.write_text("".join(f"{k.upper()}_CMD='{v}'\n" for k, v in stages.items()))
        given = self.root / f"{run}.yaml"
        given.write_text(json.dumps(self._profile(**(yaml.safe_load(profile) or {}))))
        return job_project.submit(run, *more, profile=given.name)

    def _profile(self, **defaults: Any) -> dict[str, Any]:
        return job_project.profile(self.cluster, self.namespace, **{"save_seconds": 20, **defaults})

    def forked(self, launches: Mapping[str, Launch]) -> dict[str, Ended]:
        """All at once, and how each ended."""
        self._number += 1
        outs = {name: f"{self.root}/runs/said/{self._number}-{name}" for name in launches}
        Path(self.root, "runs", "said").mkdir(parents=True, exist_ok=True)
        given = [
            {
                "arguments": list(one.arguments),
                "home": f"runs/{one.machine or one.run}",
                "store": f"{self.environment['LAUNCHER_STORE']}/{one.run}",
                "death": one.death,
                "awaits": f'"run/{one.run}"' if one.awaits else "",
                "kubeconfig": str(one.kubeconfig or self.cluster.kubeconfig),
                "log": str(self.objects(one.run) / "ledger" / "log"),
                "after": outs[one.after] if one.after else "",
                "out": outs[name],
            }
            for name, one in launches.items()
        ]
        child = subprocess.Popen(
            [sys.executable, str(_CHILD)],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            codes = json.loads(child.communicate(json.dumps(given), timeout=_SECONDS)[0])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return {name: self._ended(out, codes[out]) for name, out in outs.items()}

    def typed(self, run: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command about a run, as one types it beside its launcher."""
        store = f"{self.environment['LAUNCHER_STORE']}/{run}"
        return subprocess.run(
            [job_project.LAUNCHER, *arguments],
            cwd=self.root,
            env={**self.environment, "LAUNCHER_STORE": store, "LAUNCHER_HOME": f"runs/{run}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_WAIT_SECONDS,
        )

    def forked_said(self, name: str) -> str:
        """What a launcher of the last round has said so far."""
        said = Path(f"{self.root}/runs/said/{self._number}-{name}.out")
        return said.read_text() if said.exists() else ""

    def begun(self, name: str) -> bool:
        """Whether a launcher, in whichever round, has begun."""
        return any(Path(self.root, "runs", "said").glob(f"*-{name}.out"))

    def asleep(self, name: str) -> int:
        """The process of a launcher that stopped itself, in whichever round."""
        place = f"*-{name}.asleep"
        [found] = self.until(lambda: list(Path(self.root, "runs", "said").glob(place)))
        return int(self.until(found.read_text))

    def _ended(self, out: str, code: int) -> Ended:
        calls = Path(f"{out}.calls")
        made = calls.read_text().splitlines() if calls.exists() else []
        return Ended(code, Path(f"{out}.out").read_text(), made)

    # --- what is there ---

    def objects(self, run: str) -> Path:
        """The folder of the run's store on the server."""
        assert self.cluster.s3
        bucket = self.environment["LAUNCHER_STORE"].removeprefix("s3://")
        return self.cluster.s3.root / bucket / run

    def recorded(self, run: str, stream: str = "") -> list[dict[str, Any]]:
        """The events of a run, or of another stream of its ledger, in order, from the bucket itself."""
        store = f"{self.environment['LAUNCHER_STORE']}/{run}"
        return job_project.events(self.cluster, store, stream or f"run/{run}")

    def types(self, run: str) -> list[tuple[str, str]]:
        """(type, stage) of each event of the run; of a pod's start, too."""
        events = self.recorded(run)
        return [(one["type"], one["data"].get("stage") or "") for one in events]

    def until_recorded(self, run: str, kind: str, stage: str, times: int = 1) -> None:
        self.until(lambda: self.types(run).count((kind, stage)) >= times)

    def until(self, asked: Callable[[], T]) -> T:
        """The first answer that is true; many runs at once take their time."""
        return self.cluster.until(asked, _WAIT_SECONDS)

    def jobs(self, run: str) -> list[dict[str, Any]]:
        return job_project.objects(self.cluster, self.namespace, "jobs", run)

    def pods(self, run: str) -> list[dict[str, Any]]:
        return job_project.objects(self.cluster, self.namespace, "pods", run)

    def blob(self, run: str, digest: str) -> str:
        name = digest.removeprefix("sha256:")
        return (self.objects(run) / "blobs" / "sha256" / name[:2] / name).read_text()

    def watch_restarts(self, run: str) -> dict[str, int]:
        """What the ledger says of the watches that broke, by each stage that succeeded."""
        return {
            one["data"]["stage"]: one["data"]["watch_restarts"]
            for one in self.recorded(run)
            if one["type"] == "StageSucceeded"
        }

    def log(self, run: str, stage: str) -> str:
        """The log that the ledger names for the stage that succeeded."""
        [end] = [
            one["data"]
            for one in self.recorded(run)
            if (one["type"], one["data"].get("stage")) == ("StageSucceeded", stage)
        ]
        return self.blob(run, end["log_digest"])

    # --- what must be true ---

    def check(self, run: str, *stages: str, pods: int = 1) -> None:
        """The run succeeded; each stage's Job was made once, had ``pods`` pods, and each fact is told once."""
        told = Counter(self.types(run))
        for stage in stages:
            assert told["StageIntended", stage] == 1, told
            assert told["StageSubmitted", stage] == 1, told
            assert told["StageStarted", stage] == pods, told
            assert told["StageSucceeded", stage] == 1, told
        assert told["RunSucceeded", ""] == 1, told
        assert not any(kind in ("StageFailed", "RunFailed", "RunCancelled") for kind, _ in told)
        names = [
            one["data"]["job_name"] for one in self.recorded(run) if one["type"] == "StageIntended"
        ]
        assert sorted(one["metadata"]["name"] for one in self.jobs(run)) == sorted(names)
        assert self.made(run) == dict.fromkeys(names, 1)
        started = [
            one["data"]["pod_uid"] for one in self.recorded(run) if one["type"] == "StageStarted"
        ]
        assert len(set(started)) == len(started)
        assert {one["metadata"]["uid"] for one in self.pods(run)} <= set(started)

    def made(self, run: str) -> dict[str, int]:
        """How often the API server made each Job of the run (an id without "_"), by its audit log."""
        return dict(
            Counter(
                one["objectRef"]["name"]
                for one in self.cluster.audited()
                if (one["verb"], one["stage"]) == ("create", "ResponseComplete")
                and one["responseStatus"]["code"] == 201
                and one["objectRef"].get("resource") == "jobs"
                and one["objectRef"].get("namespace") == self.namespace
                and one["objectRef"].get("name", "").startswith(f"{run}-")
            )
        )


@contextmanager
def cluster_runs(cluster: Cluster, root: Path) -> Iterator[ClusterRuns]:
    """The project in ``root``; what it started in the cluster is gone at the end."""
    if cluster.s3 is None or not cluster.own:
        pytest.skip("the files of its bucket and the API server's log cannot be read here")
    job_project.make_folder(root, "*")
    environment = job_project.environment(cluster, cluster.bucket())
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        yield ClusterRuns(cluster, root, namespace, environment)
