"""Stages on this machine: one supervisor process each, found again by lock and start record.

An attempt's lock is inherited by its command, so it is held as long as anything of it lives. Held: it
runs (or its supervisor died and the command is an orphan). Free after a start and without a result: lost.
The process id serves for signals only, and only while start time and boot id say that it is the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from launcher import clock
from launcher.agent.protocol import AttemptPaths, boot_id, is_alive, machine_id
from launcher.errors import ConflictError, UnavailableError
from launcher.executors.port import (
    Elsewhere,
    Ended,
    Lost,
    NotStarted,
    Observation,
    Orphaned,
    Running,
    StageResult,
    StageSpec,
)
from launcher.storage.port import ObjectExistsError, ObjectNotFoundError, ObjectStore
from ledger.canonical import canonical_json
from ledger.events import Handle

__all__ = ["LocalExecutor"]

#: How long a supervisor may take from its start to its start record.
_STARTUP_SECONDS: Final = 30.0
#: How long ended processes may take to let go of the lock, beyond the grace.
_VANISH_SECONDS: Final = 15.0
#: A look at the lock is dearer than a look for the result; it is taken this often.
_LOCK_LOOK_SECONDS: Final = 0.25


class LocalExecutor:
    """An Executor over supervisor processes. ``home`` holds ``locks/``."""

    def __init__(self, store: ObjectStore, home: Path) -> None:
        self.store, self.home = store, home
        self._children: list[subprocess.Popen[bytes]] = []

    def _paths(self, run_id: str, stage: str, attempt: int) -> AttemptPaths:
        return AttemptPaths(self.home, run_id, stage, attempt)

    # --- starting ---

    def start(self, spec: StageSpec) -> Handle:
        paths = self._paths(spec.run_id, spec.stage, spec.attempt)
        if self._start_record(paths) is None and not self.store.exists(paths.key("result.json")):
            self._spawn(spec, paths)
        record = self._start_record(paths)
        return _handle(record) if record else Handle(machine_id=machine_id())

    def _spawn(self, spec: StageSpec, paths: AttemptPaths) -> None:
        paths.lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with paths.supervisor_log.open("ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-I", "-m", "launcher.agent.supervisor"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd="/",
                )
        except OSError as exc:
            raise UnavailableError(f"cannot start a supervisor: {exc}") from exc
        self._children.append(child)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(spec.to_json())
            child.stdin.close()
        self._await_start(paths, child)

    def _await_start(self, paths: AttemptPaths, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline:
            if self.store.exists(paths.key("start.json")):
                return
            if self.store.exists(paths.key("result.json")):
                return
            if child.poll() is not None and not self.store.exists(paths.key("start.json")):
                raise UnavailableError(
                    f"the supervisor of {spec_name(paths)} ended at once",
                    f"see {paths.supervisor_log}",
                )
            clock.sleep(0.001)
        raise UnavailableError(f"the supervisor of {spec_name(paths)} did not start")

    # --- looking ---

    def observe(self, run_id: str, stage: str, attempt: int) -> Observation:
        paths = self._paths(run_id, stage, attempt)
        result = self._result(paths)
        if result is not None:
            return Ended(result)
        record = self._start_record(paths)
        if record is None:
            return self._unstarted(paths)
        if record["machine_id"] != machine_id():
            return Elsewhere(str(record["machine_id"]))
        if record["boot_id"] != boot_id():
            return self._ended_or_lost(paths, "this machine was restarted while it ran")
        if not self._is_held(paths):
            return self._ended_or_lost(paths, "its supervisor ended without a result")
        self._reap()
        return Running(_handle(record)) if is_alive(record) else self._orphaned(paths, record)

    def _unstarted(self, paths: AttemptPaths) -> Observation:
        """Nobody wrote a start record; a supervisor may be about to."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        while self._is_held(paths) and time.monotonic() < deadline:
            record = self._start_record(paths)
            if record is not None:
                return Running(_handle(record))
            clock.sleep(0.005)
        result = self._result(paths)
        return Ended(result) if result else NotStarted()

    def _ended_or_lost(self, paths: AttemptPaths, reason: str) -> Observation:
        # The result may have come between the first look and the lock's release.
        result = self._result(paths)
        return Ended(result) if result else Lost(reason)

    def _orphaned(self, paths: AttemptPaths, record: dict[str, Any]) -> Observation:
        result = self._result(paths)
        return Ended(result) if result else Orphaned(_handle(record))

    def wait(self, run_id: str, stage: str, attempt: int, timeout_seconds: float) -> Observation:
        paths = self._paths(run_id, stage, attempt)
        deadline = time.monotonic() + timeout_seconds
        looked = time.monotonic()
        pause = 0.001
        while (moment := time.monotonic()) < deadline:
            if self.store.exists(paths.key("result.json")):
                break
            if moment - looked > _LOCK_LOOK_SECONDS:
                looked = moment
                seen = self.observe(run_id, stage, attempt)
                if not isinstance(seen, Running):
                    return seen
            clock.sleep(pause)
            pause = min(pause * 1.3, 0.02)
        return self.observe(run_id, stage, attempt)

    # --- stopping ---

    def stop(
        self, run_id: str, stage: str, attempt: int, *, closed_by: str, grace_seconds: float
    ) -> None:
        paths = self._paths(run_id, stage, attempt)
        record = self._start_record(paths)
        if record is not None and record["machine_id"] != machine_id():
            raise ConflictError(
                f"{spec_name(paths)} runs on machine {record['machine_id']}", "stop it there"
            )
        self._close(paths, closed_by, None)
        if record is not None:
            self._end(paths, record, grace_seconds)

    def _end(self, paths: AttemptPaths, record: dict[str, Any], grace_seconds: float) -> None:
        """Through the supervisor if it lives, else straight to the command's group; KILL when time is up."""
        if is_alive(record):
            _signal(int(record["pid"]), signal.SIGTERM)
            if self._await_free(paths, grace_seconds + _VANISH_SECONDS / 3):
                return
        command = _read_json(paths.command_file)
        if is_alive(command) and command is not None:
            _signal_group(int(command["pid"]), signal.SIGTERM)
            if not self._await_free(paths, grace_seconds):
                _signal_group(int(command["pid"]), signal.SIGKILL)
        if self._await_free(paths, _VANISH_SECONDS / 3):
            return
        if is_alive(record):
            _signal(int(record["pid"]), signal.SIGKILL)
        if not self._await_free(paths, _VANISH_SECONDS):
            raise UnavailableError(
                f"something of {spec_name(paths)} still holds its lock",
                f"see who has {paths.lock} open",
            )

    def close_lost(self, run_id: str, stage: str, attempt: int, reason: str) -> None:
        paths = self._paths(run_id, stage, attempt)
        with self._holding(paths) as free:
            if not free:
                raise ConflictError(f"{spec_name(paths)} is still running")
            self._close(paths, "lost", reason)

    def _close(self, paths: AttemptPaths, closed_by: str, message: str | None) -> None:
        moment = clock.now()
        result = {
            "run_id": paths.run_id,
            "stage": paths.stage,
            "attempt": paths.attempt,
            "exit_code": None,
            "closed_by": closed_by,
            "message": message,
            "started_at": None,
            "ended_at": moment,
            "handle": None,
        }
        with contextlib.suppress(ObjectExistsError):
            self.store.create(paths.key("result.json"), canonical_json(result))

    # --- inside ---

    def _result(self, paths: AttemptPaths) -> StageResult | None:
        key = paths.key("result.json")
        try:
            return StageResult.parse(self.store.read(key), key)
        except ObjectNotFoundError:
            return None

    def _start_record(self, paths: AttemptPaths) -> dict[str, Any] | None:
        try:
            record = json.loads(self.store.read(paths.key("start.json")))
        except ObjectNotFoundError:
            return None
        return record if isinstance(record, dict) else None

    def _is_held(self, paths: AttemptPaths) -> bool:
        with self._holding(paths) as free:
            return not free

    @contextlib.contextmanager
    def _holding(self, paths: AttemptPaths) -> Iterator[bool]:
        """Try to take the attempt's lock; yields whether it was free (and is held now)."""
        try:
            paths.lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise UnavailableError(f"cannot look at {paths.lock}: {exc.strerror}") from exc
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            yield free
        finally:
            os.close(fd)

    def _await_free(self, paths: AttemptPaths, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._is_held(paths):
            self._reap()
            if time.monotonic() > deadline:
                return False
            clock.sleep(0.01)
        self._reap()
        return True

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]


def spec_name(paths: AttemptPaths) -> str:
    """``retrain attempt 2 of RUN``, for messages."""
    return f"{paths.stage} attempt {paths.attempt} of {paths.run_id}"


def _handle(record: dict[str, Any]) -> Handle:
    return Handle(**{k: record[k] for k in ("machine_id", "pid", "started", "boot_id")})


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
