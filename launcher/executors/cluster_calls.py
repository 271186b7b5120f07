"""Calls of a cluster: asked again while it does not answer, their errors ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from k8s.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    CredentialsError,
    JobTakenError,
    K8sError,
)
from launcher.errors import ConflictError, LauncherError, UsageError
from launcher.executors.port import AwayError, AwayRefusedError
from launcher.retry import retried

__all__ = ["asked", "ours", "translated"]

T = TypeVar("T")


def asked(call: Callable[[], T]) -> T:
    """What ``call`` returns, asked again while the API server does not answer."""

    def once() -> T:
        with translated():
            return call()

    return retried(once)


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except K8sError as exc:
        raise ours(exc) from exc


def ours(error: K8sError) -> LauncherError:
    match error:
        case CredentialsError():
            return AwayRefusedError(str(error))
        case ClusterUnavailableError():
            return AwayError(str(error))
        case JobTakenError():
            return ConflictError(
                str(error), "another project with this run id? submit with --run-id"
            )
        case ClusterRefusedError(status=403):
            return UsageError(str(error), "launcher doctor --profile says what may be done")
        case _:
            return UsageError(str(error))
