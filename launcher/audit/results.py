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
    state: RunState,
    stage: str,
    attempt: int,
    facts: Sequence[e.EventData],
    data: bytes,
    kept_log: str | None = None,
) -> str | None:
    """What is wrong with the bytes of an attempt's result, or None.

    ``facts`` are the events that the ledger has of the attempt's end. Messages are for people and may be
    worded anew by a later version; where a Job's time went, what it held and how many watches broke, no result has:
    that is the cluster's word. ``kept_log`` is the log that was kept of an attempt after somebody had closed it: the
    ledger names it, where it was there by then, and has the time that was measured with it. Everything else must be
    what the result says.
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
    jobs = request.executor == "kubernetes"
    later = kept_log if result.closed_by is not None and result.log_digest is None else None
    told, known = ([_bare(fact, jobs, later) for fact in some] for some in (said, facts))
    for fact in told:
        if fact not in known:
            return f"the ledger does not say what it says: {fact.type}"
    if len(told) != len(known):
        extra = next(fact for fact in known if fact not in told)
        return f"it does not say what the ledger says: {extra.type}"
    return None


def _bare(fact: e.EventData, jobs: bool, later: str | None) -> e.EventData:
    """``fact`` without what a result need not say."""
    if isinstance(fact, e.StageFailed):
        fact = fact.model_copy(update={"message": ""})
    if later is not None and isinstance(fact, e.StageFailed) and fact.log_digest in (None, later):
        fact = fact.model_copy(update={"log_digest": None, "seconds": e.StageSeconds()})
    if jobs and isinstance(fact, e.StageFailed | e.StageSucceeded):
        fact = fact.model_copy(update={"seconds": e.StageSeconds(), "gpus": 0, "held": None})
    if isinstance(fact, e.StageFailed | e.StageSucceeded):
        # Of a stage on a machine an older event says nothing, a newer one 0.
        broken = None if jobs else fact.watch_restarts or None
        fact = fact.model_copy(update={"watch_restarts": broken})
    return fact
