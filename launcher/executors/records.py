"""What the store and the lock say of one attempt: who started it, how it ended, whether somebody holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from launcher import clock
from launcher.agent.protocol import AttemptPaths
from launcher.agent.saved import saved_of
from launcher.errors import IntegrityError, UnavailableError
from launcher.executors.port import StageResult
from launcher.storage.port import ObjectExistsError, ObjectNotFoundError, ObjectStore
from ledger.canonical import canonical_json

__all__ = ["AttemptRecords"]


@dataclass(frozen=True, slots=True)
class AttemptRecords:
    """One attempt's create-only objects, and its lock. Every method may raise UnavailableError."""

    store: ObjectStore
    paths: AttemptPaths
    #: Start records that were read, by key: they never change.
    started: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        """``retrain attempt 2 of RUN``, for messages."""
        return f"{self.paths.stage} attempt {self.paths.attempt} of {self.paths.run_id}"

    def is_closed(self) -> bool:
        """Whether there is a result."""
        return self.store.exists(self.paths.key("result.json"))

    def result(self) -> StageResult | None:
        """The result, or None. Raises IntegrityError."""
        key = self.paths.key("result.json")
        try:
            return StageResult.parse(self.store.read(key), key)
        except ObjectNotFoundError:
            return None

    def start_record(self) -> dict[str, Any] | None:
        """machine_id, pid, started and boot_id of the supervisor, or None. Raises IntegrityError."""
        key = self.paths.key("start.json")
        if key in self.started:
            return self.started[key]
        try:
            record = json.loads(self.store.read(key))
            found = {k: record[k] for k in ("machine_id", "pid", "started", "boot_id")}
            return self.started.setdefault(key, found)
        except ObjectNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            raise IntegrityError(f"{key} is no start record: {exc}") from exc

    def with_saved(self, result: StageResult) -> StageResult:
        """A closed attempt's result with the log that was kept of it afterwards."""
        if result.closed_by is None or result.log_digest is not None:
            return result
        of = self.paths
        saved = saved_of(self.store, of.run_id, of.stage, of.attempt)
        running = saved.running_seconds
        return replace(
            result,
            log_digest=saved.log_digest,
            running_seconds=result.running_seconds if running is None else running,
        )

    def close(self, closed_by: str, message: str | None) -> None:
        """Create a result without an exit code; one that is there already stands."""
        result = {
            "run_id": self.paths.run_id,
            "stage": self.paths.stage,
            "attempt": self.paths.attempt,
            "exit_code": None,
            "closed_by": closed_by,
            "message": message,
            "started_at": None,
            "ended_at": clock.now(),
            "handle": None,
        }
        with contextlib.suppress(ObjectExistsError):
            self.store.create(self.paths.key("result.json"), canonical_json(result))

    def is_held(self) -> bool:
        """Whether somebody holds the attempt's lock."""
        # Shared, so that two who look at once do not take each other for the attempt.
        with self.holding(fcntl.LOCK_SH) as free:
            return not free

    @contextlib.contextmanager
    def holding(self, how: int = fcntl.LOCK_EX) -> Iterator[bool]:
        """Try to take the attempt's lock; yields whether it was free (and is held now)."""
        lock = self.paths.lock
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise UnavailableError(f"cannot look at {lock}: {exc.strerror}") from exc
        try:
            try:
                fcntl.flock(fd, how | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            yield free
        finally:
            os.close(fd)
