"""logs: byte for byte, from the folder or the store, and followed from stage to stage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.session import LAUNCHER, Session, make_session, until

#: Bytes that are no text: every value, no newline at the end, a line of two megabytes.
MAKE_BYTES = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 8192 + b'end')"
BYTES = bytes(range(256)) * 8192 + b"end"
RETRY = 'echo "attempt $ATTEMPT"; [ "$ATTEMPT" = 2 ] || exit 3'


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """``bytes``: a binary log in llm_on, no evaluation, retrain at its second attempt. ``gone``: no folder."""
    session = make_session(tmp_path_factory.mktemp("logs") / "project")
    (session.root / "make_bytes.py").write_text(MAKE_BYTES)
    given = ["--set", "LLM_ON_CMD=python3 make_bytes.py", "--set", "LLM_OFF_CMD="]
    again = ["--set", "RETRAIN_RETRIES=1", "--set", f"RETRAIN_EXTRA={RETRY}"]
    for run_id in ("bytes", "gone"):
        done = session.submit("--run-id", run_id, *given, *again)
        assert done.code == 0, done
    shutil.rmtree(session.home / "gone")
    return session


def raw(session: Session, *arguments: str) -> bytes:
    """Standard output of ``launcher logs``, as bytes through a pipe."""
    process = session.start("logs", *arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    return out


@pytest.mark.parametrize("run_id", ["bytes", "gone"])
def test_a_log_is_printed_byte_for_byte(session: Session, run_id: str) -> None:
    assert raw(session, run_id, "llm_on") == BYTES


@pytest.mark.parametrize("run_id", ["bytes", "gone"])
def test_attempts_are_told_apart(session: Session, run_id: str) -> None:
    first, second = (b"epoch 1\nloss 0.412\nattempt %d\n" % n for n in (1, 2))
    assert raw(session, run_id, "retrain") == second
    assert raw(session, run_id, "retrain", "--attempt", "1") == first
    assert raw(session, run_id) == second  # the newest stage that ran


@pytest.mark.parametrize("run_id", ["bytes", "gone"])
def test_following_a_run_that_ended_shows_its_newest_log(session: Session, run_id: str) -> None:
    assert raw(session, run_id, "-f") == raw(session, run_id)
    assert raw(session, run_id, "llm_on", "-f") == BYTES


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bytes", "llm_off"], "was skipped"),
        (["bytes", "llm_off", "-f"], "was skipped"),
        (["bytes", "retrain", "--attempt", "3"], "retrain has had 2 attempts, not 3"),
        (["nobody"], "no run 'nobody'"),
    ],
)
def test_what_has_no_log_is_said_in_a_line(
    session: Session, arguments: list[str], said: str
) -> None:
    done = session.look("logs", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.folder
def test_neither_folder_nor_store(session: Session, tmp_path: Path) -> None:
    copy = Session(tmp_path / "project")
    shutil.copytree(session.root, copy.root)
    shutil.rmtree(copy.home / "objects" / "blobs")
    done = copy.look("logs", "gone", "llm_on")
    assert done.code == 4
    assert "launcher: blob sha256:" in done.err


def test_a_reader_that_goes_away_is_no_error(session: Session) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" logs bytes llm_on | head -c 1', str(LAUNCHER)],
        cwd=session.root,
        env=session.env(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\0", b"")


# --- following ------------------------------------------------------------------------------------


def wait_for(name: str) -> str:
    """A command that goes on when the test makes a file."""
    return f'until [ -e "{name}" ]; do sleep 0.02; done'


def test_following_goes_from_stage_to_stage_to_the_end(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    sets = ["--set", f"LLM_ON_EXTRA={wait_for('one')}; echo one", "--set"]
    sets += [f"RETRAIN_EXTRA={wait_for('two')}; echo two"]
    run = session.start_submit("--run-id", "r", *sets, stdout=subprocess.DEVNULL)
    try:
        until(lambda: session.stage_status("r", "llm_on") == "running", "llm_on started")
        whole = session.start("logs", "r", "-f")
        retrain = session.start("logs", "r", "retrain", "-f")
        assert whole.stdout is not None
        assert whole.stdout.readline() == b"capturing\n"
        (session.root / "one").touch()
        assert [whole.stdout.readline() for _ in range(3)] == [
            b"one\n",
            b"epoch 1\n",
            b"loss 0.412\n",
        ]
        assert session.stage_status("r", "retrain") == "running"
        (session.root / "two").touch()
        assert whole.communicate(timeout=60) == (b"two\n", b"")
        assert retrain.communicate(timeout=60) == (b"epoch 1\nloss 0.412\ntwo\n", b"")
        assert (whole.returncode, retrain.returncode, run.wait(timeout=60)) == (0, 0, 0)
    finally:
        run.kill()
        run.communicate()


def test_a_run_that_nobody_drives_is_said_to_be_so(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    run = session.start_submit("--run-id", "r", "--set", f"LLM_ON_EXTRA={wait_for('go')}; echo on")
    until(lambda: session.stage_status("r", "llm_on") == "running", "llm_on started")
    assert session.json("status", "r")["attended"] is True
    assert session.json("list")["runs"][0]["attended"] is True
    following = session.start("logs", "r", "-f")
    assert following.stdout is not None
    assert following.stdout.readline() == b"capturing\n"
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert session.json("status", "r")["attended"] is False
    assert "r  left alone: nobody drives it" in session.look("status", "r").out
    assert "left alone: launcher resume r" in session.look("list").out
    assert session.look().lines[1].startswith("now     r  left alone")
    assert "next    launcher resume r" in session.look().lines
    # Its supervisor still writes, so the log goes on; only then there is nothing more to come.
    (session.root / "go").touch()
    out, err = following.communicate(timeout=60)
    assert out == b"on\n"
    said = "launcher: nobody drives run r now; its log ends here (launcher resume r)\n"
    assert (following.returncode, err.decode()) == (5, said)
    done = session.launcher("resume", "r")
    assert done.code == 0, done
    assert session.json("status", "r")["attended"] is None


def test_the_log_of_a_cancelled_stage_is_kept(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project", LAUNCHER_GRACE_SECONDS="2")
    run = session.start_submit("--run-id", "r", "--set", f"LLM_ON_EXTRA={wait_for('never')}")
    log = session.home / "r" / "logs" / "01_llm_on.log"
    until(lambda: log.exists() and b"capturing" in log.read_bytes(), "llm_on wrote")
    done = session.launcher("cancel", "r", "--reason", "enough")
    assert (done.code, done.lines[-1]) == (0, "r  cancelled")
    run.communicate(timeout=60)
    assert run.returncode == 130
    shutil.rmtree(session.home / "r")
    until(lambda: raw(session, "r", "llm_on") == b"capturing\n", "the saved log is shown")
    assert session.json("list")["runs"][0]["result"] == "llm_on: enough"
