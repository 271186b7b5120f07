"""What a cluster takes from the machine, and how the machine gets it back: one network namespace joined to the
outside by one pair of interfaces, one folder, one cgroup, and the processes that were noted.

All of it has fixed names, so what a killed keeper left behind is found and taken away by the next one. There is one
cluster a machine; ``tests.rig.cluster.joining`` sees to that.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

__all__ = [
    "CGROUP",
    "HOME",
    "LOGS",
    "NODE",
    "OUTSIDE",
    "PODS",
    "RUN",
    "SERVICE",
    "SERVICES",
    "clear",
    "inside",
    "note_process",
    "obstacle",
    "set_up",
]

#: The cluster's files, gone when it is.
HOME = Path("/var/lib/distill-ledger-rig")
#: Locks and logs, which stay.
RUN = Path("/run/distill-ledger-rig")
LOGS = RUN / "log"

_NAMESPACE = "distill-ledger-rig"
_LINK = "dlrig0"
#: The node's address, which pods, the node and this machine all reach; and this machine's for pods.
NODE, OUTSIDE = "10.231.0.1", "10.231.0.2"
PODS = "10.232.0.0/24"
SERVICES = "10.96.0.0/24"
#: The first of the services' range: the API server listens there itself, so no proxy of services is needed.
SERVICE = "10.96.0.1"
#: The name of the cgroup and of the pods' network.
CGROUP = "distill-ledger-rig"

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_PLUGIN_NOTES = Path("/var/lib/cni/results")
_CGROUPS = Path("/sys/fs/cgroup")
_PROCESSES = HOME / "processes.json"
_END_SECONDS = 20


def obstacle() -> str | None:
    """Why no cluster can be had on this machine, or None."""
    if sys.platform != "linux":
        return f"a cluster takes Linux, and this is {sys.platform}; or make test-cluster KUBECONFIG=FILE"
    if os.geteuid():
        return "a cluster takes root, for a network namespace and containers; or make test-cluster KUBECONFIG=FILE"
    if not _hierarchies():
        return "no cgroups are mounted at /sys/fs/cgroup; or make test-cluster KUBECONFIG=FILE"
    return None


def set_up() -> None:
    """An empty HOME, the namespace with its addresses, the cgroup."""
    clear()
    HOME.mkdir(parents=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    _ip("netns", "add", _NAMESPACE)
    _ip("link", "add", _LINK, "type", "veth", "peer", "name", "node0", "netns", _NAMESPACE)
    _ip("addr", "add", f"{OUTSIDE}/30", "dev", _LINK)
    _ip("link", "set", _LINK, "up")
    for arguments in (
        ("addr", "add", f"{NODE}/30", "dev", "node0"),
        ("addr", "add", f"{SERVICE}/32", "dev", "lo"),
        ("link", "set", "node0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-n", _NAMESPACE, *arguments)
    with inside():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for hierarchy in _hierarchies():
        folder = hierarchy / CGROUP
        folder.mkdir(exist_ok=True)
        # A cpuset is empty until it is told what it has, and takes no process then.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((hierarchy / name).read_text())
        # All pods together have what four busy processes outside have: else they starve beside the tests.
        for name, share in (("cpu.shares", "4096"), ("cpu.weight", "400")):
            if (folder / name).exists():
                (folder / name).write_text(share)


@contextmanager
def inside() -> Iterator[None]:
    """This thread, and the threads and processes that it starts, are in the namespace until the end of the block.

    (`ip netns exec` would do more: it hides the cgroups, which the kubelet needs.)
    """
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{_NAMESPACE}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def note_process(name: str, pid: int) -> None:
    """Remember a process, so that it is ended even if we are not there to do it."""
    noted = _noted()
    noted[name] = (pid, psutil.Process(pid).create_time())
    beside = _PROCESSES.with_suffix(".new")
    beside.write_text(json.dumps(noted))
    os.replace(beside, _PROCESSES)


def clear() -> None:
    """Nothing is left of a cluster: its processes, mounts, interfaces, cgroups and files."""
    _end([process for pid, created in _noted().values() if (process := _process(pid, created))])
    # Shims and containers are no children of ours; the first name our folder, the second are in our cgroup.
    _end(_shims(), signal.SIGKILL)
    _end(_contained(), signal.SIGKILL)
    for mount in _mounts():
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    # Before the namespace, which takes its end of the pair with it, but at a time of its own.
    if Path("/sys/class/net", _LINK).exists():
        _ip("link", "del", _LINK)
    if Path("/run/netns", _NAMESPACE).exists():
        _ip("netns", "del", _NAMESPACE)
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            _remove_cgroup(Path(folder))
    for link in Path("/var/log/containers").glob("*"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{HOME}/"):
            link.unlink()
    shutil.rmtree(HOME, ignore_errors=True)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"the network namespace cannot be entered: {os.strerror(number)}")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [one for one in _CGROUPS.glob("*") if (one / "cgroup.procs").exists()]


def _noted() -> dict[str, tuple[int, float]]:
    try:
        return {name: (pid, created) for name, (pid, created) in _read().items()}
    except (OSError, ValueError):
        return {}


def _read() -> dict[str, tuple[int, float]]:
    read: dict[str, tuple[int, float]] = json.loads(_PROCESSES.read_text())
    return read


def _process(pid: int, created: float) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 1:
            return process
    return None


def _shims() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        line = process.info["cmdline"] or []
        if "containerd-shim" in (process.info["name"] or "") and any(
            argument.startswith(f"{HOME}/") for argument in line
        ):
            found.append(process)
    return found


def _contained() -> list[psutil.Process]:
    pids: set[int] = set()
    for hierarchy in _hierarchies():
        for members in (hierarchy / CGROUP).rglob("cgroup.procs"):
            with suppress(OSError):
                pids.update(int(line) for line in members.read_text().split())
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _end(processes: list[psutil.Process], first: int = signal.SIGTERM) -> None:
    for number in (first, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=_END_SECONDS)
        if not processes:
            return


def _mounts() -> list[str]:
    """What is mounted in our folder, the latest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    return [place for place in reversed(places) if place.startswith(f"{HOME}/")]


def _remove_cgroup(folder: Path) -> None:
    """A cgroup whose last process has just ended may be busy for a moment."""
    end = time.monotonic() + _END_SECONDS
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        else:
            return
