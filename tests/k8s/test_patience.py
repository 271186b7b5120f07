"""When a stage that waits on a cluster is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from k8s.outcome import Outcome
from k8s.patience import given_up

_NOW = datetime(2026, 2, 1, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "cause", "certain", "seconds", "limit", "said"),
    [
        ("image_error", "image", False, 290, None, None),
        ("image_error", "image", False, 310, None, "for 300 s why"),
        ("image_error", "image", True, 50, None, None),
        ("image_error", "image", True, 70, None, "why"),
        ("image_error", "image", False, 70, 60, "it waited longer than 60 s: why"),
        ("unschedulable", "unschedulable", False, 10**6, None, None),
        ("unschedulable", "unschedulable", False, 70, 60, "it waited longer than 60 s: why"),
        ("blocked", "unschedulable", True, 70, None, "why"),
        ("unreachable", "lost", False, 10**6, 60, None),
        ("running", None, False, 10**6, 60, None),
    ],
)  # fmt: skip
def test_what_cannot_come_is_given_up_and_the_rest_as_the_profile_says(
    state: str, cause: str | None, certain: bool, seconds: int, limit: int | None, said: str | None
) -> None:
    since = (_NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    seen = Outcome(state, "why", since, cause, certain)  # type: ignore[arg-type]
    assert given_up(seen, limit, _NOW) == ((cause, said) if said else None)


def test_what_nobody_said_the_beginning_of_has_not_waited() -> None:
    seen = Outcome("unschedulable", "why", None, "unschedulable", True)
    assert given_up(seen, 0, _NOW) is None
