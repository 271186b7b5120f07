"""When a stage that waits on a cluster is given up, without one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k8s.outcome import Outcome
from k8s.profile_text import parse_profile
from launcher.executors.kubernetes import KubernetesExecutor
from launcher.storage.filesystem import FilesystemStore

_PROFILE = "agent: {{image: a:1}}\nstore: {{claim: s}}\ndefaults: {{image: i:1, {more}}}\n"
_LIMIT = "pending_deadline_seconds: 60"


def nowhere() -> object:
    raise AssertionError("no cluster is asked")


@pytest.mark.parametrize(
    ("state", "cause", "certain", "seconds", "more", "said"),
    [
        ("image_error", "image", False, 290, "", None),
        ("image_error", "image", False, 310, "", "for 300 s why"),
        ("image_error", "image", True, 50, "", None),
        ("image_error", "image", True, 70, "", "why"),
        ("image_error", "image", False, 70, _LIMIT, "it waited longer than 60 s: why"),
        ("unschedulable", "unschedulable", False, 10**6, "", None),
        ("unschedulable", "unschedulable", False, 70, _LIMIT, "it waited longer than 60 s: why"),
        ("blocked", "unschedulable", True, 70, "", "why"),
        ("unreachable", "lost", False, 10**6, _LIMIT, None),
        ("running", None, False, 10**6, _LIMIT, None),
    ],
)  # fmt: skip
def test_what_cannot_come_is_given_up_and_the_rest_as_the_profile_says(
    tmp_path: Path,
    state: str,
    cause: str | None,
    certain: bool,
    seconds: int,
    more: str,
    said: str | None,
) -> None:
    profile = parse_profile(_PROFILE.format(more=more or "llm: on"), "p.yaml")
    executor = KubernetesExecutor(
        FilesystemStore(tmp_path),
        tmp_path,
        project="p",
        profile=profile,
        connect=nowhere,  # type: ignore[arg-type]
    )
    since = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    seen = Outcome(state, "why", since, cause, certain)  # type: ignore[arg-type]
    assert executor._given_up(seen, "retrain") == ((cause, said) if said else None)
