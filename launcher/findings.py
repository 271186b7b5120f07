"""One line of what doctor says, and the exit code of them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.errors import LauncherError, UnavailableError

__all__ = ["Finding", "exit_code", "failed", "ok", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``code`` is the exit code of a failure: 2 wrong set-up, 4 integrity, 5 unavailable."""

    name: str
    state: Literal["ok", "warning", "failed"]
    what: str
    do: str = ""
    code: int = 0


def ok(name: str, what: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", what)


def warning(name: str, what: str, do: str) -> Finding:
    """It works, but somebody should know."""
    return Finding(name, "warning", what, do)


def failed(name: str, what: str, do: str, error: type[LauncherError] = UnavailableError) -> Finding:
    """It does not work."""
    return Finding(name, "failed", what, do, error.exit_code)


def exit_code(findings: list[Finding]) -> int:
    """0 without a failure; else integrity before unavailable before wrong set-up."""
    codes = {finding.code for finding in findings}
    return next((code for code in (4, 5, 2) if code in codes), 0)
