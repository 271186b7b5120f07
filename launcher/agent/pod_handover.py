"""The handover folder as the collector sees it; ``k8s.wrapper`` has the table of what crosses it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from launcher import clock

__all__ = ["Exit", "Handover"]


@dataclass(frozen=True, slots=True)
class Exit:
    """How the command ended: ``ended`` is command, terminated, stopped or unstarted."""

    code: int | None
    oom_kills: int
    ended: str


@dataclass(frozen=True, slots=True)
class Handover:
    """Files of one folder, which the wrapper shares; all of them appear whole."""

    folder: Path

    def exit(self) -> Exit | None:
        """What the wrapper handed over; None where it has not, or what is there is not from it."""
        try:
            raw = json.loads((self.folder / "exit.json").read_bytes())
            code = raw["exit_code"]
            kills, ended = int(raw["oom_kills"]), str(raw["ended"])
            return Exit(None if code is None else int(code), kills, ended)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def has(self, name: str) -> bool:
        """Whether ``started``, ``terminating``, ``stop`` or ``collected`` is there."""
        return (self.folder / name).exists()

    def say(self, name: str, word: str) -> None:
        """Make ``stop`` or ``collected``, whole; one that is there is replaced."""
        part = self.folder / f"{name}.part"
        part.write_text(f"{word}\n")
        part.replace(self.folder / name)

    def started_at(self) -> str | None:
        """When the command began, RFC 3339."""
        moment = self._moment("started")
        if moment is None:
            return None
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def seconds_since_start(self) -> float:
        """How long ago the command began; 0 before."""
        began = self._moment("started")
        moment = clock.parse_time(clock.now()).timestamp()
        return max(0.0, moment - began) if began is not None else 0.0

    def running_seconds(self) -> float:
        """How long the command ran, by the times of two files."""
        began, ended = self._moment("started"), self._moment("exit.json")
        return max(0.0, ended - began) if began is not None and ended is not None else 0.0

    def _moment(self, name: str) -> float | None:
        try:
            return (self.folder / name).stat().st_mtime
        except OSError:
            return None
