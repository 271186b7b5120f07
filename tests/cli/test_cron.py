"""A pipeline's slots as a crontab's line calls for them: one run each, whatever happens to whoever comes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.journal import Journal
from launcher.workspace import ledger_file
from ledger.slots import PipelineState
from ledger.stores.sqlite import SqliteEventStore
from tests.cli.session import GIVEN, Done, Session, make_session, until

pytestmark = pytest.mark.folder  # looks into the ledger's file

SCHEDULE = ("--schedule", "0 2 * * *")
FLAGS = ("--", "--config", "loop.env", *GIVEN)


def slot(day: int) -> str:
    return f"2026-02-{day:02d}T02:00:00Z"


def run_id(day: int) -> str:
    return f"nightly-202602{day:02d}T0200Z"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = make_session(tmp_path / "project")
    del made.environment["LAUNCHER_ACTOR"]
    return made


def line(day: int, *more: str) -> tuple[str, ...]:
    """What a crontab would say, for the slot of that day; ``more``: cron's own options, or submit's after a --."""
    at = more.index("--") if "--" in more else len(more)
    return ("cron", "nightly", *SCHEDULE, "--slot", slot(day), *more[:at], *FLAGS, *more[at + 1 :])


def come(session: Session, day: int, *more: str) -> Done:
    return session.launcher(*line(day, *more))


def journal(session: Session) -> Journal:
    return Journal(SqliteEventStore(ledger_file(session.home)), "test", lambda: "")


def pipeline(session: Session) -> PipelineState:
    return journal(session).pipeline("nightly")


def statuses(session: Session) -> dict[str, str]:
    found = journal(session)
    return {one: found.run(one).status for one in found.run_ids()}


def test_a_slot_has_one_run_however_often_somebody_comes(session: Session) -> None:
    done = come(session, 1, "--", "--promotion-target", "student")
    assert done.code == 0, done
    assert statuses(session) == {run_id(1): "succeeded"}
    request = journal(session).run(run_id(1)).request
    assert request is not None
    assert request.slot == slot(1)
    assert journal(session).run(run_id(1)).actor == "cron nightly"
    again = come(session, 1, "--", "--promotion-target", "student")
    assert again.code == 0
    assert statuses(session) == {run_id(1): "succeeded"}
    assert session.json("pointers", "student")["generations"][-1]["generation"] == 1


def test_two_who_come_at_once_make_one_run(session: Session) -> None:
    comers = [session.start(*line(1)) for _ in range(3)]
    ended = [comer.communicate(timeout=60) for comer in comers]
    assert [comer.returncode for comer in comers] == [0, 0, 0], ended
    assert statuses(session) == {run_id(1): "succeeded"}
    log = session.home / run_id(1) / "logs" / "01_llm_on.log"
    assert log.read_text().count("capturing") == 1


def test_slots_that_nobody_came_for_are_on_record(session: Session) -> None:
    assert come(session, 1).code == 0
    done = come(session, 4)
    assert done.code == 0
    assert f"{slot(2)}  missed: nobody came for it" in done.out
    types = {s[8:10]: fact.type for s, fact in pipeline(session).slots.items()}
    assert types == {
        "01": "SlotClaimed",
        "02": "SlotMissed",
        "03": "SlotMissed",
        "04": "SlotClaimed",
    }
    listed = session.look("list", "--missed")
    assert [row.split()[0] for row in listed.lines] == [slot(3), slot(2)]
    assert all("nightly  missed" in row for row in listed.lines)
    assert [row["slot"] for row in session.json("list", "--missed", "-n", "1")["slots"]] == [
        slot(3)
    ]
    late = come(session, 3)
    assert (late.code, statuses(session).keys()) == (0, {run_id(1), run_id(4)})
    assert "missed" in late.out


@pytest.fixture
def left(session: Session) -> Callable[[], None]:
    """The first slot's run is open, its launcher killed; what it waits for comes when this is called."""
    go = session.root / "go"
    wait = f"until [ -e {go} ]; do sleep 0.05; done"
    comer = session.start(*line(1, "--", "--set", f"RETRAIN_EXTRA={wait}"))
    until(lambda: session.stage_status(run_id(1), "retrain") == "running", "a retrain")
    comer.send_signal(signal.SIGKILL)
    comer.communicate()
    return go.touch


def test_who_comes_next_finishes_what_was_left_and_passes_over(
    session: Session, left: Callable[[], None]
) -> None:
    comer = session.start(*line(2))
    until(lambda: slot(2) in pipeline(session).slots, "a word of the second slot")
    assert statuses(session) == {run_id(1): "open"}
    left()
    out, _ = comer.communicate(timeout=60)
    assert comer.returncode == 0
    assert f"{slot(2)}  passed over: {run_id(1)} is still open" in out.decode()
    assert statuses(session) == {run_id(1): "succeeded"}


def test_a_queued_slot_waits_and_then_runs(session: Session, left: Callable[[], None]) -> None:
    left()
    assert come(session, 2, "--overlap", "queue").code == 0
    assert statuses(session) == {run_id(1): "succeeded", run_id(2): "succeeded"}


def test_a_slot_may_replace_the_run_before(session: Session, left: Callable[[], None]) -> None:
    done = come(session, 2, "--overlap", "replace")
    assert done.code == 0, done
    assert statuses(session) == {run_id(1): "cancelled", run_id(2): "succeeded"}


def test_it_pauses_itself_after_failures_in_a_row_and_goes_on_when_told_to(
    session: Session,
) -> None:
    bad = ("--pause-after", "2", "--", "--set", "RETRAIN_EXTRA=exit 7")
    assert [come(session, day, *bad).code for day in (1, 2)] == [7, 7]
    paused = pipeline(session).paused
    assert paused is not None
    assert paused.failed == (run_id(1), run_id(2))
    done = come(session, 3)
    assert (done.code, "passed over: paused: 2 runs in a row failed" in done.out) == (3, True)
    assert run_id(3) not in statuses(session)
    overview = session.look().out
    assert "2 runs in a row failed" in next(x for x in overview.splitlines() if "paused" in x)
    assert "launcher unpause nightly" in overview
    listed = session.json("list", "--missed")
    assert [row["outcome"] for row in listed["slots"]] == ["passed_over"]
    assert [(p["pipeline"], p["failed"]) for p in listed["paused"]] == [
        ("nightly", [run_id(1), run_id(2)])
    ]
    assert session.launcher("pause", "nightly", "--reason", "x").code == 3
    assert session.launcher("unpause", "nightly", "--reason", "mended").code == 0
    assert session.launcher("unpause", "nightly").code == 3
    assert come(session, 4, *bad).code == 7
    assert pipeline(session).paused is None
    assert come(session, 5).code == 0


def test_a_person_may_pause_it(session: Session) -> None:
    assert come(session, 1).code == 0
    assert session.launcher("pause", "nightly", "--reason", "holidays").code == 0
    assert come(session, 2).code == 3
    assert statuses(session) == {run_id(1): "succeeded"}


def test_without_a_slot_it_is_the_newest_of_the_schedule(session: Session) -> None:
    done = session.launcher("cron", "hourly", "--schedule", "@hourly", *FLAGS)
    assert done.code == 0
    (made,) = statuses(session)
    assert made.startswith("hourly-2")
    assert made.endswith("00Z")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("cron", "nightly", "--schedule", "0 2 * *", *FLAGS), "is no schedule"),
        (("cron", "../up", *SCHEDULE, *FLAGS), "pipeline '../up'"),
        (("cron", "nightly", *SCHEDULE, *FLAGS, "--run-id", "mine"), "--run-id does not go"),
        (("cron", "nightly", *SCHEDULE, "--slot", "tonight", *FLAGS), "is no slot"),
        (("cron", "nightly", *SCHEDULE, "--timezone", "Moon", *FLAGS), "no time zone 'Moon'"),
    ],
)
def test_what_is_wrong_is_one_line_and_claims_nothing(
    session: Session, given: tuple[str, ...], said: str
) -> None:
    done = session.launcher(*given)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert said in done.err
    assert not session.home.exists()


def test_a_slot_whose_submit_was_refused_is_tried_again(session: Session) -> None:
    flags = ("--", "--config", "absent.env", *GIVEN)
    done = session.launcher("cron", "nightly", *SCHEDULE, "--slot", slot(1), *flags)
    assert (done.code, "absent.env" in done.err) == (2, True)
    assert f"{slot(1)}" in session.look("list", "--missed").out
    assert "never began" in session.look("list", "--missed").out
    assert come(session, 1).code == 0
    assert statuses(session) == {run_id(1): "succeeded"}


def test_a_slot_of_a_job_wants_a_cluster_and_no_other_word_of_the_slot(session: Session) -> None:
    of_job = ("cron", "nightly", *SCHEDULE, "--slot-of-job", "nightly-29")
    done = session.launcher(*of_job, "--slot", slot(1), *FLAGS)
    assert (done.code, "both say which slot" in done.err) == (2, True)
    session.environment["KUBECONFIG"] = str(session.root / "absent")
    done = session.launcher(*of_job, *FLAGS)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no cluster" in done.err
    assert not session.home.exists()
