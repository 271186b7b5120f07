"""Which attempt a watch counts for that broke: each for one alone, however often an attempt is looked at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from launcher.agent.protocol import AttemptPaths
from launcher.executors.accounting import Accounts
from launcher.executors.port import StageResult
from tests.k8s.profiles import LEAST, read

_NOW = datetime(2026, 11, 30, tzinfo=UTC)
_PROFILE = read(LEAST).stages["retrain"]


def attempt(number: int, run_id: str = "r") -> AttemptPaths:
    return AttemptPaths(Path("/home"), run_id, "retrain", number)


def restarts(accounts: Accounts, of: AttemptPaths) -> int:
    return accounts.counted(of, StageResult(1, None), _PROFILE, _NOW).watch_restarts


def test_what_broke_while_an_attempt_was_looked_at_is_its_own() -> None:
    accounts = Accounts()
    assert restarts(accounts, attempt(1)) == 0
    for seen in (0, 3, 3, 4):
        accounts.watched(attempt(1), seen)
    assert restarts(accounts, attempt(1)) == restarts(accounts, attempt(1)) == 4


def test_what_broke_between_two_attempts_is_the_later_one_s() -> None:
    accounts = Accounts()
    for number, seen in ((1, 3), (2, 5), (2, 6), (3, 6)):
        accounts.watched(attempt(number), seen)
    assert [restarts(accounts, attempt(number)) for number in (1, 2, 3)] == [3, 3, 0]


def test_runs_are_watched_apart_and_anew() -> None:
    accounts = Accounts()
    accounts.watched(attempt(1), 3)
    accounts.watched(attempt(1, "other"), 1)
    assert restarts(accounts, attempt(1, "other")) == 1
    accounts.watched(attempt(1), 2)  # its watches were closed, and there are new ones
    assert restarts(accounts, attempt(1)) == 5
