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

import signal
import time
from pathlib import Path
from typing import Any, Final

from launcher import clock
from launcher.agent.processes import members, send
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
    StageSpec,
    StillRunningError,
)
from launcher.executors.records import AttemptRecords
from launcher.executors.spawn import Spawner
from launcher.storage.bucket_url import is_bucket, look_seconds
from launcher.storage.port import ObjectStore
from ledger.events import Cause, Handle

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
        self._spawner = Spawner(store.where if is_bucket(store.where) else "")
        self._look_seconds = look_seconds(store.where, 0.0)
        self._started: dict[str, dict[str, Any]] = {}

    def _of(self, run_id: str, stage: str, attempt: int) -> AttemptRecords:
        paths = AttemptPaths(self.home, run_id, stage, attempt)
        return AttemptRecords(self.store, paths, self._started)

    # --- starting ---

    def prepare(self) -> None:
        """See the port."""
        self._spawner.prepare()

    def answers(self) -> bool:
        """See the port. It is this machine."""
        return True

    def close(self, wait_seconds: float = 0.0) -> None:
        """See the port."""
        self._spawner.close()

    def recorded(self, run_id: str, stage: str, attempt: int) -> None:
        """See the port: nothing but the store tells of an attempt here."""

    def job_name(self, run_id: str, stage: str, attempt: int, spec_digest: str) -> str | None:
        """See the port."""
        return None

    def start(self, spec: StageSpec) -> Handle:
        """See the port."""
        of = self._of(spec.run_id, spec.stage, spec.attempt)
        record = of.start_record()
        if record is None and not of.is_closed():
            record = self._await_start(of, self._spawner.spawn(spec))
        return _handle(record) if record else Handle(machine_id=machine_id())

    def _await_start(self, of: AttemptRecords, pid: int) -> dict[str, Any] | None:
        """The start record, whoever made it; None where the attempt was closed before it began."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline:
            goes_on = self._spawner.listen(pid, _LOCK_LOOK_SECONDS)
            record = of.start_record()
            if record is not None or of.is_closed():
                return record
            if not goes_on:
                raise UnavailableError(
                    f"the supervisor of {of} ended at once: {self._spawner.last_words()}",
                    f"launcher resume {of.paths.run_id}",
                )
        raise UnavailableError(
            f"the supervisor of {of} did not start within {_STARTUP_SECONDS:g} s",
            f"launcher resume {of.paths.run_id}",
        )

    # --- looking ---

    def observe(self, run_id: str, stage: str, attempt: int) -> Observation:
        """See the port."""
        of = self._of(run_id, stage, attempt)
        result = of.result()
        if result is not None and result.closed_by is None:
            return Ended(result)
        record = of.start_record()
        if record is None:
            return Ended(result) if result else self._unstarted(of)
        if record["machine_id"] != machine_id():
            return Ended(result) if result else Elsewhere(str(record["machine_id"]))
        if record["boot_id"] != boot_id():
            return self._ended_or(of, Lost("this machine was restarted while it ran"))
        if of.is_held() and is_alive(record):
            return Running(_handle(record))
        if of.is_held() or self._members(of, record):
            result = of.result()
            committed = result is not None and result.closed_by is None
            return Ended(result) if result and committed else Orphaned(_handle(record))
        return self._ended_or(of, Lost("its supervisor ended without a result"))

    def _unstarted(self, of: AttemptRecords) -> Observation:
        """Nobody wrote a start record; a supervisor may be about to."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        while of.is_held() and time.monotonic() < deadline:
            record = of.start_record()
            if record is not None:
                return Running(_handle(record))
            clock.sleep(0.005)
        return self._ended_or(of, NotStarted())

    def _ended_or(self, of: AttemptRecords, otherwise: Observation) -> Observation:
        """The result may have come between the first look and the lock's release."""
        result = of.result()
        return Ended(of.with_saved(result)) if result else otherwise

    def wait(self, run_id: str, stage: str, attempt: int, timeout_seconds: float) -> Observation:
        """See the port."""
        of = self._of(run_id, stage, attempt)
        record = of.start_record()
        deadline = time.monotonic() + timeout_seconds
        looked, heard, pause = time.monotonic(), self._spawner.heard, 0.001
        while (moment := time.monotonic()) < deadline:
            if self._is_time(of, moment - looked, self._spawner.heard - heard):
                looked, heard = moment, self._spawner.heard
                seen = self.observe(run_id, stage, attempt)
                if not isinstance(seen, Running):
                    return seen
            left = min(_LOCK_LOOK_SECONDS, deadline - moment)
            if record is None or not self._spawner.listen(record["pid"], left):
                clock.sleep(pause)
                pause = min(pause * 1.3, 0.1 if self._look_seconds else 0.02)
        if record is not None and self._look_seconds and of.is_held():
            return Running(_handle(record))
        return self.observe(run_id, stage, attempt)

    def _is_time(self, of: AttemptRecords, waited: float, heard: int) -> bool:
        """Whether to look again. A store far away is asked where this machine says that something happened."""
        if not self._look_seconds:
            return waited > _LOCK_LOOK_SECONDS or of.is_closed()
        return heard > 0 or waited > self._look_seconds or not of.is_held()

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
        force: bool = False,
    ) -> None:
        """See the port. Raises ConflictError where another machine runs it: ``force`` changes nothing about that."""
        of = self._of(run_id, stage, attempt)
        record = of.start_record()
        if record is not None and record["machine_id"] != machine_id():
            raise ConflictError(f"{of} runs on machine {record['machine_id']}", "stop it there")
        of.close(closed_by, reason)
        record = of.start_record()
        if record is not None and record["boot_id"] == boot_id():
            self._end(of, record, grace_seconds)

    def _end(self, of: AttemptRecords, record: dict[str, Any], grace_seconds: float) -> None:
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
            supervised, left = is_alive(record), self._members(of, record)
            if not supervised and not left and not of.is_held():
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
                who = ", ".join(map(str, sorted(left))) or f"who has {of.paths.lock} open"
                raise UnavailableError(f"something of {of} cannot be ended", f"see {who}")
            clock.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def close_lost(
        self, run_id: str, stage: str, attempt: int, reason: str, cause: Cause = "lost"
    ) -> None:
        """See the port. Raises StillRunningError."""
        of = self._of(run_id, stage, attempt)
        deadline = time.monotonic() + _PROBE_SECONDS
        while not of.is_closed():
            with of.holding() as free:
                if free:
                    of.close(cause, reason)
                    return
            if time.monotonic() > deadline:
                raise StillRunningError(f"{of} is still running")
            clock.sleep(0.01)

    # --- inside ---

    def _members(self, of: AttemptRecords, record: dict[str, Any]) -> set[int]:
        """The living processes of an attempt's command."""
        return members(of.paths.lock) - {int(record["pid"])}


def _handle(record: dict[str, Any]) -> Handle:
    return Handle(**record)
