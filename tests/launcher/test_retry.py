"""Trying again: what is, how often, how long."""

from __future__ import annotations

import pytest

from launcher.errors import IntegrityError, UnavailableError
from launcher.retry import outlasted, retried


class Flaky:
    """Fails with each error in turn, then answers how often it was asked."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), 0

    def __call__(self) -> int:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.asked


def test_an_answer_is_not_waited_for() -> None:
    waits: list[float] = []
    assert retried(Flaky(), sleep=waits.append) == 1
    assert waits == []


def test_it_waits_longer_each_time() -> None:
    waits: list[float] = []
    flaky = Flaky(*(UnavailableError(str(n)) for n in range(3)))
    assert retried(flaky, sleep=waits.append) == 4
    assert [0.1 * 2**n <= wait <= 0.1 * 2**n + 0.1 for n, wait in enumerate(waits)] == [True] * 3


def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    flaky = Flaky(*(UnavailableError(str(n)) for n in range(9)))
    with pytest.raises(UnavailableError, match="2"):
        retried(flaky, attempts=3, sleep=lambda _: None)
    assert flaky.asked == 3


def test_no_attempt_is_begun_after_the_deadline() -> None:
    flaky = Flaky(*(UnavailableError(str(n)) for n in range(9)))
    with pytest.raises(UnavailableError, match="0"):
        retried(flaky, deadline_seconds=0.0, sleep=lambda _: None)
    assert flaky.asked == 1


def test_other_errors_are_raised_at_once() -> None:
    flaky = Flaky(IntegrityError("damaged"))
    with pytest.raises(IntegrityError):
        retried(flaky, sleep=lambda _: None)
    assert flaky.asked == 1


# --- outlasting -----------------------------------------------------------------------------------


def passing(error: BaseException) -> bool:
    return isinstance(error, UnavailableError)


def test_what_passes_is_outlasted_with_waits_that_grow_to_half_a_minute() -> None:
    waits: list[float] = []
    heard: list[str] = []
    flaky = Flaky(*(UnavailableError(str(n)) for n in range(9)))
    answer = outlasted(
        flaky,
        seconds=3600,
        is_passing=passing,
        before_wait=lambda error: heard.append(str(error)),
        sleep=waits.append,
    )
    assert answer == 10
    assert heard == [str(n) for n in range(9)]
    assert waits == sorted(waits[:5]) + waits[5:]
    assert all(30 <= wait <= 31 for wait in waits[-3:])


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_what_does_not_pass_is_raised_at_once(seconds: float) -> None:
    flaky = Flaky(IntegrityError("damaged"))
    with pytest.raises(IntegrityError):
        outlasted(
            flaky, seconds=seconds, is_passing=passing, before_wait=print, sleep=lambda _: None
        )
    assert flaky.asked == 1


def test_without_patience_nothing_is_tried_again_and_nobody_hears_of_it() -> None:
    flaky, heard = Flaky(UnavailableError("away")), list[BaseException]()
    with pytest.raises(UnavailableError):
        outlasted(flaky, seconds=0, is_passing=passing, before_wait=heard.append)
    assert (flaky.asked, heard) == (1, [])


def test_whoever_hears_of_it_may_end_it() -> None:
    def leave(error: BaseException) -> None:
        raise KeyboardInterrupt from error

    flaky = Flaky(*(UnavailableError(str(n)) for n in range(9)))
    with pytest.raises(KeyboardInterrupt):
        outlasted(flaky, seconds=60, is_passing=passing, before_wait=leave, sleep=lambda _: None)
    assert flaky.asked == 1
