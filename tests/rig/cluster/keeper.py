"""The process that has the cluster: starts it, does what it is told with its parts, and takes it away.

It ends when nobody uses the cluster any more: each user holds a shared lock on ``USERS``, which a killed one loses
too. Started by ``tests.rig.cluster.joining``; what goes wrong is in ``machine.LOGS``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any
from urllib.request import Request, urlopen

from tests.rig.cluster import images, machine
from tests.rig.cluster.daemons import SOCKET, Daemon, daemons
from tests.rig.cluster.identity import NODE_NAME, Identities
from tests.rig.cluster.machine import HOME, LOGS, NODE, RUN
from tests.rig.cluster.programs import programs
from tests.rig.s3 import serving

__all__ = ["CONTROL", "GPU", "KEEPER", "READY", "S3_PORT", "USERS"]

#: Held by each who uses the cluster, shared, and by the keeper alone once it takes the cluster away.
USERS = RUN / "users.lock"
#: Held by the keeper.
KEEPER = RUN / "keeper.lock"
#: There once the cluster is: what its users need to know.
READY = HOME / "ready.json"
#: Takes one line of JSON, {"do": start|stop|kill|pause|go_on, "name": a daemon}, and answers with one.
CONTROL = HOME / "control"
GPU = "nvidia.com/gpu"
S3_PORT = 7070

_START_SECONDS = 90
_STOP_SECONDS = 20
#: How often it is looked whether anybody still uses the cluster.
_LOOK_SECONDS = 0.5
#: For the question whether a daemon is well, on the namespace's own loopback.
_UNVERIFIED = ssl._create_unverified_context()
_SIGNALS = {
    "stop": signal.SIGTERM,
    "kill": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "go_on": signal.SIGCONT,
}


class Keeper:
    """The daemons of one cluster."""

    def __init__(self) -> None:
        self._programs = programs()
        self._who = Identities.create(HOME / "identity")
        self._daemons = {one.name: one for one in daemons(self._programs, self._who)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def kubeconfig(self) -> str:
        """The administrator's."""
        return self._who.kubeconfig("admin")

    @property
    def kubectl(self) -> str:
        """The program."""
        return self._programs["kubectl"]

    def start_all(self) -> None:
        """Everything runs and is well, the node is ready and has a GPU."""
        small = images.small_archives(HOME / "images")
        for name in ("etcd", "containerd"):
            self._launch(self._daemons[name])
        for name in ("etcd", "containerd"):
            self._await(self._daemons[name])
        for archive in small:
            subprocess.run(
                ["ctr", "--address", str(SOCKET), "-n", "k8s.io", "images", "import", str(archive)],
                check=True,
                capture_output=True,
            )
        self.start("kube-apiserver")
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet"):
            self._launch(self._daemons[name])
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet"):
            self._await(self._daemons[name])
        self._await_node()

    def start(self, name: str) -> None:
        """A daemon that does not run runs again and is well."""
        if name not in self._running:
            self._launch(self._daemons[name])
        self._await(self._daemons[name])
        if name == "kubelet":
            self._await_node()

    def end(self, name: str, number: int) -> None:
        """Send a daemon a signal; return when it is gone, where the signal is one that ends it."""
        process = self._running[name]
        process.send_signal(number)
        if number in (signal.SIGTERM, signal.SIGKILL):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            del self._running[name]

    def stop_all(self) -> None:
        """The kubelet first, so that nothing is started while its containers are taken away."""
        for name in reversed(list(self._running)):
            if name not in ("containerd", "etcd"):
                self.end(name, signal.SIGKILL)
        if "containerd" in self._running:
            self._remove_containers()
        for name in list(self._running):
            self.end(name, signal.SIGTERM)

    def answer(self, line: bytes) -> dict[str, Any]:
        """Do what one line says."""
        with self._lock:
            asked = json.loads(line)
            if asked["do"] == "start":
                self.start(asked["name"])
            else:
                self.end(asked["name"], _SIGNALS[asked["do"]])
            return {"running": {name: one.pid for name, one in self._running.items()}}

    def _launch(self, daemon: Daemon) -> None:
        with (LOGS / f"{daemon.name}.log").open("ab") as log:
            process = subprocess.Popen(
                daemon.command,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(HOME)},
                cwd=HOME,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[daemon.name] = process
        machine.note_process(daemon.name, process.pid)

    def _await(self, daemon: Daemon) -> None:
        end = time.monotonic() + _START_SECONDS
        process = self._running[daemon.name]
        while not self._well(daemon):
            log = LOGS / f"{daemon.name}.log"
            if process.poll() is not None:
                raise RuntimeError(f"{daemon.name} ended with {process.returncode}: {_tail(log)}")
            if time.monotonic() > end:
                raise RuntimeError(f"{daemon.name} was not well in time: {_tail(log)}")
            time.sleep(0.05)

    def _well(self, daemon: Daemon) -> bool:
        if daemon.health is None:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(SOCKET)) == 0
        with suppress(OSError), urlopen(daemon.health, timeout=2, context=_UNVERIFIED) as answer:
            return bool(answer.status == 200)
        return False

    def _await_node(self) -> None:
        """The node is ready and has its GPU, which it forgets when its kubelet has lost its notes."""
        node = f"/api/v1/nodes/{NODE_NAME}"
        end = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError):
                status = json.loads(self._api("GET", node))["status"]
                if status["capacity"].get(GPU) != "1":
                    patch = {"status": {"capacity": {GPU: "1"}}}
                    self._api("PATCH", f"{node}/status", patch)
                elif GPU in status["allocatable"] and _ready(status):
                    return
            if time.monotonic() > end:
                raise RuntimeError(f"the node was not ready in time: {_tail(LOGS / 'kubelet.log')}")
            time.sleep(0.1)

    def _api(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Ask the API server as its administrator."""
        token = (HOME / "identity" / "tokens.csv").read_text().partition(",")[0]
        request = Request(
            f"https://127.0.0.1{path}",
            data=json.dumps(body).encode() if body else None,
            method=method,
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/merge-patch+json",
            },
        )
        with urlopen(request, timeout=10, context=_UNVERIFIED) as answer:
            return bytes(answer.read())

    def _remove_containers(self) -> None:
        ctr = ["ctr", "--address", str(SOCKET), "-n", "k8s.io"]
        for kind in ("tasks", "containers"):
            listed = subprocess.run(
                [*ctr, kind, "ls", "-q"], capture_output=True, text=True, check=False
            )
            if names := listed.stdout.split():
                force = ["-f"] if kind == "tasks" else []
                subprocess.run([*ctr, kind, "rm", *force, *names], capture_output=True, check=False)


class _Control(socketserver.StreamRequestHandler):
    """One question a connection."""

    def handle(self) -> None:
        keeper: Keeper = self.server.keeper  # type: ignore[attr-defined]
        try:
            answer = keeper.answer(self.rfile.readline())
        except (KeyError, OSError, RuntimeError, ValueError) as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Controls(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        super().__init__(str(CONTROL), _Control)


def keep() -> None:
    """Have a cluster until nobody uses it, or until this process is told to end."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        # Given up last: whoever comes next finds no keeper, or one that has a cluster.
        users = stack.enter_context(USERS.open("w"))
        held = stack.enter_context(KEEPER.open("w"))
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(LOGS, ignore_errors=True)
        stack.callback(machine.clear)
        machine.set_up()
        _serve(users, ended)


def _serve(users: IO[str], ended: threading.Event) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(machine.inside())
        keeper = Keeper()
        stack.callback(keeper.stop_all)
        keeper.start_all()
        s3 = stack.enter_context(serving(HOME / "s3", address=(NODE, S3_PORT)))
        machine.note_process("s3", s3.pid)
        control = stack.enter_context(_Controls(keeper))
        threading.Thread(target=control.serve_forever, daemon=True).start()
        stack.callback(control.shutdown)
        ready = {
            "kubeconfig": keeper.kubeconfig,
            "kubectl": keeper.kubectl,
            "s3": {"endpoint": s3.endpoint, "root": str(s3.root), "pid": s3.pid},
            "seconds": round(time.monotonic() - began, 2),
        }
        beside = READY.with_suffix(".new")
        beside.write_text(json.dumps(ready))
        os.replace(beside, READY)
        while not ended.wait(_LOOK_SECONDS):
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return


def _ready(status: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status["conditions"])


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-600:]


if __name__ == "__main__":
    keep()
