"""Trying again: what is, how often, how long."""

from __future__ import annotations

import pytest

from launcher.errors import IntegrityError, UnavailableError
from launcher.retry import retried


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
