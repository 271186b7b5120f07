from __future__ import annotations

from typing import Any

import pytest

from launcher.pipeline import (
    log_name,
    plan_stages,
    skip_warnings,
    with_infrastructure_retries,
)
from ledger.events import STAGES, StageName, StagePlan

CONFIG = "sha256:" + "0" * 64


def plans(
    commands: dict[StageName, str | None],
    timeout: float | None = None,
    retries: int = 0,
    config: str = CONFIG,
) -> tuple[StagePlan, ...]:
    return plan_stages(commands, dict.fromkeys(STAGES, timeout), {"retrain": retries}, config)


@pytest.mark.parametrize(
    ("stage", "attempt", "name"),
    [
        ("llm_on", 1, "01_llm_on.log"),
        ("llm_off", 1, "04_llm_off.log"),
        ("retrain", 2, "03_retrain.2.log"),
    ],
)
def test_logs_are_numbered_by_stage_and_later_attempts_say_so(
    stage: StageName, attempt: int, name: str
) -> None:
    assert log_name(stage, attempt) == name


@pytest.mark.parametrize("command", [None, "", "  \n"])
def test_every_stage_is_planned_in_order_and_one_without_a_command_has_none(
    command: str | None,
) -> None:
    made = plans({"retrain": " run \n", "llm_on": command}, timeout=2.5, retries=3)
    assert [p.name for p in made] == list(STAGES)
    assert [p.command for p in made] == [None, None, " run \n", None]
    assert (made[2].timeout_seconds, made[2].retries, made[1].retries) == (2.5, 3, 0)


def test_a_spec_digest_names_what_decides_a_stage() -> None:
    def digest(**changed: Any) -> str:
        given: dict[str, Any] = {"commands": {"retrain": "x"}, **changed}
        return plans(**given)[2].spec_digest

    assert digest() == digest()
    different = [
        digest(),
        digest(commands={"retrain": "x "}),
        digest(commands={}),
        digest(timeout=1.0),
        digest(retries=1),
        digest(config="sha256:" + "1" * 64),
        plans({"llm_off": "x"})[3].spec_digest,
    ]
    assert len(set(different)) == len(different)
    assert all(len(d) == 71 and d.startswith("sha256:") for d in different)


def test_a_skipped_stage_is_warned_of_except_the_optional_one() -> None:
    assert skip_warnings(plans({"llm_on": "x", "retrain": "y"})) == [
        "RELABEL_CMD is absent: relabel will be skipped"
    ]


def test_a_profile_s_infrastructure_retries_go_into_the_plan() -> None:
    given = plans({"llm_on": "a", "retrain": "b"})
    told = with_infrastructure_retries(given, {"retrain": 0, "llm_on": None})
    assert [plan.infrastructure_retries for plan in told] == [None, None, 0, None]
    # They decide nothing of how a stage behaves.
    assert [plan.spec_digest for plan in told] == [plan.spec_digest for plan in given]
