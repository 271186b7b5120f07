"""A ledger that several machines share: what is another machine's is told from what was left alone here."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config import load
from launcher.settings import Settings
from launcher.workspace import open_workspace
from ledger import events as e
from tests.cli.session import Session, make_session, until
from tests.launcher.small_runs import digest, requested, say

SHARED = {"LAUNCHER_LEDGER": "store"}


def theirs(session: Session, *facts: e.EventData) -> None:
    """A run that machine gpu-7 requested, in a folder that this machine has not."""
    settings = Settings.from_environment(SHARED, session.root, {})
    ws = open_workspace(settings, session.root, writing=True, actor="cron@gpu-7")
    config = ws.store.ingest_bytes(load(session.root / "loop.env").stored_bytes())
    root, ref = "/srv/of another machine", e.ConfigRef(path="c.env", digest=config.digest)
    say(ws, "theirs", requested(ws, "theirs", project_root=root, config=ref))
    for fact in facts:
        say(ws, "theirs", fact)
    ws.ledger.close()


def started() -> list[e.EventData]:
    handle = e.Handle(machine_id="gpu-7/0123456789ab", pid=7)
    return [
        e.StageIntended(
            stage="relabel", attempt=1, executor="local", spec_digest=digest("relabel")
        ),
        e.StageSubmitted(stage="relabel", attempt=1, handle=handle, log="02_relabel.log"),
        e.StageStarted(stage="relabel", attempt=1, node="gpu-7"),
    ]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project", **SHARED)


@pytest.mark.folder
def test_an_open_run_of_another_machine_is_not_called_left_alone(session: Session) -> None:
    theirs(session, *started())
    row = session.json("list")["runs"][0]
    assert (row["attended"], row["machine"], row["result"]) == (None, "gpu-7", "")
    assert "open on gpu-7" in session.look("list").out
    status = session.look("status", "theirs")
    assert "open on gpu-7" in status.out
    assert "resume" not in status.out + session.look().out
    doctor = session.look("doctor", "--no-probe")
    assert "theirs" not in doctor.out
    # Writing commands keep the documents of this machine's runs, and make no folder for others'.
    assert session.submit("--run-id", "mine").code == 0
    assert not Path("/srv/of another machine").exists()
    lines = session.look("audit").lines
    assert any("1 run not of this machine" in line for line in lines), lines
    assert any(line.startswith("ok   documents") for line in lines), lines


@pytest.mark.folder
def test_a_run_is_not_resumed_where_its_files_are_not(session: Session) -> None:
    theirs(session)
    done = session.launcher("resume", "theirs")
    assert done.code == 3
    assert "theirs belongs to gpu-7" in done.err
    assert session.json("list")["runs"][0]["status"] == "open"
    # Its end, though, may be said from anywhere.
    assert session.launcher("cancel", "theirs").code == 0
    assert session.json("list")["runs"][0]["status"] == "cancelled"


@pytest.mark.folder
def test_a_run_left_alone_here_is_still_called_that(session: Session) -> None:
    run = session.start_submit("--run-id", "mine", "--set", "LLM_ON_EXTRA=sleep 30")
    until(lambda: session.stage_status("mine", "llm_on") == "running", "llm_on started")
    run.kill()
    run.communicate()
    assert "left alone" in session.look("list").out
    assert session.launcher("cancel", "mine").code == 0
