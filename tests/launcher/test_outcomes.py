"""What a committed result proves: the table, and that every fact of it fits into the ledger."""

from __future__ import annotations

import json

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
