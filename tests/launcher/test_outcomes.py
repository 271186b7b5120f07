"""What a committed result proves: the table, and that every fact of it fits into the ledger."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from launcher.executors.port import Saved, StageResult
from launcher.outcomes import result_events
from ledger import events as e
from ledger.events import EVENT_LIMIT_BYTES
from tests.launcher.run_samples import DIGEST, HANDLE, RUN, journal, plan, request, result

SUBMITTED = e.StageSubmitted(stage="retrain", attempt=1, handle=HANDLE, log="l")
STARTED = e.StageStarted(stage="retrain", attempt=1, node="here")


def facts(
    found: StageResult, *, name: e.StageName = "retrain", recorded: bool = True
) -> list[e.EventData]:
    """What follows from a result of attempt 1 at a run's only stage; all of it is legal."""
    asked = request(plan(name))
    intended = e.StageIntended(stage=name, attempt=1, executor="local", spec_digest=DIGEST)
    story = [asked, intended]
    if recorded:
        story += [
            SUBMITTED.model_copy(update={"stage": name}),
            STARTED.model_copy(update={"stage": name}),
        ]
    book = journal(*story)
    said = result_events(asked, book.run(RUN).stages[name], found, "l")
    after = book.record_run(RUN, lambda _state: said)
    assert after.stages[name].status in ("succeeded", "failed")
    return said


@pytest.mark.parametrize(
    ("exit_code", "closed_by", "cause", "code", "message"),
    [
        (1, None, "application", 1, "the command ended with exit code 1"),
        (137, None, "application", 137, "the command ended with exit code 137"),
        (None, "timeout", "timeout", None, "it ran past its time limit and was stopped"),
        (None, "cancelled", "cancelled", None, "it was cancelled"),
        (None, "lost", "lost", None, "its supervisor ended without a result"),
        (None, "outputs", "outputs", None, "its outputs were refused"),
        (None, "storage", "storage", None, "its outputs could not be stored"),
        (None, "out_of_memory", "out_of_memory", None, "out_of_memory"),
        (None, "something newer", "lost", None, "its supervisor ended without a result"),
    ],
)
def test_what_is_no_success(
    exit_code: int | None, closed_by: str | None, cause: str, code: int | None, message: str
) -> None:
    [failed] = facts(result(exit_code, closed_by))
    assert isinstance(failed, e.StageFailed)
    assert (failed.cause, failed.exit_code, failed.message) == (cause, code, message)
    own = StageResult(exit_code, closed_by, message="its own words", log_digest=DIGEST)
    [failed] = facts(own)
    assert isinstance(failed, e.StageFailed)
    assert (failed.message, failed.log_digest) == ("its own words", DIGEST)


def test_a_result_that_says_0_and_who_closed_it_is_no_success() -> None:
    [failed] = facts(StageResult(0, "timeout", manifest_digest=DIGEST))
    assert isinstance(failed, e.StageFailed)
    assert (failed.cause, failed.exit_code) == ("timeout", None)


def test_an_attempt_that_was_never_recorded_as_submitted_gets_that_first() -> None:
    said = facts(result(), recorded=False)
    assert said[:2] == [SUBMITTED, STARTED]
    [submitted, failed] = facts(StageResult(None, "lost"), recorded=False)
    assert submitted == SUBMITTED.model_copy(update={"handle": e.Handle()})
    assert isinstance(failed, e.StageFailed)


def test_a_success_tells_of_its_checkpoints_and_metrics() -> None:
    saved = (
        Saved("checkpoints/a.pt", DIGEST, 1, "pt"),
        Saved("checkpoints/b.pt", DIGEST, 2, "pt", student=True),
    )
    found = StageResult(
        0,
        None,
        manifest_digest=DIGEST,
        log_digest=DIGEST,
        running_seconds=1.5,
        checkpoints=saved,
        also_matched=("checkpoints/0.pt", "checkpoints/a.pt"),
        metrics={"x": 1.0},
        metrics_ignored=("y",),
    )
    succeeded, a, b, metrics = facts(found)
    assert isinstance(succeeded, e.StageSucceeded)
    assert succeeded.seconds.running == 1.5
    assert isinstance(a, e.CheckpointRecorded)
    assert isinstance(b, e.CheckpointRecorded)
    assert (a.path, a.student, a.also_matched) == ("runs/r/checkpoints/a.pt", False, ())
    assert (b.path, b.student) == ("runs/r/checkpoints/b.pt", True)
    assert b.also_matched == ("runs/r/checkpoints/a.pt", "runs/r/checkpoints/0.pt")
    assert metrics == e.MetricsRecorded(
        stage="retrain", attempt=1, metrics={"x": 1.0}, ignored=("y",)
    )


@pytest.mark.parametrize("tags", [None, Saved("/p/t", DIGEST, 3)])
def test_a_relabel_tells_of_its_tags_even_if_there_are_none(tags: Saved | None) -> None:
    found = StageResult(0, None, manifest_digest=DIGEST, tag_file=tags)
    emitted = facts(found, name="relabel")[-1]
    assert isinstance(emitted, e.RelabelTagsEmitted)
    assert emitted.digest == (tags.digest if tags else None)
    assert not any(isinstance(f, e.RelabelTagsEmitted) for f in facts(found))


def test_no_stage_can_say_more_than_an_event_holds() -> None:
    """A thousand checkpoints and a hundred thousand metrics, in names that JSON escapes."""
    names = [f'checkpoints/"{i:05}é".pt' for i in range(1000)]
    saved = tuple(Saved(n, DIGEST, 1, "pt", student=n == names[-1]) for n in names)
    found = StageResult(
        0,
        None,
        manifest_digest=DIGEST,
        checkpoints=saved,
        also_matched=tuple(names[:-1]),
        metrics={"success_rate": 0.5, **{f'layer/"{i}"/norm': float(i) / 3 for i in range(10**5)}},
        metrics_ignored=tuple(f'"{i}"' * 50 for i in range(1000)),
    )
    said = facts(found)
    assert len(said) == 1002
    for fact in said:
        assert len(json.dumps(fact.model_dump()).encode()) < EVENT_LIMIT_BYTES - 2048
    student, metrics = said[-2], said[-1]
    assert isinstance(student, e.CheckpointRecorded)
    assert student.also_matched[0] == f"runs/r/{names[-2]}"
    assert student.also_matched[-1].endswith(" more")
    assert isinstance(metrics, e.MetricsRecorded)
    assert metrics.metrics["success_rate"] == 0.5
    assert metrics.ignored[-1].endswith(" more")


def test_a_long_message_is_cut_between_characters() -> None:
    [failed] = facts(StageResult(None, "outputs", message="é" * 100_000))
    assert isinstance(failed, e.StageFailed)
    assert failed.message == "é" * 2048 + "…"


# --- what was held, and where the time went ---

PER_SECOND = e.ResourceSeconds(gpus={"nvidia.com/gpu": 2.0}, cpu=4.0, memory=16.0)


def held(found: StageResult, *pods: e.StageStarted) -> e.StageSucceeded | e.StageFailed:
    """What is said of attempt 1, of which these pods are on record."""
    asked = request(plan("retrain"))
    intended = e.StageIntended(
        stage="retrain", attempt=1, executor="kubernetes", spec_digest=DIGEST
    )
    book = journal(asked, intended, SUBMITTED, *pods)
    said = result_events(asked, book.run(RUN).stages["retrain"], found, "l")
    ended = next(one for one in said if isinstance(one, e.StageSucceeded | e.StageFailed))
    assert book.record_run(RUN, lambda _: said).stages["retrain"].held == ended.held
    return ended


def pod_at(uid: str, since: str | None) -> e.StageStarted:
    return STARTED.model_copy(update={"pod_uid": uid, "held_since": since})


def counted(exit_code: int | None, closed_by: str | None = None) -> StageResult:
    return replace(
        result(exit_code, closed_by),
        gpus=2,
        asked=PER_SECOND,
        held_seconds=100.0,
        queued_seconds=500.0,
        running_seconds=90.0,
        counted=frozenset({"second"}),
        counted_since="2026-11-25T08:10:00Z",
    )


@pytest.mark.parametrize("found", [counted(0), counted(1), counted(None, "timeout")])
def test_what_was_held_is_said_of_a_success_and_of_a_failure(found: StageResult) -> None:
    said = held(found, pod_at("second", "2026-11-25T08:10:01Z"))
    assert said.gpus == 2
    assert said.held == e.ResourceSeconds(gpus={"nvidia.com/gpu": 200.0}, cpu=400.0, memory=1600.0)
    assert (said.seconds.queued, said.seconds.running) == (500.0, 90.0)


def test_a_pod_that_was_gone_when_this_launcher_came_held_it_too() -> None:
    """From when its node took it until the next one was made; that time it did not queue."""
    first = pod_at("first", "2026-11-25T08:02:00Z")
    said = held(counted(1), first, pod_at("second", "2026-11-25T08:10:01Z"))
    assert said.held == e.ResourceSeconds(
        gpus={"nvidia.com/gpu": 2 * 580.0}, cpu=4 * 580.0, memory=16 * 580.0
    )
    assert (said.seconds.queued, said.seconds.running) == (20.0, 570.0)
    # One of which no more is known than that it started is not guessed at.
    said = held(counted(1), pod_at("first", None))
    assert said.held == e.ResourceSeconds(gpus={"nvidia.com/gpu": 200.0}, cpu=400.0, memory=1600.0)


def test_where_nobody_counts_nothing_is_said() -> None:
    assert held(result(1)).held is None


@pytest.mark.parametrize("found", [result(0), result(1), result(None, "timeout")])
def test_how_many_watches_broke_is_said_of_a_success_and_of_a_failure(found: StageResult) -> None:
    assert held(found).watch_restarts == 0
    assert held(replace(found, watch_restarts=3)).watch_restarts == 3
