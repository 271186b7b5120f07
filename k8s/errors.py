"""What can go wrong between a profile and a Job. Each error carries its facts as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ClusterRefusedError",
    "ClusterUnavailableError",
    "CredentialsError",
    "ExpiredError",
    "JobTakenError",
    "K8sError",
    "Problem",
    "ProfileError",
]


class K8sError(Exception):
    """The root of every error that ``k8s`` raises."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of a profile.

    ``path`` as in ``stages.retrain.volumes[0].claim``, empty for the file as a whole; ``line`` from 1, None where
    the file has no such line (what is missing, what a default brought).
    """

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        at = f"{self.path}: " if self.path else ""
        return f"{at}{self.message}" + (f" (line {self.line})" if self.line else "")


class ProfileError(K8sError):
    """A profile cannot be used; nothing was started. ``problems`` are all of them, at least one.

    The message is one line: the file, the first problem, and how many more there are.
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        more = len(problems) - 1
        super().__init__(f"{file}: {problems[0]}" + (f", and {more} more" if more else ""))
        self.file, self.problems = file, tuple(problems)


class ClusterUnavailableError(K8sError):
    """The API server did not answer, or not now; whether what was asked was done is not known. Ask again."""


class CredentialsError(ClusterUnavailableError):
    """The API server refuses what it granted before: a token has expired, or it has just started itself. Ask again."""


class ClusterRefusedError(K8sError):
    """The API server will not do it, and asking again changes nothing. ``status`` is HTTP's, 0 where there is none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ExpiredError(K8sError):
    """A watch asked for what is too old: list again."""


class JobTakenError(K8sError):
    """A Job of our name is there and is not ours; nothing was changed. ``difference`` says how it differs."""

    def __init__(self, name: str, difference: str) -> None:
        super().__init__(f"Job {name} is there already and is another one: {difference}")
        self.name, self.difference = name, difference
