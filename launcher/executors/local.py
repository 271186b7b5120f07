"""Stages on this machine: one supervisor process each, found again by lock and start record.

Rules:

1. An attempt's lock is inherited by its command, so it is held as long as the supervisor or anything that
   kept it open lives. Held: it runs (or its supervisor died and the command is an orphan). Free after a
   start, without a result and with nobody left of its command: lost.
2. An attempt that was closed before its command ended counts as ended once all of it has been seen gone:
   no other attempt starts while its trainer still saves what it has.
3. Whoever closes an attempt creates the result first and looks for a start record then (a supervisor does
   it the other way round), so no command runs on unseen.
4. Process ids serve for signals only, and only while start time and boot id say that they are the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from launcher import clock
from launcher.agent.processes import members, send
from launcher.agent.protocol import AttemptPaths, boot_id, is_alive, machine_id
from launcher.errors import ConflictError, IntegrityError, UnavailableError
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
from launcher.executors.spawn import Spawner, last_words
from launcher.storage.port import ObjectExistsError, ObjectNotFoundError, ObjectStore
from ledger.canonical import canonical_json
from ledger.events import Handle

__all__ = ["LocalExecutor"]

#: How long a supervisor may take from its start to its start record.
_STARTUP_SECONDS: Final = 30.0
#: What a supervisor gets beyond the grace before somebody else ends its command.
_SUPERVISOR_SECONDS: Final = 5.0
#: How long a supervisor may take to keep what a closed attempt saved.
_SAVING_SECONDS: Final = 60.0
#: How long killed processes may take to vanish.
_VANISH_SECONDS: Final = 15.0
#: A look at the lock is dearer than a look for the result; it is taken this often.
_LOCK_LOOK_SECONDS: Final = 0.25
#: How long somebody's look at a lock may last.
_PROBE_SECONDS: Final = 5.0


class LocalExecutor:
    """An Executor over supervisor processes. ``home`` holds ``locks/``."""

    def __init__(self, store: ObjectStore, home: Path) -> None:
        self.store, self.home = store, home
        self._spawner = Spawner()

    def _paths(self, run_id: str, stage: str, attempt: int) -> AttemptPaths:
        return AttemptPaths(self.home, run_id, stage, attempt)

    # --- starting ---

    def prepare(self) -> None:
        """See the port."""
        self._spawner.prepare()

    def close(self) -> None:
        """See the port."""
        self._spawner.close()

    def start(self, spec: StageSpec) -> Handle:
        """See the port."""
        paths = self._paths(spec.run_id, spec.stage, spec.attempt)
        record = self._start_record(paths)
        if record is None and not self._is_closed(paths):
            record = self._await_start(paths, self._spawner.spawn(spec))
        return _handle(record) if record else Handle(machine_id=machine_id())

    def _await_start(
        self, paths: AttemptPaths, child: subprocess.Popen[bytes]
    ) -> dict[str, Any] | None:
        """The start record, whoever made it; None where the attempt was closed before it began."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline:
            ended = child.poll() is not None
            record = self._start_record(paths)
            if record is not None or self._is_closed(paths):
                return record
            if ended:
                words = last_words(child) or "without a word"
                raise UnavailableError(
                    f"the supervisor of {_name(paths)} ended at once: {words}",
                    f"launcher resume {paths.run_id}",
                )
            clock.sleep(0.001)
        raise UnavailableError(
            f"the supervisor of {_name(paths)} did not start within {_STARTUP_SECONDS:g} s",
            f"launcher resume {paths.run_id}",
        )

    # --- looking ---

    def observe(self, run_id: str, stage: str, attempt: int) -> Observation:
        """See the port."""
        paths = self._paths(run_id, stage, attempt)
        result = self._result(paths)
        if result is not None and result.closed_by is None:
            return Ended(result)
        record = self._start_record(paths)
        if record is None:
            return Ended(result) if result else self._unstarted(paths)
        if record["machine_id"] != machine_id():
            return Ended(result) if result else Elsewhere(str(record["machine_id"]))
        if record["boot_id"] != boot_id():
            return self._ended_or(paths, Lost("this machine was restarted while it ran"))
        self._spawner.reap()
        if self._is_held(paths) and is_alive(record):
            return Running(_handle(record))
        if self._is_held(paths) or self._members(paths, record):
            result = self._result(paths)
            committed = result is not None and result.closed_by is None
            return Ended(result) if result and committed else Orphaned(_handle(record))
        return self._ended_or(paths, Lost("its supervisor ended without a result"))

    def _unstarted(self, paths: AttemptPaths) -> Observation:
        """Nobody wrote a start record; a supervisor may be about to."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        while self._is_held(paths) and time.monotonic() < deadline:
            record = self._start_record(paths)
            if record is not None:
                return Running(_handle(record))
            clock.sleep(0.005)
        return self._ended_or(paths, NotStarted())

    def _ended_or(self, paths: AttemptPaths, otherwise: Observation) -> Observation:
        """The result may have come between the first look and the lock's release."""
        result = self._result(paths)
        return Ended(self._with_saved(result, paths)) if result else otherwise

    def _with_saved(self, result: StageResult, paths: AttemptPaths) -> StageResult:
        """A closed attempt's result with the log that was kept of it afterwards."""
        if result.closed_by is None or result.log_digest is not None:
            return result
        try:
            saved = json.loads(self.store.read(paths.key("collected.json")))
            return replace(
                result,
                log_digest=saved["log_digest"],
                running_seconds=saved["seconds"]["running"],
            )
        except (ObjectNotFoundError, ValueError, KeyError, TypeError):
            return result

    def wait(self, run_id: str, stage: str, attempt: int, timeout_seconds: float) -> Observation:
        """See the port."""
        paths = self._paths(run_id, stage, attempt)
        deadline = time.monotonic() + timeout_seconds
        looked = time.monotonic()
        pause = 0.001
        while (moment := time.monotonic()) < deadline:
            due = moment - looked > _LOCK_LOOK_SECONDS
            if due or self._is_closed(paths):
                looked = moment
                seen = self.observe(run_id, stage, attempt)
                if not isinstance(seen, Running):
                    return seen
            clock.sleep(pause)
            pause = min(pause * 1.3, 0.02)
        return self.observe(run_id, stage, attempt)

    # --- stopping ---

    def stop(
        self,
        run_id: str,
        stage: str,
        attempt: int,
        *,
        closed_by: str,
        reason: str | None,
        grace_seconds: float,
    ) -> None:
        """See the port. Raises ConflictError where another machine runs it."""
        paths = self._paths(run_id, stage, attempt)
        record = self._start_record(paths)
        if record is not None and record["machine_id"] != machine_id():
            raise ConflictError(
                f"{_name(paths)} runs on machine {record['machine_id']}", "stop it there"
            )
        self._close(paths, closed_by, reason)
        record = self._start_record(paths)
        if record is not None and record["boot_id"] == boot_id():
            self._end(paths, record, grace_seconds)

    def _end(self, paths: AttemptPaths, record: dict[str, Any], grace_seconds: float) -> None:
        """Through the supervisor if it lives, else straight to its command; KILL when time is up."""
        pid = int(record["pid"])
        if is_alive(record):
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)
            grace_seconds += _SUPERVISOR_SECONDS
        began = time.monotonic()
        told: set[int] = set()
        pause = 0.005
        while True:
            self._spawner.reap()
            supervised, left = is_alive(record), self._members(paths, record)
            if not supervised and not left and not self._is_held(paths):
                return
            spent = time.monotonic() - began
            if not supervised:
                for one in left - told:
                    send(one, signal.SIGTERM)
                    send(one, signal.SIGCONT)
                told |= left
            if spent > grace_seconds:
                for one in left:
                    send(one, signal.SIGKILL)
            if supervised and spent > grace_seconds + _SAVING_SECONDS:
                send(pid, signal.SIGKILL)
            if spent > grace_seconds + _VANISH_SECONDS + (_SAVING_SECONDS if supervised else 0):
                who = ", ".join(map(str, sorted(left))) or f"who has {paths.lock} open"
                raise UnavailableError(f"something of {_name(paths)} cannot be ended", f"see {who}")
            clock.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def close_lost(self, run_id: str, stage: str, attempt: int, reason: str) -> None:
        """See the port. Raises ConflictError where it is still running."""
        paths = self._paths(run_id, stage, attempt)
        deadline = time.monotonic() + _PROBE_SECONDS
        while not self._is_closed(paths):
            with self._holding(paths, fcntl.LOCK_EX) as free:
                if free:
                    self._close(paths, "lost", reason)
                    return
            if time.monotonic() > deadline:
                raise ConflictError(f"{_name(paths)} is still running")
            clock.sleep(0.01)

    def _close(self, paths: AttemptPaths, closed_by: str, message: str | None) -> None:
        result = {
            "run_id": paths.run_id,
            "stage": paths.stage,
            "attempt": paths.attempt,
            "exit_code": None,
            "closed_by": closed_by,
            "message": message,
            "started_at": None,
            "ended_at": clock.now(),
            "handle": None,
        }
        with contextlib.suppress(ObjectExistsError):
            self.store.create(paths.key("result.json"), canonical_json(result))

    # --- inside ---

    def _is_closed(self, paths: AttemptPaths) -> bool:
        return self.store.exists(paths.key("result.json"))

    def _result(self, paths: AttemptPaths) -> StageResult | None:
        key = paths.key("result.json")
        try:
            return StageResult.parse(self.store.read(key), key)
        except ObjectNotFoundError:
            return None

    def _start_record(self, paths: AttemptPaths) -> dict[str, Any] | None:
        key = paths.key("start.json")
        try:
            record = json.loads(self.store.read(key))
            return {k: record[k] for k in ("machine_id", "pid", "started", "boot_id")}
        except ObjectNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            raise IntegrityError(f"{key} is no start record: {exc}") from exc

    def _members(self, paths: AttemptPaths, record: dict[str, Any]) -> set[int]:
        """The living processes of an attempt's command."""
        return members(paths.lock) - {int(record["pid"])}

    def _is_held(self, paths: AttemptPaths) -> bool:
        # Shared, so that two who look at once do not take each other for the attempt.
        with self._holding(paths, fcntl.LOCK_SH) as free:
            return not free

    @contextlib.contextmanager
    def _holding(self, paths: AttemptPaths, how: int) -> Iterator[bool]:
        """Try to take the attempt's lock; yields whether it was free (and is held now)."""
        try:
            paths.lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise UnavailableError(f"cannot look at {paths.lock}: {exc.strerror}") from exc
        try:
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            yield free
        finally:
            os.close(fd)


def _name(paths: AttemptPaths) -> str:
    """``retrain attempt 2 of RUN``, for messages."""
    return f"{paths.stage} attempt {paths.attempt} of {paths.run_id}"


def _handle(record: dict[str, Any]) -> Handle:
    return Handle(**record)
