"""submit's screen: one fact a line in a pipe, a living line on a terminal, and a last line for scripts."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ledger import events as e
from ledger.identity import identify
from ledger.ids import run_stream
from tests.cli.session import GIVEN, LAUNCHER, Session, Terminal, make_session, until
from tests.launcher.pointer_world import project_workspace
from tests.rig.fault_proxy import Handler, Request, proxied
from tests.rig.s3 import S3Server, s3_server
from tests.rig.stores import object_file

__all__ = ["s3_server"]

TARGET = ("--promotion-target", "student")
SECONDS = r"\d+\.\d+s"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project")


def submit_in_terminal(session: Session, *arguments: str, **more: str) -> Terminal:
    return Terminal(session, ["submit", "--config", "loop.env", *GIVEN, *arguments], **more)


def wait_for(name: str) -> str:
    return f'until [ -e "{name}" ]; do sleep 0.02; done'


# --- in a pipe ------------------------------------------------------------------------------------


def test_a_run_is_told_one_fact_a_line(session: Session) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(session.root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    first = session.submit("--run-id", "one", *TARGET)
    done = session.submit("--run-id", "two", *TARGET, "--teacher-checkpoint", "pointer:student")
    assert (first.code, done.code, done.err) == (0, 0, "")
    expected = [
        r"run two  teacher pointer:student g1  code [0-9a-f]{7} \+\d+ dirty",
        r"llm_on  started",
        rf"llm_on  succeeded  {SECONDS}  1 file, 2 B",
        r"relabel  started",
        rf"relabel  succeeded  {SECONDS}  tags pending  1 file, 40 B",
        r"retrain  started",
        rf"retrain  succeeded  {SECONDS}  student 4 B  1 file, 4 B",
        r"llm_off  started",
        rf"llm_off  succeeded  {SECONDS}  success_rate 0\.900  1 file, \d+ B",
        r"live    student g2 = two",
        r"undo    launcher rollback student --to 1",
        rf"folder  {re.escape(str(session.home / 'two'))}",
        r"two succeeded: exit_code=0",
    ]
    assert len(done.lines) == len(expected)
    for line, pattern in zip(done.lines, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_a_failure_ends_with_log_next_and_stage_cause_exit_code(session: Session) -> None:
    lines = 'for i in $(seq 12); do echo "line $i"; done; exit 7'
    done = session.submit("--run-id", "r", *TARGET, "--set", f"RETRAIN_EXTRA={lines}")
    assert done.code == 7
    at = next(i for i, line in enumerate(done.lines) if line.startswith("retrain  failed"))
    assert re.fullmatch(rf"retrain  failed  {SECONDS}  exit code 7", done.lines[at])
    assert done.lines[at + 1 :] == [
        *(f"  | line {n}" for n in range(3, 13)),
        "next    launcher status r",
        "next    launcher logs r retrain",
    ]
    assert done.err == "launcher: r failed: stage=retrain cause=application exit_code=7\n"


def test_a_timeout_and_a_retry_are_told(session: Session) -> None:
    again = '[ "$ATTEMPT" = 2 ] || exit 3; ' + wait_for("never")
    done = session.submit(
        *("--run-id", "r", "--set", f"RETRAIN_EXTRA={again}", "--set", "RETRAIN_RETRIES=1"),
        *("--set", "RETRAIN_TIMEOUT=0.5"),
    )
    assert done.code == 70
    assert "retrain  started  attempt 2" in done.lines
    last = [line for line in done.lines if line.startswith("retrain  failed")][-1]
    assert re.fullmatch(
        rf"retrain  failed  {SECONDS}  attempt 2  timeout: it ran longer than 0.5 s.*", last
    )
    assert done.err == "launcher: r failed: stage=retrain cause=timeout exit_code=70\n"


def test_a_refused_promotion_ends_with_its_cause(session: Session) -> None:
    for run_id in ("one", "two"):
        assert session.submit("--run-id", run_id, *TARGET, "--set", f"BATCH={run_id}").code == 0
    assert session.launcher("rollback", "student", "--yes", "--reason", "bad").code == 0
    done = session.submit("--run-id", "three", *TARGET)
    assert done.code == 3
    refused, last = done.err.splitlines()
    assert refused.startswith("launcher: not promoted: student is held since ")
    assert refused.endswith("launcher release student")
    assert last == "launcher: three succeeded: stage=promotion cause=held exit_code=3"


def test_a_run_goes_on_without_its_reader(session: Session) -> None:
    given = " ".join(GIVEN)
    command = (
        f'"$0" submit --config loop.env --run-id r {given} | head -1; echo "${{PIPESTATUS[0]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", command, str(LAUNCHER)],
        cwd=session.root,
        env=session.env(),
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode().splitlines() == ["run r  teacher teacher.pt", "0"]
    assert done.stderr == b""
    assert session.json("status", "r")["status"] == "succeeded"


def test_a_run_goes_on_where_the_screen_is_a_full_disk(session: Session) -> None:
    with Path("/dev/full").open("wb") as full:
        run = session.start_submit("--run-id", "r", stdout=full, stderr=full)
        assert run.wait(timeout=60) == 0
    assert session.json("status", "r")["status"] == "succeeded"


# --- on a terminal --------------------------------------------------------------------------------


def earlier_runs(session: Session, minutes: list[int]) -> None:
    """Runs of this config, as the ledger would have them, whose llm_on took so long."""
    ledger = project_workspace(session.root).ledger
    zero = "sha256:" + "0" * 64
    for number, took in enumerate(minutes):
        run_id = f"earlier-{number}"
        plans = tuple(e.StagePlan(name=name, command="true", spec_digest=zero) for name in e.STAGES)
        begun: list[e.EventData] = [
            e.RunRequested(
                run_id=run_id,
                project="project",
                project_root=str(session.root),
                output_root="runs/self_distill",
                config=e.ConfigRef(path="loop.env", digest=zero),
                stages=plans,
                provenance=e.Provenance(launcher_version="0.1.0"),
            ),
            e.StageIntended(stage="llm_on", attempt=1, executor="local", spec_digest=zero),
        ]
        ended: list[e.EventData] = [
            e.StageSubmitted(stage="llm_on", attempt=1, handle=e.Handle(), log="x"),
            e.StageSucceeded(stage="llm_on", attempt=1, manifest_digest=zero, log_digest=None),
            e.RunCancelled(stage="relabel", reason="x"),
        ]
        stream = run_stream(run_id)
        for version, facts, minute in ((0, begun, 0), (len(begun), ended, took)):
            ledger.append(
                stream,
                version,
                [identify(stream, fact) for fact in facts],
                now=f"2026-01-31T{2 + minute // 60:02d}:{minute % 60:02d}:00.000000Z",
                actor="ana",
            )
    ledger.close()


def test_a_living_line_with_the_last_log_line_and_what_is_left(session: Session) -> None:
    earlier_runs(session, [50, 70, 60])
    (session.root / "talk.sh").write_text(
        "printf '\\033]0;a title\\007\\033[35mstep 1\\033[0m\\rstep 2\\r'\n" + wait_for("go") + "\n"
    )
    terminal = submit_in_terminal(session, "--run-id", "r", "--set", "LLM_ON_EXTRA=bash talk.sh")
    terminal.until("Ctrl-C stops the stage; closing the terminal does not: launcher resume r")
    terminal.until("left (median of 3)")
    terminal.until("step 2")
    (session.root / "go").touch()
    assert terminal.wait() == 0
    assert re.search(r"● ?(?:\x1b\[[\d;]*m)* ?llm_on +\d+\.\ds +~59m\d\ds left", terminal.text)
    assert "a title" not in terminal.text  # an escape sequence of the stage's own
    assert "\x1b[35m" not in terminal.text
    # What is left on the screen: the living line is gone, a line for each stage stays.
    final = screen(terminal.text)
    assert [line.split()[:2] for line in final if line.startswith(" ✓")] == [
        ["✓", "llm_on"],
        ["✓", "relabel"],
        ["✓", "retrain"],
        ["✓", "llm_off"],
    ]
    assert not any("median" in line or "step" in line for line in final)
    assert final[-1] == "r succeeded: exit_code=0"
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h") > 0  # the cursor


def screen(drawn: str) -> list[str]:
    """The lines that stand on a screen after ``drawn``: line feeds, cursor up, erase line, and text."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", drawn):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif re.fullmatch(r"\x1b\[[0-9]*A", part):
            row = max(0, row - int(part[2:-1] or 1))
        elif re.fullmatch(r"\x1b\[[0-9]*K", part):
            lines[row] = ""
        elif part and part != "\r" and not part.startswith("\x1b"):
            lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_living_line_only_where_it_can_be_drawn(session: Session, more: dict[str, str]) -> None:
    (session.root / "wait.sh").write_text(wait_for("go") + "\n")
    arguments = ["--run-id", "r", "--set", "LLM_ON_EXTRA=bash wait.sh"]
    terminal = submit_in_terminal(session, *arguments, **more)
    if "NO_COLOR" in more:
        terminal.until("● llm_on")
    else:
        terminal.until("llm_on  started")
    (session.root / "go").touch()
    assert terminal.wait() == 0
    assert re.search(r"\x1b\[(?!0m)[\d;]+m", terminal.text) is None
    assert ("\x1b" in terminal.text) == ("NO_COLOR" in more)


def test_ctrl_c_stops_the_stage_and_says_so(session: Session) -> None:
    terminal = submit_in_terminal(
        session, "--run-id", "r", "--set", f"LLM_ON_EXTRA={wait_for('never')}"
    )
    until(lambda: session.stage_status("r", "llm_on") == "running", "llm_on started")
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    final = screen(terminal.text)
    assert final[-1] == "launcher: r cancelled: stage=llm_on cause=cancelled exit_code=130"
    assert "stopping; a second Ctrl-C leaves at once" in terminal.text
    assert "Traceback" not in terminal.text
    assert session.json("list")["runs"][0]["result"] == "llm_on: interrupted"


def test_a_second_ctrl_c_leaves_and_names_the_way_back(session: Session) -> None:
    stubborn = "trap '' TERM; " + wait_for("go")
    (session.root / "stubborn.sh").write_text(stubborn + "\n")
    terminal = submit_in_terminal(
        session, "--run-id", "r", "--set", "LLM_ON_EXTRA=bash stubborn.sh"
    )
    until(lambda: session.stage_status("r", "llm_on") == "running", "llm_on started")
    terminal.type(b"\x03")
    terminal.until("a second Ctrl-C leaves at once")
    closed = object_file(session.root, "runs/r/llm_on/1/result.json")
    until(closed.exists, "the stage was closed")
    terminal.type(b"\x03")
    assert terminal.wait() == 130
    assert "left r; what was started goes on: launcher resume r" in terminal.text
    assert "Traceback" not in terminal.text
    (session.root / "go").touch()
    done = session.launcher("resume", "r")
    assert done.code == 130
    assert done.err.endswith("launcher: r cancelled: stage=llm_on cause=cancelled exit_code=130\n")


def test_resume_shows_what_ended_before(session: Session) -> None:
    run = session.start_submit("--run-id", "r", "--set", f"RETRAIN_EXTRA={wait_for('go')}")
    until(lambda: session.stage_status("r", "retrain") == "running", "retrain started")
    run.kill()
    run.communicate()
    (session.root / "go").touch()
    done = session.launcher("resume", "r")
    assert done.code == 0, done
    stages = [line.split("  ")[:2] for line in done.lines[1:6]]
    assert stages[:2] == [["llm_on", "succeeded"], ["relabel", "succeeded"]]
    assert ["retrain", "succeeded"] in stages
    assert done.lines[-1] == "r succeeded: exit_code=0"


# --- what a bucket takes long to store ----------------------------------------------------------------


def test_big_outputs_are_shown_on_their_way_to_a_bucket(
    tmp_path: Path, s3_server: S3Server
) -> None:
    seen = threading.Event()

    def slowly(handler: Handler, request: Request) -> None:
        """Three parts take a moment; the others wait until somebody saw that."""
        if int(request.query["partNumber"]) <= 3:
            time.sleep(1.2)
        else:
            seen.wait(60)
        handler.send(handler.proxy.forward(request))

    with proxied(s3_server) as proxy:
        session = make_session(
            tmp_path / "project",
            **s3_server.environment(proxy.endpoint),
            LAUNCHER_STORE=f"s3://{s3_server.bucket()}/loop",
            XDG_CACHE_HOME=str(tmp_path / "cache"),
        )
        proxy.rule(slowly, method="PUT", query="partNumber", times=1000)
        big = 'head -c 40000000 /dev/urandom > "$CHECKPOINT_DIR/big.pt"'
        screen = submit_in_terminal(session, "--run-id", "one", "--set", f"RETRAIN_EXTRA={big}")
        try:
            screen.until("storing ")
        finally:
            seen.set()
        assert screen.wait() == 0, screen.text
    said = re.findall(r"storing [^\x1b\r\n]*", screen.text)[0]
    assert re.fullmatch(
        r"storing (8\.4|16\.8|25\.2) MB of 40\.0 MB, \d+(\.\d)? [kM]?B/s", said.strip()
    ), repr(said)
    assert not list((session.home / "locks").glob("*.transfer.json"))
