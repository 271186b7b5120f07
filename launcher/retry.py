"""The one home of retrying. Adapters never retry: they make one attempt and raise UnavailableError.

Only what was unavailable is tried again, so an attempt must be safe to repeat: create-only, or a read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from launcher import clock
from launcher.errors import UnavailableError

if TYPE_CHECKING:
    import tenacity

__all__ = ["ATTEMPTS", "DEADLINE_SECONDS", "outlasted", "retried"]

ATTEMPTS: Final = 4
DEADLINE_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 0.1
#: The longest wait while a store is away for long.
_LONGEST_WAIT_SECONDS: Final = 30.0

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


def outlasted(
    step: Callable[[], T],
    *,
    seconds: float,
    is_passing: Callable[[BaseException], bool],
    before_wait: Callable[[BaseException], None],
    sleep: Callable[[float], None] = clock.sleep,
    longest_seconds: float = _LONGEST_WAIT_SECONDS,
) -> T:
    """What ``step`` returns, tried again for ``seconds`` while what it raises ``is_passing``.

    For a store that is away for minutes; waits up to ``longest_seconds`` between. ``before_wait`` hears of each
    error and may raise to end it. Raises the last error.
    """
    try:
        return step()
    except BaseException as exc:
        if seconds <= 0 or not is_passing(exc):
            raise
        before_wait(exc)
    import tenacity

    def told(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            before_wait(error)

    sleep(1.0)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        stop=tenacity.stop_before_delay(seconds),
        wait=tenacity.wait_exponential(multiplier=2, max=longest_seconds)
        + tenacity.wait_random(0, 1),
        sleep=sleep,
        before_sleep=told,
        reraise=True,
    )
    return retrying(step)
