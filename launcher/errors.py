"""The errors that a user meets: one line each, with an exit code.

Exit codes: 2 wrong use or input; 3 a lost race, conflict or hold; 4 integrity; 5 unavailable (the same
command can be run again). A stage's own code, 70 and 130 are outcomes, not errors.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConflictError",
    "IntegrityError",
    "LauncherError",
    "UnavailableError",
    "UsageError",
]


class LauncherError(Exception):
    """The root: ``message`` says what and where, ``hint`` what to do next (it may be empty)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message + (f" ({hint})" if hint else ""))
        self.message, self.hint = message, hint


class UsageError(LauncherError):
    """Wrong use or input; nothing was started and nothing is lost."""

    exit_code = 2


class ConflictError(LauncherError):
    """A race was lost, or the state or a hold forbids it."""

    exit_code = 3


class IntegrityError(LauncherError):
    """Stored bytes are not what they should be."""

    exit_code = 4


class UnavailableError(LauncherError):
    """A disk, lock or service did not answer or is full; the same command can be run again."""

    exit_code = 5
