"""The one home of retrying. Adapters never retry: they make one attempt and raise UnavailableError.

Only UnavailableError is tried again, so an attempt must be safe to repeat: create-only, or a read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from launcher import clock
from launcher.errors import UnavailableError

__all__ = ["ATTEMPTS", "DEADLINE_SECONDS", "retried"]

ATTEMPTS: Final = 4
DEADLINE_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 0.1

T = TypeVar("T")


def retried(
    attempt: Callable[[], T],
    *,
    attempts: int = ATTEMPTS,
    deadline_seconds: float = DEADLINE_SECONDS,
    sleep: Callable[[float], None] = clock.sleep,
) -> T:
    """What ``attempt`` returns, tried up to ``attempts`` times (at least 1) while it is unavailable.

    Waits 0.1 s, then twice as long each time, with jitter; starts no attempt after ``deadline_seconds``.
    Raises the last UnavailableError; any other error at once.
    """
    import tenacity  # here: most runs never retry, and it takes as long to import as a command to start

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(UnavailableError),
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(deadline_seconds),
        wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT_SECONDS)
        + tenacity.wait_random(0, _FIRST_WAIT_SECONDS),
        sleep=sleep,
        reraise=True,
    )
    return retrying(attempt)
