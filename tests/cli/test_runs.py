"""submit, resume, cancel as typed: plans, repeated flags, runs that exist or ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.session import Session, make_session

GIVEN = ("--config", "loop.env", "--teacher-checkpoint", "teacher.pt")
SCORED = (*GIVEN, "--teacher-scorecard", "scorecard.json")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Runs ``good`` (live) and ``bad`` (failed in retrain). Tests change nothing that others look at."""
    session = make_session(tmp_path_factory.mktemp("runs") / "project")
    assert session.submit("--run-id", "good", "--promotion-target", "student").code == 0
    assert session.submit("--run-id", "bad", "--set", "RETRAIN_EXTRA=exit 7").code == 7
    return session


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    return {
        str(path.relative_to(root)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
    }


def test_a_dry_run_shows_the_whole_plan_and_writes_nothing(ended: Session) -> None:
    (ended.root / "plan.env").write_text(
        "API_KEY=verysecretvalue\nRETRAIN_TIMEOUT=60\nRETRAIN_RETRIES=2\nSTUDENT_CHECKPOINT_GLOB=best-*\n"
        "INPUTS=teacher.pt\nRETRAIN_CMD='echo 1 &&\n  echo 2'\nRELABEL_CMD=true\n"
    )
    before = snapshot(ended.root)
    done = ended.look(
        *("submit", "--config", "plan.env", "--teacher-scorecard", "scorecard.json", "--dry-run"),
        *("--teacher-checkpoint", "pointer:student", "--promotion-target", "student"),
        *("--set", "BATCH=512", "--label", "seed=1", "--note", "why not", "--run-id", "r"),
        *("--promotion-record", "out/record.json", "--relabel-tag-file", "out/{RUN_ID}.jsonl"),
    )
    assert done.code == 0, done
    assert snapshot(ended.root) == before
    assert done.lines[0] == "run r  (dry run: nothing was started or written)"
    for said in (
        "config     plan.env  sha256:",
        "--set      BATCH=512",
        "secrets    API_KEY: for the stages only, stored nowhere",
        "teacher    pointer:student: runs/self_distill/r/inputs/teacher_checkpoint.pt  5 B  sha256:",
        "scorecard  scorecard.json  3 B  sha256:",
        "input      teacher.pt  8 B  sha256:",
        "tag file   out/r.jsonl",
        "student    the newest that matches best-*",
        f"folder     {ended.home / 'r'}",
        "label      seed=1",
        "note       why not",
        "llm_on     (skipped: no command)",
        "retrain    log 03_retrain.log, at most 60 s, 2 retries",
        "    echo 1 &&",
        "      echo 2",
        "promotion  to student, if every stage succeeds and retrain leaves a student",
        "record     out/record.json",
        "live now   student g1 = good  success_rate 0.900",
    ):
        assert any(line.startswith(said) for line in done.lines), (said, done.out)
    assert "verysecretvalue" not in done.out + done.err
    assert "warning: LLM_ON_CMD is absent: llm_on will be skipped" in done.err


def test_a_dry_run_warns_of_a_hold(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    for rate in ("0.9", "0.8"):
        done = session.submit("--promotion-target", "student", "--set", f"RATE={rate}")
        assert done.code == 0
    assert session.launcher("rollback", "student", "--yes").code == 0
    done = session.look("submit", *SCORED, "--promotion-target", "student", "--dry-run")
    assert "it would be refused while the pointer is held" in done.out


@pytest.mark.folder
def test_a_ledger_on_a_network_file_system_is_warned_of(
    ended: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No such file system can be mounted here: what the machine says of its mounts is put in its mouth.
    monkeypatch.setattr("launcher.project._mounts", lambda: [("/", "nfs4")])
    done = ended.look("submit", *SCORED, "--dry-run")
    assert done.code == 0
    assert "lies on nfs4, where locks may not hold between machines" in done.err
    monkeypatch.setattr("launcher.project._mounts", lambda: [("/", "ext4")])
    assert "nfs" not in ended.look("submit", *SCORED, "--dry-run").err


def test_a_dry_run_without_promotion_says_so(ended: Session) -> None:
    done = ended.look("submit", *SCORED, "--dry-run")
    assert done.lines[-1] == "promotion  none: no --promotion-target"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["submit", *SCORED, "--set", "BATCH"], 2, "--set 'BATCH' is not NAME=VALUE"),
        (["submit", *SCORED, "--set", "A=1", "--set", "A=2"], 2, "--set A is given twice"),
        (["submit", *SCORED, "--label", "=x"], 2, "--label '=x' is not NAME=VALUE"),
        (["submit", "--config", "none.env"], 2, "no config"),
        (["submit", *GIVEN], 2, "no teacher scorecard is given"),
        (["submit", *SCORED, "--run-id", "good"], 3, "launcher resume good"),
        (["submit", *SCORED, "--run-id", "../x"], 2, "is not allowed"),
        (["cancel", "good"], 3, "run good ended already: succeeded"),
        (["resume", "nobody"], 2, "no run 'nobody'"),
    ],
)
def test_what_cannot_be_is_one_line(
    ended: Session, arguments: list[str], code: int, said: str
) -> None:
    runs = [run["run_id"] for run in ended.json("list")["runs"]]
    done = ended.look(*arguments)
    assert (done.code, done.out) == (code, ""), done
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert [run["run_id"] for run in ended.json("list")["runs"]] == runs


def test_resume_of_an_ended_run_says_how_it_ended_with_its_code(ended: Session) -> None:
    position = ended.json("status", "bad")["ledger"]["position"]
    done = ended.launcher("resume", "bad")
    assert done.code == 7
    assert done.err == "launcher: bad failed: stage=retrain cause=application exit_code=7\n"
    assert not any("started" in line for line in done.lines)
    good = ended.launcher("resume", "good")
    assert (good.code, good.err) == (0, "")
    assert "live    student g1 = good" in good.lines
    assert ended.json("status", "bad")["ledger"]["position"] == position


def test_a_promotion_that_a_dead_launcher_left_is_shown_and_finished(tmp_path: Path) -> None:
    """Killed between the run's end and its promotion: the list says what to type, and that does it."""
    session = make_session(tmp_path / "project")
    kill = (
        "import os, signal\nfrom launcher.cli.main import main\nfrom launcher.runner import Runner\n"
        "Runner.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"main({['submit', *SCORED, '--run-id', 'r', '--promotion-target', 'student']!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", kill],
        cwd=session.root,
        env=session.env(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    assert session.json("list")["runs"][0]["result"] == "promotion undecided: launcher resume r"
    assert session.json("status", "r")["next"] == ["launcher resume r"]
    resumed = session.launcher("resume", "r")
    assert resumed.code == 0, resumed
    assert session.json("list")["runs"][0]["result"] == "live as g1"
