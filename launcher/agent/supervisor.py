"""The supervisor: a process of its own session that runs one attempt and outlives a killed launcher.

Rules:

1. It takes the attempt's lock, which the command inherits, and ends at once if the attempt was started
   or closed before. The start record comes first, then another look for a result: whoever closes an
   attempt creates the result and then looks for the start record, so one of the two sees the other.
2. Whoever stops an attempt creates its result before the first signal, so a command that catches SIGTERM,
   saves and exits 0 never counts as a success. What it saved goes to ``collected.json``.
3. A result that somebody else created ends the command, whether its author lived to send a signal or not.
4. Everything that the command started has been seen gone before a result with an exit code is created.
5. A bucket that is away when the command has ended is waited for: the outputs are here, and are kept once it
   answers.
6. What it is told holds secrets: they go to the command, and nothing of it is written down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from launcher.agent.command import Command, NotStartedError
from launcher.agent.outputs import (
    Before,
    checkpoints_before,
    collect_checkpoints,
    collect_outputs,
)
from launcher.agent.protocol import AttemptPaths, StageSpec, own_record
from launcher.clock import now
from launcher.errors import IntegrityError, LauncherError, UnavailableError
from launcher.retry import outlasted
from launcher.storage.bucket_url import look_seconds
from launcher.storage.opening import open_store
from launcher.storage.port import AccessRefusedError, ObjectExistsError
from ledger.canonical import canonical_json

__all__ = ["Supervisor", "say"]

#: How long a starting supervisor waits for a lock that somebody only looks at.
_LOCK_SECONDS: Final = 5.0
#: How long the remains of an ended command have between TERM and KILL.
_REMAINS_SECONDS: Final = 2.0
#: How often it looks in a folder whether somebody else closed the attempt.
_LOOK_SECONDS: Final = 1.0


class Supervisor:
    """One attempt. ``run`` does all of it and returns the supervisor's own exit code."""

    def __init__(self, spec: StageSpec) -> None:
        self.spec = spec
        self.paths = AttemptPaths(Path(spec.home), spec.run_id, spec.stage, spec.attempt)
        self.store = open_store(spec.store)
        self.record = own_record()
        self._look_seconds = look_seconds(spec.store, _LOOK_SECONDS)
        self._told_to_stop = False
        self._wake = -1
        self._before: Before = {}
        self._started_at = now()
        self._began = time.monotonic()

    def run(self) -> int:
        lock = self._take_lock()
        if lock is None or self._is_taken():
            return 0
        self._wake = self._watch_signals()
        self._before = checkpoints_before(self.spec)
        try:
            command = self._start_command(lock)
        except NotStartedError as exc:
            closed_by = "storage" if exc.code is None else None
            self._create_result(exit_code=exc.code, closed_by=closed_by, message=str(exc))
            return 0
        closed_by = self._await(command, self._wake)
        exit_code = command.end(self.spec.grace_seconds if closed_by else _REMAINS_SECONDS)
        running = time.monotonic() - self._began
        if closed_by is None:
            self._commit(exit_code, running)
        else:
            self._save_closed(running)
        return 0

    # --- before ---

    def _take_lock(self) -> int | None:
        self.paths.lock.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                started = self.store.exists(self.paths.key("start.json"))
                if started or time.monotonic() > deadline:
                    return None
                time.sleep(0.002)

    def _is_taken(self) -> bool:
        """Whether this attempt was started or closed before; if not, it is ours from here on."""
        try:
            self.store.create(self.paths.key("start.json"), canonical_json(self.record))
        except ObjectExistsError:
            return True
        say(f"{os.getpid()} look")
        return self._is_closed()

    def _is_closed(self) -> bool:
        return self.store.exists(self.paths.key("result.json"))

    def _watch_signals(self) -> int:
        wake, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        return wake

    def _stop(self, *_: Any) -> None:
        self._told_to_stop = True

    def _start_command(self, lock: int) -> Command:
        return Command(
            self.spec.command,
            cwd=self.spec.cwd,
            environment=self.spec.environment,
            log=Path(self.spec.log_path),
            lock=self.paths.lock,
            fd=lock,
        )

    # --- while it runs ---

    def _await(self, command: Command, wake: int) -> str | None:
        """Wait for the command. Returns who closed the attempt before it ended, or None."""
        limit = self.spec.timeout_seconds
        looked = time.monotonic()
        while not command.has_ended():
            moment = time.monotonic()
            late = limit is not None and moment - self._began >= limit
            closed_by = None
            if self._told_to_stop:
                closed_by = self._close("lost", "its supervisor was told to stop")
            elif late:
                closed_by = self._close(
                    "timeout", f"it ran longer than {limit:g} s and was stopped"
                )
            elif moment - looked >= self._look_seconds:
                looked = moment
                closed_by = self._closed_by_another()
            if closed_by is not None:
                return closed_by
            left = _LOOK_SECONDS if late else self._look_seconds
            if limit is not None and not late:
                left = min(left, limit - (moment - self._began))
            ready, _, _ = select.select([wake], [], [], left)
            if ready:
                os.read(wake, 4096)
        return None

    def _close(self, closed_by: str, message: str) -> str | None:
        """Create the result before the first signal; one that is there already says who closed it.

        None where nothing can be written now: nobody is signalled then, and it is tried again.
        """
        try:
            self._create_result(exit_code=None, closed_by=closed_by, message=message)
        except ObjectExistsError:
            return "closed"
        except UnavailableError as exc:
            self._complain(f"not closed ({closed_by}): {exc}")
            return None
        return closed_by

    def _closed_by_another(self) -> str | None:
        try:
            return "closed" if self._is_closed() else None
        except UnavailableError:
            return None

    # --- after ---

    def _commit(self, exit_code: int, running: float) -> None:
        began = time.monotonic()

        def attempt() -> None:
            outputs = collect_outputs(self.spec, self.store, self._before)
            self._create_result(
                exit_code=exit_code,
                closed_by=None,
                seconds={"running": running, "collecting": time.monotonic() - began},
                **outputs,
            )

        try:
            outlasted(
                attempt,
                seconds=self.spec.patience_seconds,
                is_passing=lambda exc: isinstance(exc, UnavailableError | AccessRefusedError),
                before_wait=self._away,
                sleep=self._nap,
            )
        except ObjectExistsError:
            self._save_closed(running)
        except (UnavailableError, AccessRefusedError, IntegrityError) as exc:
            self._give_up("storage", str(exc), running)
        except LauncherError as exc:
            self._give_up("outputs", str(exc), running)

    def _away(self, error: BaseException) -> None:
        """Hours of training are not given up for a store that is away; whoever stops this, does."""
        if self._told_to_stop:
            raise error
        self._complain(f"its outputs are kept as soon as the store takes them: {error}")

    def _nap(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._told_to_stop and (left := end - time.monotonic()) > 0:
            if select.select([self._wake], [], [], left)[0]:
                os.read(self._wake, 4096)

    def _give_up(self, closed_by: str, message: str, running: float) -> None:
        """Outputs that could not be kept are no success; without even this result it is found as lost."""
        try:
            self._create_result(
                exit_code=None,
                closed_by=closed_by,
                message=message,
                seconds={"running": running, "collecting": 0.0},
            )
        except ObjectExistsError:
            pass
        except LauncherError as exc:
            self._complain(f"no result ({message}): {exc}")
        self._save_closed(running)

    def _save_closed(self, running: float) -> None:
        """Keep what a closed attempt saved: its log and checkpoints, never as a result."""
        try:
            saved = collect_checkpoints(self.spec, self.store)
            data = canonical_json({**saved, "seconds": {"running": running}, "saved_at": now()})
            self.store.create(self.paths.key("collected.json"), data)
        except LauncherError as exc:
            self._complain(f"not saved: {exc}")

    def _create_result(
        self,
        *,
        exit_code: int | None,
        closed_by: str | None,
        message: str | None = None,
        **more: Any,
    ) -> None:
        result = {
            "run_id": self.spec.run_id,
            "stage": self.spec.stage,
            "attempt": self.spec.attempt,
            "exit_code": exit_code,
            "closed_by": closed_by,
            "message": message,
            "started_at": self._started_at,
            "ended_at": now(),
            "handle": self.record,
            **more,
        }
        self.store.create(self.paths.key("result.json"), canonical_json(result))
        say(f"{os.getpid()} look")

    def _complain(self, text: str) -> None:
        """A line for whoever looks into it: the launcher may be gone."""
        try:
            with self.paths.supervisor_log.open("a") as log:
                log.write(f"{now()} {text}\n")
        except OSError:
            sys.stderr.write(f"{text}\n")


def say(line: str) -> None:
    """Tell a launcher that listens to look now; mostly nobody does any more."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())
