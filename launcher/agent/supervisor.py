"""The supervisor: a process of its own session that runs one attempt and outlives a killed launcher.

It takes the attempt's lock, which the command inherits; ends at once if the attempt was started or
closed before; writes the start record; runs the command; ends what is left of its process group; collects
the outputs; creates result.json, which alone closes the attempt. Whoever stops an attempt creates that
result first, so a command that catches SIGTERM, saves and exits 0 never counts as a success.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from launcher.agent.outputs import collect_checkpoints, collect_outputs
from launcher.agent.protocol import AttemptPaths, StageSpec, own_record, process_start
from launcher.clock import now
from launcher.errors import LauncherError, UnavailableError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectExistsError
from ledger.canonical import canonical_json

__all__ = ["Supervisor", "main"]

#: How long a starting supervisor waits for a lock that somebody only looks at.
_LOCK_SECONDS: Final = 5.0
#: How long the remains of an ended command have between TERM and KILL.
_REMAINS_SECONDS: Final = 2.0
#: How long killed processes may take to vanish.
_VANISH_SECONDS: Final = 5.0


class Supervisor:
    """One attempt. ``run`` does all of it and returns the supervisor's own exit code."""

    def __init__(self, spec: StageSpec) -> None:
        self.spec = spec
        self.paths = AttemptPaths(Path(spec.home), spec.run_id, spec.stage, spec.attempt)
        self.store = FilesystemStore(Path(spec.store))
        self.record = own_record()
        self._told_to_stop = False
        self._started_at = now()
        self._began = time.monotonic()

    def run(self) -> int:
        lock = self._take_lock()
        if lock is None or self._is_taken():
            return 0
        wake = self._watch_signals()
        process = self._start_command(lock)
        closed_by = self._await(process, wake)
        exit_code = self._end(process, closed_by)
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
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.005)

    def _is_taken(self) -> bool:
        """Whether this attempt was closed or started before; if not, it is ours from here on."""
        if self.store.exists(self.paths.key("result.json")):
            return True
        try:
            self.store.create(self.paths.key("start.json"), canonical_json(self.record))
        except ObjectExistsError:
            return True
        return False

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

    def _start_command(self, lock: int) -> subprocess.Popen[bytes]:
        log = Path(self.spec.log_path)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                ["bash", "-o", "pipefail", "-c", self.spec.command],
                cwd=self.spec.cwd,
                env=self.spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                process_group=0,
            )
        started = {**self.record, "pid": process.pid, "started": process_start(process.pid)}
        self.paths.command_file.write_bytes(canonical_json(started))
        return process

    # --- while it runs ---

    def _await(self, process: subprocess.Popen[bytes], wake: int) -> str | None:
        """Wait for the command. Returns who closed the attempt before it ended, or None."""
        limit = self.spec.timeout_seconds
        while process.poll() is None:
            if self._told_to_stop:
                return self._close("lost", "its supervisor was told to stop")
            left = None if limit is None else limit - (time.monotonic() - self._began)
            if left is not None and left <= 0:
                return self._close("timeout", f"it ran longer than {limit:g} s and was stopped")
            ready, _, _ = select.select([wake], [], [], left)
            if ready:
                os.read(wake, 4096)
        return None

    def _close(self, closed_by: str, message: str) -> str:
        """Create the result before the first signal; one that is there already says who closed it."""
        try:
            self._create_result(exit_code=None, closed_by=closed_by, message=message)
        except ObjectExistsError:
            return "closed"
        return closed_by

    def _end(self, process: subprocess.Popen[bytes], closed_by: str | None) -> int:
        """End the process group; returns the command's exit code, 128 + n for a signal."""
        grace = self.spec.grace_seconds if closed_by else _REMAINS_SECONDS
        group = process.pid
        _signal_group(group, signal.SIGTERM)
        if not _gone(group, grace, process):
            _signal_group(group, signal.SIGKILL)
            _gone(group, _VANISH_SECONDS, process)
        code = process.wait()
        return 128 - code if code < 0 else code

    # --- after ---

    def _commit(self, exit_code: int, running: float) -> None:
        began = time.monotonic()
        try:
            outputs = collect_outputs(self.spec, self.store)
            self._create_result(
                exit_code=exit_code,
                closed_by=None,
                seconds={"running": running, "collecting": time.monotonic() - began},
                **outputs,
            )
        except ObjectExistsError:
            self._save_closed(running)
        except UnavailableError as exc:
            self._give_up("storage", str(exc), running)
        except LauncherError as exc:
            self._give_up("outputs", str(exc), running)

    def _give_up(self, closed_by: str, message: str, running: float) -> None:
        """Outputs that could not be kept are no success; without even this result it is found as lost."""
        try:
            self._create_result(
                exit_code=None,
                closed_by=closed_by,
                message=message,
                seconds={"running": running, "collecting": 0.0},
            )
        except LauncherError as exc:
            sys.stderr.write(f"no result: {exc}\n")

    def _save_closed(self, running: float) -> None:
        """Keep what a closed attempt saved: its log and checkpoints, never as a result."""
        try:
            saved = collect_checkpoints(self.spec, self.store)
            data = canonical_json({**saved, "seconds": {"running": running}, "saved_at": now()})
            self.store.create(self.paths.key("collected.json"), data)
        except LauncherError as exc:
            sys.stderr.write(f"not saved: {exc}\n")

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


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _gone(group: int, seconds: float, process: subprocess.Popen[bytes]) -> bool:
    """Wait until nobody is left in a process group. True when so."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        process.poll()
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def main() -> int:
    """Read a StageSpec as JSON from standard input and run it."""
    spec = StageSpec.from_json(sys.stdin.buffer.read())
    return Supervisor(spec).run()


if __name__ == "__main__":
    sys.exit(main())
