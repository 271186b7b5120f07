"""Settings: flags first, then LAUNCHER_*, then defaults. No file is read here.

| setting         | environment              | unit    | default                    |
|-----------------|--------------------------|---------|----------------------------|
| home            | LAUNCHER_HOME            | folder  | runs/self_distill          |
| store           | LAUNCHER_STORE           | folder  | <home>/objects             |
| project         | LAUNCHER_PROJECT         | name    | the root folder's name     |
| actor           | LAUNCHER_ACTOR           | name    | user@host                  |
| grace_seconds   | LAUNCHER_GRACE_SECONDS   | seconds | 10, between TERM and KILL  |
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import UsageError

__all__ = ["DEFAULT_HOME", "Settings"]

DEFAULT_HOME: Final = "runs/self_distill"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are and who acts. Relative paths are relative to the project root."""

    home: Path
    store: str | None
    project: str
    actor: str
    grace_seconds: float = 10.0

    @classmethod
    def from_environment(
        cls, env: Mapping[str, str], root: Path, overrides: Mapping[str, str]
    ) -> Settings:
        """The settings of a command called in ``root``. Raises UsageError for a value that cannot be."""
        home = overrides.get("home") or env.get("LAUNCHER_HOME") or DEFAULT_HOME
        store = overrides.get("store") or env.get("LAUNCHER_STORE") or None
        project = env.get("LAUNCHER_PROJECT") or root.name or "project"
        return cls(
            home=Path(_folder("--home" if overrides.get("home") else "LAUNCHER_HOME", home)),
            store=str(root / _folder("LAUNCHER_STORE", store)) if store else None,
            project=_printable("LAUNCHER_PROJECT (default: this folder's name)", project),
            actor=_printable("LAUNCHER_ACTOR", env.get("LAUNCHER_ACTOR") or _who()),
            grace_seconds=_seconds(env.get("LAUNCHER_GRACE_SECONDS")),
        )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _folder(name: str, value: str) -> str:
    scheme, url, _ = value.partition("://")
    if url:
        # Only the scheme is shown: a URL may hold a password.
        shown = scheme if scheme.isalnum() else "a URL"
        raise UsageError(f"{name} is {shown}://…: only a folder is supported by this version")
    if value.startswith("~"):
        raise UsageError(f"{name}={value!r}: no shell expanded the ~", "write the path out")
    return _printable(name, value, most=4096)


def _printable(name: str, value: str, most: int = 200) -> str:
    if len(value) > most or not value.isprintable():
        raise UsageError(f"{name} must be printable text of at most {most} characters")
    return value


def _seconds(text: str | None) -> float:
    if not text:
        return 10.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise UsageError(
            f"LAUNCHER_GRACE_SECONDS={text!r} is not a number of seconds from 0 to 3600"
        )
    return value
