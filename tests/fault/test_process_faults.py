"""Launchers, supervisors and commands, killed or stopped at any moment: every command counts once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.agent.protocol import own_record
from launcher.storage.filesystem import FilesystemStore
from ledger.canonical import canonical_json
from tests.fault.runs import HOLD, ONCE, REPOSITORY, RUN, SUBMIT, Runs, made_runs, python, until

STUDENT = 'echo weights >"$CHECKPOINT_DIR/s.pt"\n'
RETRAIN = ("retrain", ONCE + STUDENT)
HELD = ("retrain", ONCE + HOLD + STUDENT)
PROMOTED = (*SUBMIT, "--promotion-target", "student")
CHILD = python(str(REPOSITORY / "tests/fault/launcher_child.py"))
#: The command lets go of everything that it inherited but its outputs.
CLOSE_ALL = 'for f in /proc/$$/fd/*; do n=${f##*/}; test $n -lt 3 || eval "exec $n>&-"; done\n'


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Runs]:
    """A run whose retrain holds still until the test says go."""
    with made_runs(tmp_path / "p", HELD) as runs:
        yield runs


# --- the launcher -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The steps of a launcher in one short run, in order."""
    with made_runs(tmp_path_factory.mktemp("steps") / "p", RETRAIN) as runs:
        done = runs.end(runs.start("-1", "-", *PROMOTED, command=CHILD))
        assert done.code == 0, done
        return done.out.partition("steps: ")[2].split()


@pytest.mark.parametrize("part", range(4))
def test_a_launcher_killed_before_any_of_its_steps(
    tmp_path: Path, steps: list[str], part: int
) -> None:
    assert steps.count("append") >= 9
    assert steps.count("spawn") == 1
    requested = steps.index("append")
    for death in range(part, len(steps), 4):
        with made_runs(tmp_path / str(death), RETRAIN) as runs:
            killed = runs.end(runs.start(str(death), "-", *PROMOTED, command=CHILD))
            assert killed.code == -signal.SIGKILL, killed
            again = runs.resume() if death > requested else runs.launcher(*PROMOTED)
            assert again.code == 0, (death, again)
            whole(runs)


def whole(runs: Runs) -> None:
    """One run that ran once, succeeded and was promoted once; doing it again changes nothing."""
    assert runs.trace() == ["retrain 1"]
    types = runs.types()
    once = ["RunRequested", "StageIntended", "StageSubmitted", "StageStarted", "StageSucceeded"]
    for name in (*once, "CheckpointRecorded", "RunSucceeded"):
        assert types.count(name) == 1, types
    assert runs.types("pointer/student") == ["PromotionIntended", "PromotionConfirmed"]
    assert runs.types("storage") == ["StorageMeasured"]
    assert runs.in_process("replay", "--check").code == 0
    files, size = runs.project.files(), len(runs.types())
    assert runs.in_process("resume", RUN).code == 0
    assert (runs.project.files(), len(runs.types())) == (files, size)


def test_a_launcher_killed_while_it_waits_is_replaced_by_resume(held: Runs) -> None:
    child = held.start(*SUBMIT)
    held.here("retrain")
    child.kill()
    child.wait()
    resumed = held.start("resume", RUN)
    held.go()
    assert held.end(resumed).code == 0
    assert held.trace() == ["retrain 1"]
    held.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_launcher_that_is_told_to_go_leaves_the_stage_to_its_supervisor(
    held: Runs, number: signal.Signals
) -> None:
    child = held.start(*SUBMIT)
    held.here("retrain")
    os.killpg(child.pid, number)
    assert child.wait(30) == -number
    held.go()
    assert held.object("retrain", "result.json")["exit_code"] == 0
    assert held.metadata()["status"] == "running"
    assert held.resume().code == 0
    assert held.trace() == ["retrain 1"]
    held.check()


def test_a_launcher_that_was_stopped_for_long_adds_nothing(held: Runs) -> None:
    child = held.start(*SUBMIT, "--promotion-target", "student")
    held.here("retrain")
    until(lambda: "StageStarted" in held.types())
    with (held.home / "locks" / f"{RUN}.documents.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it has nothing in hand now but its wait
        child.send_signal(signal.SIGSTOP)
    resumed = held.start("resume", RUN)
    held.go()
    assert held.end(resumed).code == 0
    before = (held.events(), held.types("pointer/student"))
    child.send_signal(signal.SIGCONT)
    done = held.end(child)
    assert done.code == 0, done
    assert "retrain" in done.out
    assert (held.events(), held.types("pointer/student")) == before
    assert held.trace() == ["retrain 1"]
    held.check()


def test_two_launchers_that_resume_one_run_report_the_same_end(held: Runs) -> None:
    killed = held.start("spawn", "-", *SUBMIT, command=CHILD)
    assert killed.wait(30) == -signal.SIGKILL
    both = [held.start("resume", RUN) for _ in range(2)]
    held.here("retrain")
    held.go()
    ends = [held.end(child) for child in both]
    assert [end.code for end in ends] == [0, 0], ends
    assert len({end.out.strip().splitlines()[-1] for end in ends}) == 1
    assert held.trace() == ["retrain 1"]
    assert held.types().count("StageSubmitted") == 1
    held.check()


# --- the supervisor -----------------------------------------------------------------------------


def test_a_supervisor_killed_before_any_of_its_steps(tmp_path: Path) -> None:
    with made_runs(tmp_path / "whole", RETRAIN) as runs:
        done = runs.end(runs.start("-1", "retrain:-1", *SUBMIT, command=CHILD))
        assert done.code == 0, done
        steps = (runs.root / "steps").read_text().split()
    assert steps[:3] == ["link", "start", "end"]
    assert steps[3:].count("link") >= 2
    for death in range(len(steps)):
        with made_runs(tmp_path / str(death), RETRAIN) as runs:
            done = runs.end(runs.start("-1", f"retrain:{death}", *SUBMIT, command=CHILD))
            if death == 0:  # it never said that it began: nothing is charged
                assert done.code == 5, done
                assert "resume" in done.err
                done = runs.resume()
            assert done.code == 0, (death, done)
            ran = ["retrain 1"] if death > 1 else []
            ran += ["retrain 2"] if death > 0 else ["retrain 1"]
            assert runs.trace() == ran, death
            assert runs.causes() == (["lost"] if death > 0 else [])
            runs.check()


@pytest.mark.parametrize("inherited", ["kept", "closed", "new session"])
@pytest.mark.parametrize("launcher", ["lives", "killed"])
def test_the_command_of_a_killed_supervisor_is_ended_before_another_one_starts(
    tmp_path: Path, inherited: str, launcher: str
) -> None:
    before = {"kept": "", "closed": CLOSE_ALL, "new session": ""}[inherited]
    hold = HOLD.replace("\n", "") + "\n"
    if inherited == "new session":
        hold = 'setsid bash -c "sleep 1000" &\n' + hold
    with made_runs(tmp_path / "p", ("retrain", before + ONCE + hold + STUDENT)) as runs:
        child = runs.start(*SUBMIT)
        runs.here("retrain")
        assert len(runs.members("retrain")) >= 2
        if launcher == "killed":
            child.kill()
            child.wait()
        os.kill(runs.supervisor("retrain"), signal.SIGKILL)
        if launcher == "killed":
            child = runs.start("resume", RUN)
        runs.here("retrain", 2)
        assert runs.members("retrain", 1) == set()
        runs.go()
        done = runs.end(child)
        assert done.code == 0, done
        assert "its supervisor is gone" in done.err
        assert runs.trace() == ["retrain 1", "retrain 2"]
        assert runs.causes() == ["lost"]
        runs.check()


def test_lost_attempts_are_bounded(tmp_path: Path) -> None:
    suicide = ONCE + "kill -9 $PPID; sleep 1000\n"
    more = "INFRASTRUCTURE_RETRIES=1\nRETRAIN_RETRIES=5\n"
    with made_runs(tmp_path / "p", ("retrain", suicide), more=more) as runs:
        done = runs.submit("--promotion-target", "student")
        assert done.code == 70, done
        last = done.err.strip().splitlines()[-1]
        assert last.endswith("stage=retrain cause=lost exit_code=70")
        assert runs.trace() == ["retrain 1", "retrain 2"]
        assert runs.types("pointer/student") == []
        runs.check()


def test_a_supervisor_that_is_told_to_go_lets_its_command_save_first(tmp_path: Path) -> None:
    save = 'trap "sleep 0.5; echo half >$CHECKPOINT_DIR/half.pt; exit 0" TERM\n'
    with made_runs(tmp_path / "p", ("retrain", save + ONCE + HOLD + STUDENT)) as runs:
        child = runs.start(*SUBMIT)
        runs.here("retrain")
        os.kill(runs.supervisor("retrain"), signal.SIGTERM)
        runs.here("retrain", 2)
        assert runs.object("retrain", "result.json")["closed_by"] == "lost"
        [saved] = runs.object("retrain", "collected.json")["checkpoints"]
        assert saved["path"] == "checkpoints/half.pt"
        runs.go()
        assert runs.end(child).code == 0
        assert runs.trace() == ["retrain 1", "retrain 2"]
        runs.check()


def test_a_supervisor_that_was_stopped_goes_on_when_it_is_woken(held: Runs) -> None:
    child = held.start(*SUBMIT)
    held.here("retrain")
    pid = held.supervisor("retrain")
    os.kill(pid, signal.SIGSTOP)
    held.go()
    until(lambda: held.members("retrain") == {pid})
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    os.kill(pid, signal.SIGCONT)
    assert held.end(child).code == 0
    assert held.trace() == ["retrain 1"]
    held.check()


def test_a_supervisor_that_is_stopped_can_be_cancelled(held: Runs) -> None:
    child = held.start(*SUBMIT)
    held.here("retrain")
    os.kill(held.supervisor("retrain"), signal.SIGSTOP)
    cancelled = held.launcher("cancel", RUN)
    assert cancelled.code == 0, cancelled
    assert held.end(child).code == 130
    held.check()


# --- this machine, and others -------------------------------------------------------------------


def started_by(runs: Runs, **differs: str) -> None:
    """A run whose attempt was started by a supervisor that differs from one of here and now."""
    child = runs.start("spawn", "-", *SUBMIT, command=CHILD)
    assert child.wait(30) == -signal.SIGKILL
    assert runs.types()[-1] == "StageIntended"
    key = f"runs/{RUN}/llm_on/1/start.json"
    record = canonical_json({**own_record(), **differs})
    FilesystemStore(runs.home / "objects").create(key, record)


def test_an_attempt_of_before_a_restart_is_lost_and_tried_again(tmp_path: Path) -> None:
    with made_runs(tmp_path / "p", ("llm_on", ONCE)) as runs:
        started_by(runs, boot_id="another boot")
        done = runs.resume()
        assert done.code == 0, done
        assert "this machine was restarted" in done.out
        assert runs.trace() == ["llm_on 2"]
        assert runs.causes() == ["lost"]
        runs.check()


def test_an_attempt_of_another_machine_is_left_alone_but_by_force(tmp_path: Path) -> None:
    with made_runs(tmp_path / "p", ("llm_on", ONCE)) as runs:
        started_by(runs, machine_id="far/0123456789ab")
        for arguments in (("resume", RUN), ("cancel", RUN)):
            refused = runs.launcher(*arguments)
            assert refused.code == 3, refused
            assert "far/0123456789ab" in refused.err
            assert refused.err.count("\n") == 1
        assert runs.trace() == []
        assert runs.resume("--force").code == 0
        assert runs.trace() == ["llm_on 2"]
        runs.check()


# --- stopping -----------------------------------------------------------------------------------

SAVES = 'trap "echo half >$CHECKPOINT_DIR/half.pt; echo saved; exit 0" TERM\n'


@pytest.mark.parametrize("how", ["timeout", "cancel", "ctrl-c"])
def test_a_trainer_that_saves_and_exits_0_when_it_is_stopped_is_no_success(
    tmp_path: Path, how: str
) -> None:
    more = "RETRAIN_TIMEOUT=1.5\nRETRAIN_RETRIES=3\n" if how == "timeout" else "RETRAIN_RETRIES=3\n"
    with made_runs(tmp_path / "p", ("retrain", SAVES + ONCE + HOLD), more=more) as runs:
        child = runs.start(*SUBMIT, "--promotion-target", "student")
        runs.here("retrain")
        if how == "cancel":
            cancelled = runs.launcher("cancel", RUN, "--reason", "wrong data")
            assert cancelled.code == 0, cancelled
        elif how == "ctrl-c":
            os.killpg(child.pid, signal.SIGINT)
        done = runs.end(child)
        cause = "timeout" if how == "timeout" else "cancelled"
        code = 70 if how == "timeout" else 130
        assert done.code == code, done
        last = done.err.strip().splitlines()[-1]
        assert last.endswith(f"stage=retrain cause={cause} exit_code={code}"), last
        assert runs.object("retrain", "result.json")["closed_by"] == cause
        collected = runs.object("retrain", "collected.json")
        assert [c["path"] for c in collected["checkpoints"]] == ["checkpoints/half.pt"]
        [failed] = [event.data for event in runs.events() if event.type == "StageFailed"]
        assert failed.log_digest == collected["log_digest"]
        assert (runs.run_dir / "logs/03_retrain.log").read_text().endswith("saved\n")
        assert runs.metadata()["student_checkpoint"] is None
        assert runs.types("pointer/student") == []
        assert runs.trace() == ["retrain 1"]
        if how != "timeout":
            end = runs.events()[-1].data
            assert end.reason == ("wrong data" if how == "cancel" else "interrupted")
        runs.check()


def test_a_second_ctrl_c_leaves_at_once_and_resume_finishes_the_books(tmp_path: Path) -> None:
    slow = 'trap "touch {root}/told; sleep 2; exit 0" TERM\n'
    with made_runs(tmp_path / "p", ("retrain", slow + ONCE + HOLD)) as runs:
        runs.project.environment["LAUNCHER_GRACE_SECONDS"] = "20"
        child = runs.start(*SUBMIT)
        runs.here("retrain")
        os.killpg(child.pid, signal.SIGINT)
        until((runs.root / "told").exists)
        os.killpg(child.pid, signal.SIGINT)
        left = runs.end(child, seconds=1.5)
        assert left.code == 130
        assert "Traceback" not in left.err
        assert "resume" in left.err.strip().splitlines()[-1]
        assert runs.types()[-1] == "StageStarted"
        done = runs.resume()
        assert done.code == 130, done
        assert runs.causes() == ["cancelled"]
        runs.check()


def test_ctrl_c_at_any_moment_leaves_books_that_resume_can_finish(tmp_path: Path) -> None:
    for number, delay in enumerate((0.15, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)):
        with made_runs(tmp_path / str(number), ("llm_on", ONCE), RETRAIN) as runs:
            child = runs.start(*SUBMIT, "--promotion-target", "student")
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(delay)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)
            done = runs.end(child)
            assert done.code in (0, 130, -signal.SIGINT), done
            assert "Traceback" not in done.err or done.code == -signal.SIGINT
            if "RunRequested" in runs.types():
                end = runs.resume()
                assert end.code in (0, 130), end
                assert len(runs.trace()) == len(set(runs.trace()))
                runs.check()


def test_whoever_closed_an_attempt_need_not_live_to_signal_it(held: Runs) -> None:
    child = held.start(*SUBMIT)
    held.here("retrain")
    closed = {"exit_code": None, "closed_by": "cancelled", "message": "by one who died"}
    store = FilesystemStore(held.home / "objects")
    store.create(f"runs/{RUN}/retrain/1/result.json", canonical_json(closed))
    done = held.end(child)
    assert done.code == 130, done
    assert held.events()[-1].data.reason == "by one who died"
    held.check()


def test_cancel_between_a_launcher_that_died_and_its_resume(held: Runs) -> None:
    child = held.start("spawn", "-", *SUBMIT, command=CHILD)
    assert child.wait(30) == -signal.SIGKILL
    assert held.launcher("cancel", RUN).code == 0
    assert held.launcher("cancel", RUN).code == 3
    assert held.resume().code == 130
    assert held.trace() == []
    held.check()
