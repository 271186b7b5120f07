"""The run decider: its tables are the law, and nothing it lets through can fail to be read again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import decider as d
from ledger import events as e
from ledger.errors import IllegalTransitionError
from ledger.identity import identify
from ledger.run_state import SETTLED_WELL

STREAM = "run/r"
DIGEST = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


def plan(stage: e.StageName, retries: int = 0) -> e.StagePlan:
    return e.StagePlan(name=stage, command="true", spec_digest=DIGEST, retries=retries)


def requested(retries: int = 0, infrastructure_retries: int = 2) -> e.RunRequested:
    return e.RunRequested(
        run_id="r",
        project="p",
        project_root="/p",
        output_root="runs",
        config=e.ConfigRef(path="c.env", digest=DIGEST),
        stages=tuple(plan(stage, retries) for stage in e.STAGES),
        infrastructure_retries=infrastructure_retries,
        provenance=e.Provenance(launcher_version="0.1.0"),
    )


class Ledger:
    """A stream in memory: decide, give it ids and versions as a store does, evolve."""

    def __init__(self, *events: e.EventData) -> None:
        self.state = d.RunState(STREAM)
        self.types: list[str] = []
        self.say(*events)

    def say(self, *events: e.EventData) -> list[e.EventData]:
        wanted = d.decide(self.state, *events)
        for data in wanted:
            self.state = d.evolve(self.state, record(self.state, data))
            self.types.append(data.type)
        return wanted


def record(state: d.RunState, data: e.EventData) -> e.Recorded[Any]:
    version = state.version + 1
    new = identify(state.stream, data)
    time = f"2026-01-31T02:00:00.{version:06d}Z"
    return e.Recorded(
        version + 40, new.id, data.type, 1, state.stream, version, time, "ana", new.data
    )


def intended(stage: e.StageName = "llm_on", attempt: int = 1) -> e.StageIntended:
    return e.StageIntended(stage=stage, attempt=attempt, executor="local", spec_digest=DIGEST)


def submitted(stage: e.StageName = "llm_on", attempt: int = 1) -> e.StageSubmitted:
    return e.StageSubmitted(stage=stage, attempt=attempt, handle=e.Handle(pid=7), log="l.log")


def started(
    stage: e.StageName = "llm_on", attempt: int = 1, pod: str | None = None
) -> e.StageStarted:
    return e.StageStarted(stage=stage, attempt=attempt, node="n", pod_uid=pod)


def succeeded(stage: e.StageName = "llm_on", attempt: int = 1) -> e.StageSucceeded:
    return e.StageSucceeded(stage=stage, attempt=attempt, manifest_digest=DIGEST, log_digest=DIGEST)


def failed(
    stage: e.StageName = "llm_on", attempt: int = 1, cause: e.Cause = "application"
) -> e.StageFailed:
    code = 1 if cause == "application" else None
    return e.StageFailed(stage=stage, attempt=attempt, exit_code=code, cause=cause, message="m")


def skipped(stage: e.StageName = "llm_on") -> e.StageSkipped:
    return e.StageSkipped(stage=stage, reason="no command")


def reused(stage: e.StageName = "llm_on") -> e.StageReused:
    return e.StageReused(stage=stage, of_run="before", attempt=1, manifest_digest=DIGEST)


def checkpoint(stage: e.StageName = "retrain", digest: str = DIGEST) -> e.CheckpointRecorded:
    return e.CheckpointRecorded(
        path="c.pt", digest=digest, size_bytes=1, format="pt", stage=stage, attempt=1, student=True
    )


def metrics(stage: e.StageName = "llm_off") -> e.MetricsRecorded:
    return e.MetricsRecorded(stage=stage, attempt=1, metrics={"success_rate": 0.5})


def emitted() -> e.RelabelTagsEmitted:
    return e.RelabelTagsEmitted(tag_file="tags.jsonl", digest=DIGEST)


def validated(follows: str, counts: int = 1) -> e.RelabelTagsValidated:
    return e.RelabelTagsValidated(
        tag_file="tags.jsonl", digest=DIGEST, counts={"tags": counts}, follows=follows
    )


def rejected(follows: str) -> e.RelabelTagsRejected:
    return e.RelabelTagsRejected(
        tag_file="tags.jsonl", digest=DIGEST, errors=("line 1",), follows=follows
    )


def reopened(follows: str) -> e.RelabelTagsReopened:
    return e.RelabelTagsReopened(tag_file="tags.jsonl", digest=DIGEST, follows=follows)


def whole(stage: e.StageName, attempt: int = 1) -> list[e.EventData]:
    return [intended(stage, attempt), submitted(stage, attempt), started(stage, attempt)]


def done(*stages: e.StageName) -> list[e.EventData]:
    return [event for stage in stages for event in (*whole(stage), succeeded(stage))]


# --- every pair of state and event -------------------------------------------------------------

#: A way into each state of a stage.
INTO_STAGE: dict[str, list[e.EventData]] = {
    "pending": [],
    "intended": [intended()],
    "submitted": [intended(), submitted()],
    "running": whole("llm_on"),
    "succeeded": [*whole("llm_on"), succeeded()],
    "failed": [*whole("llm_on"), failed()],
    "skipped": [skipped()],
    "reused": [reused()],
}
INTO_RUN: dict[str, list[e.EventData]] = {
    "unknown": [],
    "open": [requested()],
    "succeeded": [requested(), *map(skipped, e.STAGES), e.RunSucceeded()],
    "failed": [
        requested(),
        *INTO_STAGE["failed"],
        e.RunFailed(stage="llm_on", exit_code=1, cause="application", reason="m"),
    ],
    "cancelled": [requested(), e.RunCancelled(stage=None, reason="Ctrl-C")],
}


def stage_events(state: d.RunState) -> list[e.EventData]:
    """One of each stage event, at the attempt that would fit."""
    stage = state.stages.get("llm_on")
    attempt = max(stage.attempt, 1) if stage else 1
    return [
        intended(attempt=(stage.attempt if stage else 0) + 1),
        submitted(attempt=attempt),
        started(attempt=attempt, pod="another"),
        succeeded(attempt=attempt),
        failed(attempt=attempt),
        skipped(),
        reused(),
    ]


def move(state: d.RunState, data: e.EventData) -> d.RunState | None:
    """The state after ``data``, or None where it is refused and nothing has changed."""
    before = copy.deepcopy(state)
    refused: IllegalTransitionError | None = None
    moved: d.RunState | None = None
    try:
        moved = d.evolve(state, record(state, data))
    except IllegalTransitionError as exc:
        refused = exc
    assert state == before
    if refused is not None:
        assert (refused.stream, refused.event) == (STREAM, data.type)
        assert str(refused).startswith(f"{STREAM}: {data.type} is not possible while ")
    return moved


@pytest.mark.parametrize("status", INTO_STAGE)
def test_a_stage_moves_as_its_table_says_and_in_no_other_way(status: str) -> None:
    state = Ledger(requested(), *INTO_STAGE[status]).state
    assert state.stages["llm_on"].status == status
    seen = set()
    for data in stage_events(state):
        seen.add(data.type)
        moved = move(state, data)
        legal = {(s, t): to for (s, t), to in d.STAGE_TRANSITIONS.items() if s == status}
        assert (moved.stages["llm_on"].status if moved else None) == legal.get((status, data.type))
    assert seen == {event for _, event in d.STAGE_TRANSITIONS}


@pytest.mark.parametrize("status", INTO_RUN)
def test_a_run_moves_as_its_table_says_and_in_no_other_way(status: str) -> None:
    before = Ledger(*INTO_RUN[status])
    assert before.state.status == status
    ends: dict[str, tuple[list[e.EventData], e.EventData]] = {
        "RunRequested": ([], requested(retries=1)),
        "RunSucceeded": (list(map(skipped, e.STAGES)), e.RunSucceeded()),
        "RunFailed": (
            INTO_STAGE["failed"],
            e.RunFailed(stage="llm_on", exit_code=2, cause="application", reason="again"),
        ),
        "RunCancelled": ([], e.RunCancelled(stage="llm_on", reason="again")),
    }
    assert set(ends) == {event for _, event in d.RUN_TRANSITIONS}
    for type_, (way, data) in ends.items():
        state = Ledger(*INTO_RUN["open"], *way).state if status == "open" else before.state
        moved = move(state, data)
        wanted = d.RUN_TRANSITIONS.get((status, type_))  # type: ignore[call-overload]
        assert (moved.status if moved else None) == wanted


@pytest.mark.parametrize("status", ["pending", "validated", "rejected", None])
def test_tags_move_as_their_table_says_and_in_no_other_way(status: str | None) -> None:
    ledger = Ledger(requested(), *done("llm_on", "relabel"))
    if status is not None:
        ledger.say(emitted())
    if status in ("validated", "rejected"):
        check = validated if status == "validated" else rejected
        ledger.say(check(ledger.state.tags.event_id))  # type: ignore[union-attr]
    tags = ledger.state.tags
    assert (tags.status if tags else None) == status
    follows = tags.event_id if tags else "nothing"
    for data in (emitted(), validated(follows, 2), rejected(follows), reopened(follows)):
        moved = move(ledger.state, data)
        wanted = d.TAG_TRANSITIONS.get((status, data.type))  # type: ignore[call-overload]
        assert (moved.tags.status if moved and moved.tags else None) == wanted


@pytest.mark.parametrize("status", [s for s in INTO_RUN if s != "open"])
def test_where_no_run_is_open_nothing_of_a_stage_is_taken(status: str) -> None:
    state = Ledger(*INTO_RUN[status]).state
    for data in (*stage_events(state), checkpoint("llm_on"), metrics("llm_on"), emitted()):
        assert move(state, data) is None


def test_events_of_pointers_and_storage_are_no_events_of_a_run() -> None:
    state = Ledger(requested()).state
    for data in (
        e.PointerHeld(generation=1, reason=None),
        e.PointerReleased(generation=1, reason=None),
        e.GarbagePlanned(plan_digest=DIGEST, objects=0, size_bytes=0),
        e.StorageMeasured(store="s", bytes_by_class={}, free_bytes=None),
    ):
        assert move(state, data) is None


# --- the rules that the tables do not say --------------------------------------------------------


@pytest.mark.parametrize("stage", e.STAGES[1:])
def test_a_stage_waits_for_those_before_it(stage: e.StageName) -> None:
    state = Ledger(requested()).state
    for data in (intended(stage), skipped(stage), reused(stage)):
        assert move(state, data) is None


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("event", [submitted, started, succeeded, failed])
def test_an_attempt_that_is_not_the_newest_moves_nothing(
    event: Callable[..., e.EventData], attempt: int
) -> None:
    state = Ledger(requested(), *INTO_STAGE["failed"], *whole("llm_on", 2)).state
    assert state.stages["llm_on"].attempt == 2
    assert move(state, event("llm_on", attempt)) is None


@pytest.mark.parametrize("attempt", [2, 3])
def test_attempts_are_counted_from_one_without_gaps(attempt: int) -> None:
    assert move(Ledger(requested()).state, intended(attempt=attempt)) is None


@pytest.mark.parametrize("status", ["pending", "intended", "submitted", "running"])
def test_outputs_are_recorded_once_their_attempt_has_ended(status: str) -> None:
    state = Ledger(requested(), *INTO_STAGE[status]).state
    assert move(state, checkpoint("llm_on")) is None
    assert move(state, metrics("llm_on")) is None


def test_a_run_with_an_attempt_under_way_has_no_end() -> None:
    for status in ("intended", "submitted", "running"):
        state = Ledger(requested(), *INTO_STAGE[status]).state
        assert move(state, e.RunSucceeded()) is None
        assert move(state, e.RunCancelled(stage="llm_on", reason="r")) is None
        end = e.RunFailed(stage="llm_on", exit_code=1, cause="application", reason="r")
        assert move(state, end) is None


def test_a_run_fails_in_the_stage_that_failed() -> None:
    state = Ledger(requested(), *INTO_STAGE["failed"]).state
    end = e.RunFailed(stage="retrain", exit_code=1, cause="application", reason="r")
    assert move(state, end) is None
    assert move(Ledger(requested()).state, end.model_copy(update={"stage": "llm_on"})) is None


def test_each_check_of_the_tags_follows_the_one_before() -> None:
    ledger = Ledger(requested(), *done("llm_on", "relabel"), emitted())
    first = ledger.state.tags.event_id  # type: ignore[union-attr]
    ledger.say(validated(first))
    for stale in (validated(first, 2), rejected(first), reopened("somebody")):
        assert move(ledger.state, stale) is None
        # What decide lets through must fold: it checks the chain as evolve does.
        with pytest.raises(IllegalTransitionError, match="a later check of the tags stands"):
            d.decide(ledger.state, stale)
    second = ledger.state.tags.event_id  # type: ignore[union-attr]
    assert second != first
    ledger.say(reopened(second))
    assert ledger.state.tags.status == "pending"  # type: ignore[union-attr]


def test_tags_are_checked_after_the_run_has_ended() -> None:
    ledger = Ledger(requested(), *done("llm_on", "relabel"), emitted())
    ledger.say(*map(skipped, ("retrain", "llm_off")), e.RunSucceeded())
    ledger.say(rejected(ledger.state.tags.event_id))  # type: ignore[union-attr]
    assert ledger.state.tags.errors == ("line 1",)  # type: ignore[union-attr]
    assert ledger.state.status == "succeeded"


def test_an_emission_and_its_check_can_be_one_batch() -> None:
    ledger = Ledger(requested(), *done("llm_on", "relabel"))
    said = ledger.say(emitted(), validated(identify(STREAM, emitted()).id))
    assert len(said) == 2


def test_a_batch_is_all_or_none() -> None:
    state = Ledger(requested()).state
    before = copy.deepcopy(state)
    with pytest.raises(IllegalTransitionError):
        d.decide(state, intended(), submitted(), succeeded("retrain"))
    assert state == before


def test_a_newer_event_is_passed_over_and_counted() -> None:
    newer = e.NewerEvent(newer_type="StageAbandoned", newer_schema=1, text="{}")
    state = Ledger(requested(), *INTO_RUN["cancelled"][1:]).state
    moved = d.evolve(state, record(state, newer))
    assert (moved.version, moved.position) == (state.version + 1, state.position + 1)
    assert moved.status == "cancelled"


# --- saying it twice -----------------------------------------------------------------------------


def test_every_fact_of_a_run_is_said_once() -> None:
    tags = [emitted(), validated(identify(STREAM, emitted()).id)]
    story: list[e.EventData] = [
        requested(retries=1),
        reused("llm_on"),
        *done("relabel"),
        *tags,
        *whole("retrain"),
        failed("retrain"),
        *whole("retrain", 2),
        started("retrain", 2, pod="b"),
        succeeded("retrain", 2),
        checkpoint().model_copy(update={"attempt": 2}),
        *done("llm_off"),
        metrics(),
        e.RunSucceeded(),
    ]
    ledger = Ledger(*story)
    assert ledger.types == [data.type for data in story]
    assert ledger.say(*story) == []
    for data in story:
        assert ledger.say(data) == []


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_end_that_is_said_again_is_the_same_end(status: str) -> None:
    ledger = Ledger(*INTO_RUN[status])
    assert ledger.say(INTO_RUN[status][-1]) == []
    other = e.RunCancelled(stage=None, reason="somebody else")
    with pytest.raises(IllegalTransitionError):
        ledger.say(other)


def test_a_second_launcher_that_is_late_adds_nothing() -> None:
    """It saw the command running; by the time it says so, the first one has recorded the end."""
    for status in ("succeeded", "failed"):
        ledger = Ledger(requested(), *INTO_STAGE[status])
        assert ledger.say(submitted(), started()) == []
    ledger = Ledger(requested(retries=1), *INTO_STAGE["failed"], *whole("llm_on", 2))
    assert ledger.say(intended(), submitted(), started(), failed(cause="lost")) == []


def test_a_replaced_pod_belongs_to_the_same_attempt() -> None:
    ledger = Ledger(requested(), intended(), submitted(), started(pod="a"))
    assert len(ledger.say(started(pod="b"))) == 1
    assert ledger.say(started(pod="a"), started(pod="b")) == []
    assert ledger.state.stages["llm_on"].attempt == 1


def test_a_fact_that_contradicts_the_ledger_is_refused_and_not_taken_for_known() -> None:
    after_two = Ledger(requested(retries=1), *INTO_STAGE["failed"], *whole("llm_on", 2)).state
    for state, data in (
        (Ledger(requested(), *INTO_STAGE["failed"]).state, succeeded()),
        (Ledger(requested(), *INTO_STAGE["succeeded"]).state, failed()),
        (after_two, succeeded(attempt=1)),
        (Ledger(requested(), reused()).state, succeeded()),
        (
            Ledger(requested(), reused()).state,
            reused().model_copy(update={"manifest_digest": OTHER}),
        ),
        (Ledger(requested()).state, requested(retries=3)),
    ):
        with pytest.raises(IllegalTransitionError):
            d.decide(state, data)


# --- conclude and may_retry ------------------------------------------------------------------------


def test_conclude_says_how_a_run_ends() -> None:
    for cause, wanted in (("timeout", "RunFailed"), ("cancelled", "RunCancelled")):
        ledger = Ledger(requested(), *whole("llm_on"), failed(cause=cause))  # type: ignore[arg-type]
        end = d.conclude(ledger.state)
        assert (end.type, end.stage, end.reason) == (wanted, "llm_on", "m")  # type: ignore[union-attr]
        assert ledger.say(end) == [end]
    ledger = Ledger(requested(), *map(skipped, e.STAGES))
    assert d.conclude(ledger.state) == e.RunSucceeded()


@pytest.mark.parametrize("status", [s for s in INTO_STAGE if s != "failed"])
def test_conclude_refuses_while_something_is_to_be_done(status: str) -> None:
    with pytest.raises(IllegalTransitionError):
        d.conclude(Ledger(requested(), *INTO_STAGE[status]).state)


@pytest.mark.parametrize("status", [s for s in INTO_RUN if s != "open"])
def test_conclude_refuses_where_no_run_is_open(status: str) -> None:
    with pytest.raises(IllegalTransitionError, match=status):
        d.conclude(Ledger(*INTO_RUN[status]).state)


@given(
    retries=st.integers(0, 3),
    infrastructure=st.integers(0, 3),
    causes=st.lists(st.sampled_from(e.CAUSES), min_size=1, max_size=12),
)
def test_retries_are_bounded(retries: int, infrastructure: int, causes: list[e.Cause]) -> None:
    ledger = Ledger(requested(retries, infrastructure))
    attempts = 0
    for attempt, cause in enumerate(causes, start=1):
        ledger.say(intended(attempt=attempt), failed(attempt=attempt, cause=cause))
        attempts = attempt
        if not d.may_retry(ledger.state.stages["llm_on"], infrastructure):
            break
    assert attempts <= 1 + retries + infrastructure
    tried = causes[:attempts]
    assert tried.count("application") <= retries + 1
    assert sum(c in d.INFRASTRUCTURE_CAUSES for c in tried) <= infrastructure + 1
    # Whatever is no failure of the command or of the machine beneath it ends the stage at once.
    final = [c for c in tried if c != "application" and c not in d.INFRASTRUCTURE_CAUSES]
    assert final in ([], [tried[-1]])


@pytest.mark.parametrize(("own", "attempts"), [(None, 3), (0, 1), (1, 2), (4, 5)])
def test_a_plan_s_own_infrastructure_retries_beat_the_request_s(
    own: int | None, attempts: int
) -> None:
    wanted = requested(0, 2)
    plans = [p.model_copy(update={"infrastructure_retries": own}) for p in wanted.stages]
    ledger = Ledger(wanted.model_copy(update={"stages": tuple(plans)}))
    for attempt in range(1, 10):
        ledger.say(intended(attempt=attempt), failed(attempt=attempt, cause="lost"))
        if not d.may_retry(ledger.state.stages["llm_on"], 2):
            break
    assert attempt == attempts


# --- any commands, in any order --------------------------------------------------------------------

_STAGE = st.sampled_from(e.STAGES)
_ATTEMPT = st.integers(1, 3)
_FOLLOWS = st.sampled_from(["nothing", "newest"])
EVENTS: st.SearchStrategy[e.EventData] = st.one_of(
    st.just(requested()),
    st.builds(intended, _STAGE, _ATTEMPT),
    st.builds(submitted, _STAGE, _ATTEMPT),
    st.builds(started, _STAGE, _ATTEMPT, st.sampled_from([None, "a", "b"])),
    st.builds(succeeded, _STAGE, _ATTEMPT),
    st.builds(failed, _STAGE, _ATTEMPT, st.sampled_from(e.CAUSES)),
    st.builds(skipped, _STAGE),
    st.builds(reused, _STAGE),
    st.builds(checkpoint, _STAGE, st.sampled_from([DIGEST, OTHER])),
    st.builds(metrics, _STAGE),
    st.just(emitted()),
    st.builds(validated, _FOLLOWS, st.integers(0, 2)),
    st.builds(rejected, _FOLLOWS),
    st.builds(reopened, _FOLLOWS),
    st.just(e.RunSucceeded()),
    st.builds(e.RunCancelled, stage=st.none(), reason=st.just("r")),
    st.builds(
        e.RunFailed,
        stage=_STAGE,
        exit_code=st.just(1),
        cause=st.just("application"),
        reason=st.just("r"),
    ),
)


def likely(state: d.RunState, choice: int) -> list[e.EventData]:
    """What a launcher would say next, so that random stories get somewhere."""
    stage = state.current()
    if state.status == "unknown":
        return [requested(retries=1)]
    if stage is None or state.status != "open":
        return [e.RunSucceeded()]
    name, attempt = stage.plan.name, max(stage.attempt, 1)
    return {
        "pending": [intended(name), skipped(name), reused(name)][choice % 3 : choice % 3 + 1],
        "intended": [submitted(name, attempt)],
        "submitted": [started(name, attempt)],
        "running": [succeeded(name, attempt) if choice % 3 else failed(name, attempt)],
        "failed": [intended(name, stage.attempt + 1)],
    }[stage.status]


@given(st.lists(st.one_of(st.integers(0, 9), st.lists(EVENTS, max_size=3)), max_size=40))
def test_whatever_is_said_the_ledger_can_be_read_again(story: list[int | list[Any]]) -> None:
    ledger = Ledger()
    records: list[e.Recorded[Any]] = []
    for step in story:
        before = ledger.state
        batch = likely(before, step) if isinstance(step, int) else step
        if before.tags is not None:
            newest = before.tags.event_id
            batch = [
                b.model_copy(update={"follows": newest})
                if getattr(b, "follows", "") == "newest"
                else b
                for b in batch
            ]
        try:
            wanted = d.decide(before, *batch)
        except IllegalTransitionError:
            assert ledger.state == before
            continue
        for data in wanted:
            records.append(record(ledger.state, data))
            ledger.state = d.evolve(ledger.state, records[-1])
        assert d.decide(ledger.state, *wanted) == [], "what was said is known"
        in_order(ledger.state)
        if before.status in ("succeeded", "failed", "cancelled"):
            assert (ledger.state.status, ledger.state.end) == (before.status, before.end)
            assert ledger.state.stages == before.stages
            assert {w.type for w in wanted} <= {event for _, event in d.TAG_TRANSITIONS}
    assert d.fold(STREAM, records) == ledger.state
    assert len({r.id for r in records}) == len(records), "each fact has an id of its own"


def in_order(state: d.RunState) -> None:
    """At most one stage is neither pending nor settled well, and none after it has begun."""
    statuses = [stage.status for stage in state.stages.values()]
    while statuses and statuses[0] in SETTLED_WELL:
        statuses.pop(0)
    assert all(status == "pending" for status in statuses[1:])
    if state.status == "succeeded":
        assert statuses == []
