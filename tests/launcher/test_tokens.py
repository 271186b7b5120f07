from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.tokens import OWN_NAMES, TOKEN_NAMES, stage_environment, substitute, tokens_in

VALUES = {
    "RUN_ID": "r1",
    "RUN_DIR": "/p/{STAGE}/r1",
    "STAGE": "retrain",
    "STUDENT_CHECKPOINT": None,
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{RUN_ID}", "r1"),
        ("a{RUN_ID}b{RUN_ID}", "ar1br1"),
        ("{{RUN_ID}}", "{r1}"),
        ("${RUN_ID} ${RUN_ID:-x} $RUN_ID", "${RUN_ID} ${RUN_ID:-x} $RUN_ID"),
        ("{RUN_DIR}", "/p/{STAGE}/r1"),
        ("{FOO} {run_id} { RUN_ID } {RUN_ID:-x} {}", "{FOO} {run_id} { RUN_ID } {RUN_ID:-x} {}"),
        ("{STUDENT_CHECKPOINT}", "{STUDENT_CHECKPOINT}"),
        ("awk '{print $1}' && echo {RUN_ID,STAGE}", "awk '{print $1}' && echo {RUN_ID,STAGE}"),
    ],
)
def test_our_names_are_replaced_once_and_nothing_else(text: str, result: str) -> None:
    assert substitute(text, VALUES) == result


@given(st.text(), st.dictionaries(st.sampled_from(["FOO", "PATH", "HOME"]), st.text()))
def test_names_that_are_not_ours_are_never_replaced(text: str, values: dict[str, str]) -> None:
    assert substitute(text, values) == text


@given(st.text(st.sampled_from("${}RUN_ID x")))
def test_without_a_token_a_text_stays(text: str) -> None:
    found = "RUN_ID" in tokens_in(text)
    assert (substitute(text, {"RUN_ID": "*"}) != text) == found


def test_a_stage_sees_the_launchers_environment_under_the_config_under_our_names() -> None:
    base = {"PATH": "/bin", "EPOCHS": "1", "RUN_ID": "stale", "STUDENT_CHECKPOINT": "stale"}
    config = {
        "EPOCHS": "5",
        "OUT": "{RUN_DIR}/x",
        "TEACHER_SCORECARD": "card.json",
        "LD_PRELOAD": "x",
    }
    own = {
        "RUN_ID": "r1",
        "RUN_DIR": "/r",
        "STUDENT_CHECKPOINT": None,
        "TEACHER_SCORECARD": "/p/card.json",
    }
    before = (dict(base), dict(config))
    assert stage_environment(base, config, own) == {
        "PATH": "/bin",
        "EPOCHS": "5",
        "OUT": "/r/x",
        "TEACHER_SCORECARD": "/p/card.json",
        "LD_PRELOAD": "x",
        "RUN_ID": "r1",
        "RUN_DIR": "/r",
    }
    assert (base, config) == before


def test_the_users_own_three_are_tokens_and_theirs_to_set() -> None:
    theirs = {"TEACHER_CHECKPOINT", "TEACHER_SCORECARD", "RELABEL_TAG_FILE"}
    assert set(TOKEN_NAMES) - set(OWN_NAMES) == theirs
    assert stage_environment({}, {"RELABEL_TAG_FILE": "x"}, {"RELABEL_TAG_FILE": None}) == {
        "RELABEL_TAG_FILE": "x"
    }
