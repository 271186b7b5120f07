"""Whether a result.json and what the ledger recorded of it agree. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.errors import IntegrityError
from launcher.executors.port import StageResult
from launcher.outcomes import result_events
from ledger import events as e
from ledger.decider import RunState, StageState

__all__ = ["result_problem"]


def result_problem(
    state: RunState, stage: str, attempt: int, facts: Sequence[e.EventData], data: bytes
) -> str | None:
    """What is wrong with the bytes of an attempt's result, or None.

    ``facts`` are the events that the ledger has of the attempt's end. Messages are for people and may be
    worded anew by a later version; everything else must be what the result says.
    """
    request, plan = (
        state.request,
        next(s.plan for s in state.stages.values() if s.plan.name == stage),
    )
    if request is None:
        return None
    try:
        result = StageResult.parse(data, "result.json")
    except IntegrityError as exc:
        return exc.message
    said = result_events(request, StageState(plan, "submitted", attempt), result, "")
    for fact in said:
        if _bare(fact) not in [_bare(known) for known in facts]:
            return f"the ledger does not say what it says: {fact.type}"
    if len(said) != len(facts):
        extra = next(known for known in facts if _bare(known) not in [_bare(f) for f in said])
        return f"it does not say what the ledger says: {extra.type}"
    return None


def _bare(fact: e.EventData) -> e.EventData:
    return fact.model_copy(update={"message": ""}) if isinstance(fact, e.StageFailed) else fact
