"""What a result must say of an attempt, and what it cannot: the cluster's own account of it."""

from __future__ import annotations

from typing import Literal

import pytest

from launcher.audit.results import result_problem
from launcher.executors.port import StageResult
from launcher.outcomes import result_events
from ledger import events as e
from ledger.canonical import canonical_json
from ledger.run_state import StageState
from tests.launcher.run_samples import DIGEST, RUN, journal, plan, request

_ACCOUNT = {
    "seconds": e.StageSeconds(queued=1, scheduled=2, pulling=3, running=4, collecting=5),
    "gpus": 1,
    "held": e.ResourceSeconds(gpus={"nvidia.com/gpu": 9}, cpu=9, memory=9),
    "watch_restarts": 3,
}


def problem(
    executor: Literal["local", "kubernetes"], exit_code: int, changed: dict[str, object]
) -> str | None:
    """Of a result, and facts that say the same but for ``changed`` in the one that ends the attempt."""
    asked = request(plan("retrain")).model_copy(update={"executor": executor})
    manifest = DIGEST if exit_code == 0 else None
    data = canonical_json({"exit_code": exit_code, "closed_by": None, "manifest_digest": manifest})
    result = StageResult.parse(data, "result.json")
    end, *others = result_events(asked, StageState(plan("retrain"), "submitted", 1), result, "")
    facts = [end.model_copy(update=changed), *others]
    return result_problem(journal(asked).run(RUN), "retrain", 1, facts, data)


@pytest.mark.parametrize("exit_code", [0, 7])
def test_what_a_job_waited_and_held_is_the_cluster_s_word(exit_code: int) -> None:
    assert problem("kubernetes", exit_code, _ACCOUNT) is None
    assert problem("local", exit_code, {}) is None
    assert problem("local", exit_code, _ACCOUNT) is not None
    assert problem("local", exit_code, {"watch_restarts": 1}) is not None
    for executor in ("local", "kubernetes"):
        assert problem(executor, exit_code, {"watch_restarts": None}) is None  # an older event


@pytest.mark.parametrize("executor", ["local", "kubernetes"])
def test_the_log_of_a_closed_attempt_may_be_kept_after_its_result(
    executor: Literal["local", "kubernetes"],
) -> None:
    asked = request(plan("retrain")).model_copy(update={"executor": executor})
    data = canonical_json({"exit_code": None, "closed_by": "cancelled", "message": "m"})
    result = StageResult.parse(data, "result.json")
    [end] = result_events(asked, StageState(plan("retrain"), "submitted", 1), result, "")
    measured = end.model_copy(update={"log_digest": DIGEST, "seconds": e.StageSeconds(running=7.5)})

    def said(fact: e.EventData, kept_log: str | None) -> str | None:
        state = journal(asked).run(RUN)
        return result_problem(state, "retrain", 1, [fact], data, kept_log)

    assert said(measured, DIGEST) is None
    assert said(end, DIGEST) is None  # it was recorded before there was a log
    assert said(end, None) is None
    assert said(measured, None) is not None
    assert said(measured, "sha256:" + "1" * 64) is not None


def test_all_else_must_be_the_same_on_a_cluster_too() -> None:
    other = "sha256:" + "1" * 64
    assert problem("kubernetes", 0, {**_ACCOUNT, "log_digest": other}) is not None
    assert problem("kubernetes", 7, {**_ACCOUNT, "exit_code": 8}) is not None
    assert problem("kubernetes", 7, {**_ACCOUNT, "cause": "lost"}) is not None
