from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from k8s.names import (
    Attempt,
    difference,
    job_annotations,
    job_labels,
    job_name,
    label_value,
    selector,
)
from ledger.events import STAGES

DIGEST = "sha256:" + "5" * 64
ONE = Attempt("robots", "20261125T091500Z-ab12", "retrain", 1, DIGEST)
#: RFC 1123, as Kubernetes has it.
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


attempts = st.builds(
    Attempt,
    project=st.text(max_size=80),
    run_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    stage=st.sampled_from(STAGES),
    attempt=st.integers(1, 10**6),
    spec_digest=st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
)


@given(attempts)
def test_a_job_and_its_pods_have_names_that_kubernetes_takes_whole(attempt: Attempt) -> None:
    name = job_name(attempt)
    assert DNS_LABEL.fullmatch(name)
    assert len(f"{name}-x8k2p") <= 63
    assert job_name(attempt) == name


@given(attempts, attempts)
def test_another_attempt_has_another_name(one: Attempt, other: Attempt) -> None:
    assume(replace(one, project="") != replace(other, project=""))
    assert job_name(one) != job_name(other)


def test_a_name_can_be_read() -> None:
    """And never changes: a Job of before an upgrade must be found after it."""
    assert job_name(ONE) == "20261125t091500z-ab12-retrain-1-5a2734f3f5a9"


@pytest.mark.parametrize(
    "change",
    [{"run_id": "other"}, {"stage": "llm_on"}, {"attempt": 2}, {"spec_digest": DIGEST[:-1] + "6"}],
)
def test_each_part_counts(change: dict[str, object]) -> None:
    assert job_name(replace(ONE, **change)) != job_name(ONE)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_a_label_may_have_any_text(text: str) -> None:
    value = label_value(text)
    assert LABEL_VALUE.fullmatch(value)
    assert len(value) <= 63


@given(st.text(max_size=200), st.text(max_size=200))
def test_two_texts_are_two_labels(one: str, other: str) -> None:
    assume(one != other)
    assert label_value(one) != label_value(other)


@pytest.mark.parametrize("text", ["", "a", "20261125T091500Z-ab12", "A.b_c-9", "x" * 63])
def test_what_can_be_a_label_is_one_as_it_is(text: str) -> None:
    assert label_value(text) == text


@pytest.mark.parametrize("text", ["x" * 64, "ends-", "ends.", "two words", "ünder", "---"])
def test_what_cannot_is_told_apart(text: str) -> None:
    assert label_value(text) != text


@given(attempts)
def test_labels_are_values_and_the_selector_selects_them(attempt: Attempt) -> None:
    made = job_labels(attempt, llm="on")
    assert all(LABEL_VALUE.fullmatch(value) and len(value) <= 63 for value in made.values())
    wanted = dict(part.split("=") for part in selector(attempt.project, attempt.run_id).split(","))
    assert wanted.items() <= made.items()


@given(attempts, attempts)
def test_a_job_is_this_attempts_or_is_said_not_to_be(one: Attempt, other: Attempt) -> None:
    job = {"metadata": {"annotations": job_annotations(one)}}
    assert difference(job, one) is None
    assert (difference(job, other) is None) == (one == other)


def test_a_job_that_is_not_ours_is_told_by_what_it_says() -> None:
    job = {"metadata": {"annotations": job_annotations(replace(ONE, attempt=2))}}
    assert difference(job, ONE) == "its attempt is 2, not 1"
    assert difference({"metadata": {}}, ONE) == "it has no project"
    assert difference({}, ONE) == "it has no project"
