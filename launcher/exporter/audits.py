"""Audits from time to time, beside the pages: each is ``launcher audit --json`` in a process of its own.

Rules:

1. It is the same audit: what it finds is what a person who types it then sees.
2. Nobody waits for one: a scrape tells of the last that ended, and one that runs is stopped when the exporter ends.
3. What it says is of this process alone. Nothing is written; an exporter that starts audits at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from launcher import clock
from launcher.errors import IntegrityError

__all__ = ["Audited", "Audits"]

_SAYS_WHAT_IT_FOUND: Final = (0, IntegrityError.exit_code)


@dataclass(frozen=True, slots=True)
class Audited:
    """An audit that came to its end: findings by check (0 where all is well), its end (Unix time), how long it took."""

    findings: Mapping[str, int]
    ended: float
    seconds: float


class Audits:
    """One after the other, ``every_seconds`` from the end of one to the next. ``arguments`` are those of ``audit``."""

    def __init__(self, every_seconds: float, arguments: Sequence[str]) -> None:
        self._every = every_seconds
        self._command = (
            sys.executable,
            "-m",
            "launcher.cli.main",
            "audit",
            "--json",
            *arguments,
        )
        #: The last one that came to its end; None before.
        self.last: Audited | None = None
        #: Why the last try did not; empty where it did, None before the first.
        self.error: str | None = None
        self._ending, self._process_lock = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def start(self) -> None:
        """The first one begins now."""
        self._thread.start()

    def end(self) -> None:
        """Stop: one that runs is killed, which harms nothing, since it only reads."""
        self._ending.set()
        with self._process_lock:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._ending.is_set():
            self._once()
            self._ending.wait(self._every)

    def _once(self) -> None:
        began = time.monotonic()
        try:
            code, out, err = self._run()
            if code not in _SAYS_WHAT_IT_FOUND:
                raise ValueError(err.decode("utf-8", "replace").strip() or f"exit code {code}")
            checks = json.loads(out)["checks"]
            findings = {str(one["name"]): len(one["problems"]) for one in checks}
        except (OSError, ValueError, KeyError, TypeError) as exc:
            # One that the end of the exporter killed says nothing.
            self.error = self.error if self._ending.is_set() else str(exc)
        else:
            ended = clock.parse_time(clock.now()).timestamp()
            self.last, self.error = Audited(findings, ended, time.monotonic() - began), ""

    def _run(self) -> tuple[int, bytes, bytes]:
        with self._process_lock:
            if self._ending.is_set():
                raise ValueError("the exporter ends")
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        out, err = process.communicate()
        return process.returncode, out, err
