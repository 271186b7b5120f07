"""Many runs open at once: how a release of many pipelines bears a night on which everything is late.

``python -m benchmarks.k8s_scale [--pipelines 30] [--runs 10] [--starts 1] [--ends 0.8]``. On the tests' cluster; its
nodes for this are played by kwok, which runs no container, so that Jobs, pods and launchers are real and only what a
stage would have computed is not. Each run has a launcher of its own, with a project folder and a cache of its own, as
in a pod (all see theirs under one path, by mounts of their own); they share one bucket and the ledger in it. Runs start
at a pace (--starts, a second) at which this machine can start launchers; no stage ends before all are open, and then
they end at a pace (--ends, a second), in the order in which their pods came to run.

Each stage is to have been made once and told once, by the API server's audit log and by the ledger; the figures are a
table: seconds until all runs were open and until the last one had ended, from a result to the next stage's Job, calls
of the API server a stage, watches aside, and the most that a launcher held.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k8s import names
from k8s.client import Client
from k8s.errors import ClusterUnavailableError, ExpiredError
from k8s.watch import folded
from launcher.storage.manifest import Manifest
from launcher.storage.opening import open_store
from launcher.storage.port import ObjectExistsError
from ledger.canonical import canonical_json
from tests.rig import job_project
from tests.rig.audited import asked, created, gaps
from tests.rig.k8s import Cluster, using
from tests.rig.tools import go_tool

STAGES = ("llm_on", "relabel", "retrain", "llm_off")
_NODE, _LABEL = "scale", "distill-ledger-scale"
_PLAY = Path(__file__).with_name("k8s_scale_stages.yaml")
_WAIT_SECONDS = 1200
#: Of <linux/sched.h> and <linux/mount.h>.
_CLONE_NEWNS, _MS_BIND, _MS_REC_PRIVATE = 0x20000, 0x1000, 0x4000 | 0x40000


@dataclass
class Night:
    """What came of it; by run where it says so."""

    opened_seconds: float = 0.0
    ended_seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    memory_mib: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)
    calls: int = 0


class Player:
    """Commits the result of each stage whose pod runs, ``ends`` a second, once all runs are open."""

    def __init__(self, client: Client, store_url: str, runs: int, ends: float) -> None:
        self._client, self._runs, self._apart_seconds = client, runs, 1 / ends
        self._store = open_store(store_url)
        self._ready: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._seen: set[str] = set()
        self.all_open = threading.Event()
        #: Stages of which a second pod ran.
        self.twice: list[str] = []
        self._closed = threading.Event()
        log = self._store.ingest_bytes(b"")
        manifest = self._store.ingest_bytes(Manifest(()).to_bytes())
        self._outputs: dict[str, Any] = {
            "manifest_digest": manifest.digest,
            "log_digest": log.digest,
            "checkpoints": [],
            "also_matched": [],
            "student_refused": None,
            "metrics": {},
            "metrics_ignored": [],
            "tag_file": None,
        }

    def begin(self) -> None:
        """In threads of its own, until ``close``."""
        for what in (self._look, self._end):
            threading.Thread(target=what, daemon=True).start()

    def _end(self) -> None:
        self.all_open.wait()
        due = time.monotonic()
        while not self._closed.is_set():
            self._commit(self._ready.get())
            due = max(due + self._apart_seconds, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))

    def _look(self) -> None:
        while not self._closed.is_set():
            found = self._client.listed("pods")
            for pod in found.items:
                self._see(pod)
            try:
                for line in self._client.watch("pods", "", found.version).lines():
                    step = folded({}, line)
                    for pod in (step[0] if step else {}).values():
                        self._see(pod)
                    if self._closed.is_set():
                        return
            except (ExpiredError, ClusterUnavailableError):
                continue

    def close(self) -> None:
        self._closed.set()

    def _see(self, pod: dict[str, Any]) -> None:
        if (pod.get("status") or {}).get("phase") != "Running":
            return
        uid = pod["metadata"]["uid"]
        if uid in self._seen:
            return
        self._seen.add(uid)
        self._ready.put(pod)
        # Before that no stage ends, so each of these is the first of a run.
        if len(self._seen) == self._runs:
            self.all_open.set()

    def _commit(self, pod: dict[str, Any]) -> None:
        about = pod["metadata"]
        run, stage, attempt = (
            about["labels"][one] for one in (names.RUN, names.STAGE, names.ATTEMPT)
        )
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        result = {
            **{"run_id": run, "stage": stage, "attempt": int(attempt), "exit_code": 0},
            **{"closed_by": None, "message": None, "started_at": moment, "ended_at": moment},
            **{"handle": None, "oom_kills": 0, "seconds": {"running": 0.0, "collecting": 0.0}},
            "pod": {"name": about["name"], "uid": about["uid"], "node": _NODE},
            **self._outputs,
        }
        try:
            self._store.create(f"runs/{run}/{stage}/{attempt}/result.json", canonical_json(result))
        except ObjectExistsError:
            self.twice.append(f"{run} {stage}")
        path = f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}"
        self._client.connection.ask(
            "PATCH", path, body={"metadata": {"annotations": {_LABEL: "ended"}}}
        )


# --- launchers ---


def launched(
    root: Path, environment: dict[str, str], runs: list[tuple[str, str]], starts: float
) -> list[int]:
    """A launcher for each (pipeline, run), a fork of this process, which has loaded what one takes seconds to load.

    They begin ``starts`` a second.
    """
    import boto3
    from kubernetes import client

    import launcher.executors.kubernetes
    import launcher.pods
    from launcher.cli.main import main as program

    loaded = (boto3, client, launcher.executors.kubernetes, launcher.pods)
    assert all(loaded)
    pids = []
    for number, (pipeline, run) in enumerate(runs):
        pid = os.fork()
        if pid == 0:
            _launch(program, root, environment, pipeline, run, number / starts)
        pids.append(pid)
    return pids


def _launch(
    program: Any, root: Path, environment: dict[str, str], pipeline: str, run: str, later: float
) -> None:
    """In the fork, ``later`` seconds from now: the run, then what it held."""
    code, out = 70, root / "said" / run
    try:
        said = os.open(f"{out}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        _mount_own(root, run)
        os.chdir(root / "project")
        os.environ.clear()
        os.environ |= environment
        os.environ["XDG_CACHE_HOME"] = str(root / "caches" / run)
        time.sleep(later)
        program(job_project.submit(run, "--label", f"pipeline={pipeline}", config="night.env"))
    except SystemExit as exc:
        code = int(exc.code or 0)
    finally:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(f"{out}.json").write_text(json.dumps({"code": code, "mib": held}))
        os._exit(0)


def _mount_own(root: Path, run: str) -> None:
    """To this process alone ``root``/project is the folder of this run."""
    own = root / "projects" / run
    shutil.copytree(root / "project", own)
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(None, b"/", None, _MS_REC_PRIVATE, None),
        libc.mount(os.fsencode(own), os.fsencode(root / "project"), None, _MS_BIND, None),
    ):
        if failed:
            raise OSError(ctypes.get_errno(), "a mount of its own")


# --- the cluster ---


@contextmanager
def played_node(cluster: Cluster, folder: Path) -> Iterator[None]:
    """A node that kwok plays: pods of it run at once, and have ended well a little later."""
    kwok = go_tool("sigs.k8s.io/kwok", "cmd/kwok", "0.8.0")
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": _NODE,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {_LABEL: "played", "kubernetes.io/os": "linux"},
        },
        "spec": {"taints": [{"key": _LABEL, "value": "played", "effect": "NoSchedule"}]},
    }
    cluster.kubectl("create", "-f", "-", given=json.dumps(node))
    command = [
        *(str(kwok), f"--kubeconfig={cluster.kubeconfig}", f"--config={_PLAY}"),
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
    ]
    with (
        (folder / "kwok.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as kwok_process,
    ):
        try:
            cluster.until(lambda: "Ready" in cluster.kubectl("get", "node", _NODE))
            yield
        finally:
            kwok_process.terminate()
            kwok_process.wait()
            cluster.tried("delete", "node", _NODE)


def night(cluster: Cluster, root: Path, namespace: str, options: argparse.Namespace) -> Night:
    """All of it."""
    project = root / "project"
    job_project.make_folder(project, "runs/", "teacher.pt")
    for name in ("said", "caches", "projects"):
        (root / name).mkdir()
    (project / "night.env").write_text("".join(f"{one.upper()}_CMD=true\n" for one in STAGES))
    played = {
        "node_selector": {_LABEL: "played"},
        "tolerations": [{"key": _LABEL, "operator": "Exists"}],
    }
    cluster.store_secret(namespace)
    (project / "cluster.yaml").write_text(
        json.dumps(job_project.profile(cluster, namespace, **played))
    )
    environment = job_project.environment(cluster, cluster.bucket())
    runs = [
        (f"p{pipeline:02}", f"p{pipeline:02}-{number:02}")
        for number in range(options.runs)
        for pipeline in range(options.pipelines)
    ]
    os.environ |= environment
    client, store = Client.connect(namespace), environment["LAUNCHER_STORE"]
    player = Player(client, store, len(runs), options.ends)
    found, begun = Night(), time.monotonic()
    with played_node(cluster, root):
        pids = launched(root, environment, runs, options.starts)
        player.begin()
        while not player.all_open.wait(1):
            late = time.monotonic() - begun > _WAIT_SECONDS
            if late or any((root / "said").glob("*.json")):
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                break
        found.opened_seconds = time.monotonic() - begun
        for pid in pids:
            os.waitpid(pid, 0)
        found.ended_seconds = time.monotonic() - begun
        player.close()
    if not player.all_open.is_set():
        for ended in (root / "said").glob("*.json"):
            print(ended.with_suffix(".out").read_text()[-2000:], file=sys.stderr)
        raise SystemExit("not all runs opened")
    for _, run in runs:
        said = json.loads((root / "said" / f"{run}.json").read_text())
        found.codes[run] = said["code"]
        found.memory_mib.append(said["mib"])
    assert not player.twice, player.twice
    checked(cluster, namespace, store, found, root)
    return found


def checked(cluster: Cluster, namespace: str, store: str, found: Night, root: Path) -> None:
    """Each stage once, by the API server's log and by the ledger; else this ends here."""
    failed = [run for run, code in found.codes.items() if code]
    for run in failed[:3]:
        print((root / "said" / f"{run}.out").read_text()[-2000:], file=sys.stderr)
    assert cluster.s3
    bucket = cluster.s3.root / store.removeprefix("s3://")
    events: dict[str, list[dict[str, Any]]] = {}
    for segment in sorted((bucket / "ledger" / "log").iterdir()):
        for one in map(json.loads, segment.read_text().splitlines()[1:]):
            events.setdefault(one["stream"], []).append(one)
    told = Counter(
        (stream, one["type"], one["data"].get("stage") or "")
        for stream, all_of_it in events.items()
        for one in all_of_it
    )
    twice = [fact for fact, times in told.items() if times > 1]
    ended = sum(kind == "StageSucceeded" for _, kind, _ in told)
    calls = [one for one in asked(cluster, namespace) if not _is_played(one)]
    made = created(calls)
    wanted = len(found.codes) * len(STAGES)
    print(
        f"failed {failed[:5]}, told twice {twice[:5]}, stages that ended {ended}, Jobs {len(made)}"
    )
    if failed or twice or (ended, len(made)) != (wanted, wanted):
        raise SystemExit(1)
    found.calls = len(calls)
    for run in found.codes:
        found.gap_seconds += [gap for _, gap in gaps(bucket, events[f"run/{run}"], made)]


def _is_played(call: dict[str, Any]) -> bool:
    """Whether the player asked it."""
    return (call["verb"], call["objectRef"].get("resource")) == ("patch", "pods")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pipelines", type=int, default=30)
    parser.add_argument("--runs", type=int, default=10, help="of each pipeline, open at once")
    parser.add_argument("--starts", type=float, default=1.0, help="launchers that start a second")
    parser.add_argument("--ends", type=float, default=0.8, help="stages that end a second")
    options = parser.parse_args()
    with (
        using() as cluster,
        tempfile.TemporaryDirectory() as name,
        cluster.namespace() as namespace,
    ):
        found = night(cluster, Path(name), namespace, options)
    _show(options, found)
    return 0


def _show(options: argparse.Namespace, found: Night) -> None:
    runs, held, gap = len(found.codes), found.memory_mib, sorted(found.gap_seconds)
    slow = gap[len(gap) * 99 // 100]
    for what, value in (
        ("runs open at once", f"{runs} of {options.pipelines} pipelines, on {os.cpu_count()} cores"),
        ("starts, ends a second", f"{options.starts:g}, {options.ends:g}"),
        ("all open after", f"{found.opened_seconds:.0f} s"),
        ("all ended after", f"{found.ended_seconds:.0f} s"),
        ("from a result to the next Job", f"{statistics.median(gap):.2f} s (99 of 100: {slow:.2f} s)"),
        ("calls a stage, watches aside", f"{found.calls / runs / len(STAGES):.1f}"),
        ("a launcher held", f"{statistics.median(held):.0f} MiB ({max(held):.0f} at most)"),
    ):  # fmt: skip
        print(f"{what:<32}{value}")


if __name__ == "__main__":
    raise SystemExit(main())
