"""The words that launcher and supervisor share: where things lie, who is who, what a stage is given.

Under the store, per attempt, all create-only: ``start.json`` (who runs it), ``result.json`` (alone closes
the attempt), ``collected.json`` (what a closed attempt saved). Under the home's ``locks/``: the attempt's
lock, which the command inherits, and ``….supervisor.log`` where a supervisor had something to complain of.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["AttemptPaths", "StageSpec", "boot_id", "is_alive", "machine_id", "process_start"]

#: Who may close an attempt before its command has ended, and why.
CLOSED_BY: Final = ("timeout", "cancelled", "lost", "outputs", "storage")


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Everything that a supervisor needs. ``environment`` holds secrets: it goes by pipe, never to disk.

    Paths are absolute; ``tag_file`` only for the relabel stage; ``previous_manifests`` oldest first.
    """

    run_id: str
    stage: str
    attempt: int
    index: int
    command: str
    cwd: str
    environment: dict[str, str]
    run_dir: str
    log_path: str
    store: str
    home: str
    previous_manifests: tuple[str, ...]
    collect_exclude: tuple[str, ...]
    student_glob: str | None
    tag_file: str | None
    timeout_seconds: float | None
    grace_seconds: float
    spec_digest: str
    patience_seconds: float = 0.0

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StageSpec:
        raw: dict[str, Any] = json.loads(data)
        raw["previous_manifests"] = tuple(raw["previous_manifests"])
        raw["collect_exclude"] = tuple(raw["collect_exclude"])
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """Where one attempt's objects and lock lie."""

    home: Path
    run_id: str
    stage: str
    attempt: int

    def key(self, name: str) -> str:
        """The store's key of ``start.json``, ``result.json`` or ``collected.json``."""
        return f"runs/{self.run_id}/{self.stage}/{self.attempt}/{name}"

    @property
    def lock(self) -> Path:
        """Absolute and without symlinks: processes are found by this name."""
        folder = Path(os.path.realpath(self.home / "locks"))
        return folder / f"{self.run_id}.{self.stage}.{self.attempt}.lock"

    @property
    def supervisor_log(self) -> Path:
        return self.lock.with_suffix(".supervisor.log")


def machine_id() -> str:
    """What tells this machine from others: its name and its machine id, or its network address."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text:
            return f"{os.uname().nodename}/{text[:12]}"
    return f"{os.uname().nodename}/{uuid.getnode():012x}"


def boot_id() -> str:
    """What tells this boot from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))


def process_start(pid: int) -> float | None:
    """When a process started (seconds or ticks, comparable on one boot only); None if it is not alive.

    A zombie is not alive.
    """
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # The name in parentheses may hold anything; fields are counted behind it (proc(5): 3 state, 22 starttime).
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_alive(record: dict[str, Any] | None) -> bool:
    """Whether the process that a record names (pid, started, boot_id) is still that very process."""
    if not record or record.get("boot_id") != boot_id():
        return False
    return process_start(int(record["pid"])) == record.get("started")


def own_record() -> dict[str, Any]:
    """This process, as a start record names it."""
    pid = os.getpid()
    return {
        "machine_id": machine_id(),
        "pid": pid,
        "started": process_start(pid),
        "boot_id": boot_id(),
    }
