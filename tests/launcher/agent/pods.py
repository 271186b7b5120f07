"""A pod without a cluster: fetch, the bash wrapper and collect as processes of this machine, over two folders.

Told to end, a pod ends as a kubelet ends it: the command's container first, the sidecar when that is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from k8s.wrapper import WRAPPER
from launcher.agent.task import Limits, Task, write_task
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.manifest import Entry, Manifest
from launcher.storage.port import ObjectNotFoundError, ObjectStore

__all__ = ["Pod", "Pods", "hears", "made_pods", "previous_manifest", "until"]

T = TypeVar("T")
_SECONDS = 40


def until(look: Callable[[], T], seconds: float = _SECONDS) -> T:
    """The first true value of ``look``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
    return found


def previous_manifest(store: ObjectStore, files: Mapping[str, bytes]) -> str:
    """The digest of a stage's manifest that lists these files, stored with them."""
    entries = []
    for path, data in sorted(files.items()):
        blob = store.ingest_bytes(data)
        entries.append(Entry(path, blob.digest, blob.size_bytes))
    return store.ingest_bytes(Manifest(tuple(entries)).to_bytes()).digest


@dataclass
class Pod:
    """One pod of an attempt. ``uid`` tells it from others; ``folder`` is its node's disk."""

    folder: Path
    uid: str
    store: str
    task: Task
    digest: str
    environment: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    wrapper: subprocess.Popen[bytes] = field(init=False, repr=False)
    collector: subprocess.Popen[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for place in (self.workspace, self.handover, self.seen):
            place.mkdir(parents=True)

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def handover(self) -> Path:
        return self.folder / "handover"

    @property
    def private(self) -> Path:
        return self.folder / "private"

    @property
    def seen(self) -> Path:
        return self.folder / "seen"

    @property
    def run_dir(self) -> Path:
        return self.workspace / self.task.run_dir

    @property
    def arguments(self) -> list[str]:
        return [
            f"--store={self.store}",
            f"--task={self.digest}",
            f"--workspace={self.workspace}",
            f"--handover={self.handover}",
            f"--private={self.private}",
        ]

    @property
    def agent_environment(self) -> dict[str, str]:
        here = {"POD_NAME": f"pod-{self.uid}", "POD_UID": self.uid, "NODE_NAME": "node"}
        return {**os.environ, **self.environment, **here}

    def start_fetch(self) -> subprocess.Popen[bytes]:
        return self._spawn([sys.executable, "-m", "launcher.agent.fetch", *self.arguments])

    def fetch(self) -> tuple[int, str]:
        """(exit code, the last line)."""
        process = self.start_fetch()
        _, said = process.communicate(timeout=_SECONDS)
        lines = said.decode().splitlines()
        return process.returncode, lines[-1] if lines else ""

    def start_collect(self, child: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """``child``: another program than the real one, which takes the same arguments."""
        program = child or ("-m", "launcher.agent.collect")
        self.collector = self._spawn([sys.executable, *program, *self.arguments])
        # As a container's first process it would not hear a signal that comes before; here it would die of it.
        until(lambda: hears(self.collector.pid) or self.collector.poll() is not None)
        return self.collector

    def start_wrapper(self, *, grace: int = 5, save: int = 10, collect: int = 30) -> None:
        numbers = [str(grace), str(save), str(collect)]
        log = str(self.workspace / self.task.log)
        given = [str(self.handover), log, *numbers, str(self.folder / "words"), self.task.command]
        environment = {"PATH": os.environ["PATH"], "SEEN": str(self.seen)}
        environment |= {"R": str(self.run_dir), "C": str(self.run_dir / "checkpoints")}
        self.wrapper = self._spawn(
            ["bash", "-c", WRAPPER, "launcher", *given],
            environment=environment,
            cwd=self.workspace / self.task.cwd,
        )

    def start(self, child: Sequence[str] = (), **limits: int) -> Pod:
        """All of it, as a kubelet does it."""
        code, said = self.fetch()
        assert code == 0, said
        self.start_collect(child)
        self.start_wrapper(**limits)
        return self

    def saw(self, name: str) -> None:
        until(lambda: (self.seen / name).exists() or self._ended_before(name))

    def left(self) -> int:
        """The wrapper's own exit code; its collector is then told to end, as the kubelet does, and must."""
        code = self.wrapper.wait(_SECONDS)
        self.end_collector()
        return code

    def end_collector(self) -> int:
        if self.collector.poll() is None:
            self.collector.send_signal(signal.SIGTERM)
        return self.collector.wait(_SECONDS)

    def kill_collector(self) -> None:
        self.collector.kill()
        self.collector.wait(_SECONDS)

    def kill_command(self) -> None:
        """The command's container, all of it, as when it ran out of memory."""
        session = self.wrapper.pid
        for one in Path("/proc").iterdir():
            if one.name.isdigit() and _session(one) == session:
                _kill(int(one.name))
        self.wrapper.wait(_SECONDS)

    def evict(self) -> int:
        """Told to end: the command's container, then the sidecar."""
        self.wrapper.send_signal(signal.SIGTERM)
        return self.left()

    def _ended_before(self, name: str) -> bool:
        assert self.wrapper.poll() is None, f"the wrapper ended before {name}"
        return False

    def _spawn(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=more.pop("environment", None) or self.agent_environment,
            start_new_session=True,
            **more,
        )
        self.processes.append(process)
        return process


@dataclass
class Pods:
    """An attempt and its pods. ``store``, for the test, is the one at ``place``."""

    folder: Path
    store: ObjectStore
    place: str
    environment: Mapping[str, str] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)

    def task(self, command: str, **more: Any) -> Task:
        plain: dict[str, Any] = {
            "run_id": "r",
            "stage": "retrain",
            "attempt": 1,
            "index": 3,
            "spec_digest": f"sha256:{'5' * 64}",
            "command": command,
            "run_dir": "runs/r",
            "log": "runs/r/logs/03_retrain.log",
            "limits": Limits(fetch=0, collect=30, quiet=0.5),
        }
        return Task(**{**plain, **more})

    def pod(self, task: Task, uid: str | None = None) -> Pod:
        """A new pod of this attempt."""
        uid = uid or f"uid-{len(self.pods)}"
        digest = write_task(self.store, task)
        folder = self.folder / f"node-{len(self.pods)}"
        pod = Pod(folder, uid, self.place, task, digest, self.environment)
        self.pods.append(pod)
        return pod

    def run(self, command: str, **more: Any) -> Pod:
        """A pod whose command runs."""
        return self.pod(self.task(command, **more)).start()

    def object(self, name: str) -> dict[str, Any] | None:
        """``result.json`` or ``collected.json`` of the attempt."""
        try:
            return dict(json.loads(self.store.read(f"runs/r/retrain/1/{name}")))
        except ObjectNotFoundError:
            return None

    @property
    def result(self) -> dict[str, Any]:
        found = self.object("result.json")
        assert found is not None
        return found

    def progress(self) -> list[dict[str, Any]]:
        """All that pods saved, in the order of their numbers."""
        keys = [info.key for info in self.store.list("runs/r/retrain/1/progress/")]
        found = [dict(json.loads(self.store.read(key))) for key in keys]
        return sorted(found, key=lambda one: one["number"])

    def outputs(self) -> dict[str, bytes]:
        """What the result's manifest lists, by path."""
        manifest = Manifest.from_bytes(self.store.read_blob(self.result["manifest_digest"]))
        return {one.path: self.store.read_blob(one.digest) for one in manifest.entries}


@contextmanager
def made_pods(
    folder: Path,
    store: ObjectStore | None = None,
    place: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Pods]:
    """Nothing that a pod started outlives the test. Without a store: one in a folder."""
    store = store or FilesystemStore(folder / "store")
    pods = Pods(folder, store, place or str(folder / "store"), environment or {})
    try:
        yield pods
    finally:
        for pod in pods.pods:
            (pod.handover / "stop").touch()
            for process in pod.processes:
                for one in Path("/proc").iterdir():
                    if one.name.isdigit() and _session(one) == process.pid:
                        _kill(int(one.name))
                process.communicate(timeout=_SECONDS)


def _session(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError, ValueError):
        return None


def hears(pid: int) -> bool:
    """Whether a process catches SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
