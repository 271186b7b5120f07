"""status, list and ``launcher`` alone: what is live, what is broken, what to type next."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launcher.cli.differences import Change
from launcher.cli.listing import parse_since
from launcher.cli.stages import remaining
from launcher.errors import UsageError
from tests.cli.session import Session, Terminal, make_session
from tests.rig.stores import copy_project, object_file

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "json.md"


@dataclass
class Loop:
    """A good run (g1), a better-looking bad one (g2), one that failed, a rollback (g3), one refused."""

    session: Session
    good: str
    bad: str
    failed: str
    refused: str


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    session = make_session(tmp_path_factory.mktemp("look") / "project")

    def submit(code: int, *arguments: str) -> str:
        done = session.submit(*arguments)
        assert done.code == code, done
        return done.lines[0].split()[1]

    target = ("--promotion-target", "student")
    good = submit(0, *target, "--label", "seed=1")
    bad = submit(0, *target, "--set", "RATE=0.84", "--note", "wörse on purpose")
    boom = 'for i in 1 2 3 4 5 6 7; do echo "line $i"; done; exit 7'
    failed = submit(7, *target, "--set", "BATCH=512", "--set", f"RETRAIN_EXTRA={boom}")
    back = session.launcher("rollback", "student", "--reason", "stuck", "--yes")
    assert back.code == 0, back
    refused = submit(3, *target, "--teacher-checkpoint", "pointer:student")
    return Loop(session, good, bad, failed, refused)


def short(run_id: str) -> str:
    return f"{run_id[4:8]}-{run_id[-4:]}"


# --- list -----------------------------------------------------------------------------------------


def test_list_shows_what_is_live_and_what_became_of_each_run(loop: Loop) -> None:
    lines = loop.session.launcher("list").lines
    live = rf"LIVE student g3 = {short(loop.good)}  success_rate 0\.900  held by ana \d+s ago"
    assert re.fullmatch(live, lines[0])
    assert lines[1].split() == ["RUN", "AGE", "STATE", "STAGES", "METRIC", "RESULT"]
    rows = [re.split(r"  +", line) for line in lines[2:]]
    assert [[r[0], *r[2:]] for r in rows] == [
        [loop.refused, "succeeded", "4/4", "0.900 +.000", "refused: held"],
        [loop.failed, "failed", "2/4", "-", "retrain: exit code 7"],
        [loop.bad, "succeeded", "4/4", "0.840 -.060", "g2, rolled back"],
        [loop.good, "succeeded", "4/4", "0.900", "g1, live as g3"],
    ]


def test_list_on_a_terminal_draws_marks_and_short_names(loop: Loop) -> None:
    terminal = Terminal(loop.session, ["list"])
    assert terminal.wait() == 0
    rows = [line for line in terminal.text.splitlines() if short(loop.failed) in line]
    assert re.sub(r"\x1b\[[0-9;]*m", "", rows[0]).split()[:5] == [
        short(loop.failed),
        rows[0].split()[1],
        "failed",
        "✓✓✗·",
        "-",
    ]
    assert "\x1b[31m" in rows[0]


@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(loop: Loop, more: dict[str, str]) -> None:
    terminal = Terminal(loop.session, ["list"], **more)
    assert terminal.wait() == 0
    assert "\x1b" not in terminal.text
    assert ("✓✓✗·" in terminal.text) == ("NO_COLOR" in more)


def test_list_chooses(loop: Loop) -> None:
    def ids(*arguments: str) -> list[str]:
        return [run["run_id"] for run in loop.session.json("list", *arguments)["runs"]]

    assert ids("--failed") == [loop.failed]
    assert ids("-n", "2") == [loop.refused, loop.failed]
    assert ids("--since", "1h") == [loop.refused, loop.failed, loop.bad, loop.good]
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert ids("--since", soon) == []
    done = loop.session.look("list", "-n", "1")
    assert done.lines[-1] == "more: launcher list -n 5"
    assert loop.session.look("list", "--failed", "--since", soon).lines[-1] == (
        f"no failed run since {soon}"
    )


@pytest.mark.parametrize("text", ["yesterday", "7", "7y", "", "-1d", "999999w"])
def test_an_age_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="no age and no time"):
        parse_since(text, datetime(2026, 6, 11, tzinfo=UTC))


def test_ages_and_times() -> None:
    now = datetime(2026, 6, 11, 12, tzinfo=UTC)
    assert parse_since("90m", now) == datetime(2026, 6, 11, 10, 30, tzinfo=UTC)
    assert parse_since("2w", now) == datetime(2026, 5, 28, 12, tzinfo=UTC)
    assert parse_since("2026-06-01", now) == datetime(2026, 6, 1, tzinfo=UTC)


# --- status ---------------------------------------------------------------------------------------


def test_status_of_a_failed_run_says_why_what_differs_and_what_to_type(loop: Loop) -> None:
    lines = loop.session.look("status", loop.failed).lines
    assert lines[0].startswith(f"{loop.failed}  FAILED in retrain: exit code 7  ")
    assert "retrain  failed" in lines[3]
    assert "why     the command ended with exit code 7" in lines
    assert [line for line in lines if line.startswith("log ")] == [
        f"log     line {n}" for n in (3, 4, 5, 6, 7)
    ]
    since = f"since last good ({short(loop.bad)})"
    assert f"{since}: BATCH 256→512" in lines
    assert f"{since}: RATE 0.84→0.9" in lines
    assert f"{since}: RETRAIN_EXTRA is new" in lines
    assert any(line.startswith("live    student g3") and "unchanged" in line for line in lines)
    commands = [line.removeprefix("next").strip() for line in lines if line.startswith("next")]
    assert commands[0] == f"launcher logs {short(loop.failed)} retrain"


def test_status_on_a_terminal_is_short(loop: Loop) -> None:
    terminal = Terminal(loop.session, ["status", loop.failed], NO_COLOR="1")
    assert terminal.wait() == 0
    assert f"{short(loop.failed)}  FAILED in retrain" in terminal.text
    assert " ✗ retrain " in terminal.text
    assert "BATCH 256→512, RATE 0.84→0.9, RETRAIN_EXTRA is new" in terminal.text


def test_every_next_command_is_one_that_runs(loop: Loop, tmp_path: Path) -> None:
    copy = Session(tmp_path / "project", loop.session.environment)
    copy_project(loop.session.root, copy.root)
    expected = {"logs": 0, "submit": 7, "release": 0, "promote": 0, "rollback": 0, "list": 0}
    seen = []
    for run_id in (loop.failed, loop.refused, loop.good):
        for command in copy.json("status", run_id)["next"]:
            words = shlex.split(command)
            again = ["--yes"] if words[1] == "rollback" else []
            done = copy.launcher(*words[1:], *again)
            assert done.code == expected[words[1]], (command, done)
            seen.append(words[1])
    assert {"logs", "submit", "release", "promote"} <= set(seen)


def test_status_of_a_good_run(loop: Loop) -> None:
    lines = loop.session.look("status", loop.bad).lines
    assert lines[0].startswith(f"{loop.bad}  succeeded")
    assert re.fullmatch(r"llm_on  succeeded  [\d.]+s  1 file, 2 B", lines[1])
    assert re.search(r"  2 duplicates  tags pending  1 file, \d+ B$", lines[2])
    assert "  student 22 B  1 file, 22 B" in lines[3]
    assert "  success_rate 0.840  1 file, " in lines[4]
    assert "note    wörse on purpose" in lines
    assert "result  g2, rolled back" in lines
    labels = loop.session.look("status", loop.good).lines
    assert "labels  seed=1" in labels


def test_status_without_a_run_is_of_the_newest(loop: Loop) -> None:
    done = loop.session.look("status")
    assert done.lines[0].startswith(loop.refused)
    assert f"next    launcher promote {short(loop.refused)} student" in done.lines
    assert "next    launcher release student" in done.lines


@pytest.mark.parametrize("form", ["whole", "short", "suffix", "prefix"])
def test_runs_are_known_by_any_form_that_is_theirs_alone(loop: Loop, form: str) -> None:
    run_id = loop.bad
    text = {"whole": run_id, "short": short(run_id), "suffix": run_id[-4:], "prefix": run_id[:20]}
    done = loop.session.look("status", text[form])
    assert done.lines[0].startswith(run_id)


def test_an_unknown_or_ambiguous_run_is_one_line(loop: Loop) -> None:
    for text, said in (("zzzz", "no run 'zzzz'"), ("2", "names 4 runs")):
        done = loop.session.look("status", text)
        assert (done.code, done.out) == (2, "")
        assert len(done.err.splitlines()) == 1
        assert said in done.err


def test_a_log_whose_folder_is_gone_is_told_from_the_store(loop: Loop, tmp_path: Path) -> None:
    copy = Session(tmp_path / "project", loop.session.environment)
    copy_project(loop.session.root, copy.root)
    shutil.rmtree(copy.home / loop.failed)
    shown = copy.json("status", loop.failed)["run_dir"]
    assert not Path(shown).is_relative_to(copy.root)  # a run's folder is where it was requested
    shutil.rmtree(loop.session.home / loop.good / "logs")
    assert loop.session.look("logs", loop.good, "retrain").out == "epoch 1\nloss 0.412\n"


# --- launcher alone -------------------------------------------------------------------------------


def test_launcher_alone_shows_the_day(loop: Loop) -> None:
    lines = loop.session.look().lines
    assert lines[0].startswith("LIVE student g3")
    assert lines[1].startswith(f"last    {loop.refused}  succeeded")
    assert lines[1].endswith("  refused: held")
    assert lines[2].startswith(f"failed  {loop.failed}  FAILED in retrain")
    assert lines[3:] == [
        "next    launcher release student",
        f"next    launcher status {short(loop.failed)}",
        "next    launcher list",
    ]


def test_launcher_alone_in_an_empty_project_writes_nothing(tmp_path: Path) -> None:
    session = Session(tmp_path)
    for arguments in ((), ("list",), ("list", "--json")):
        assert session.look(*arguments).code == 0
    assert session.look("status").code == 2
    assert "launcher submit --config FILE" in session.look().out
    assert list(tmp_path.iterdir()) == []


def test_a_pointer_that_cannot_be_read_is_said_and_the_rest_is_shown(
    loop: Loop, tmp_path: Path
) -> None:
    copy = Session(tmp_path / "project", loop.session.environment)
    copy_project(loop.session.root, copy.root)
    object_file(copy.root, "pointers/student/00000002.json").unlink()
    for arguments in ((), ("list",), ("status", loop.bad)):
        done = copy.look(*arguments)
        assert done.code == 0, done
        assert "BROKEN student: student: pointers/student/00000002.json is missing" in done.out
    assert copy.json("list")["live"][0]["error"].startswith("student: pointers/student/00000002")


# --- for programs ---------------------------------------------------------------------------------


def documented(heading: str) -> set[str]:
    """The keys in the first column of a table in docs/json.md."""
    section = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def test_json_has_the_documented_keys_and_no_others(loop: Loop) -> None:
    listed = loop.session.json("list")
    assert set(listed) == {"live", "runs", "more"}
    for run in listed["runs"]:
        assert set(run) == documented("A run in `launcher list`")
    for pointer in listed["live"]:
        assert set(pointer) == documented("A pointer in `live`")
    for run_id in (loop.good, loop.failed):
        status = loop.session.json("status", run_id)
        assert set(status) == documented("`launcher status`")
        for stage in status["stages"]:
            assert set(stage) == documented("A stage in `launcher status`")


def test_json_says_what_the_screen_says(loop: Loop) -> None:
    status = loop.session.json("status", loop.failed)
    assert status["failure"] == {
        "stage": "retrain",
        "attempt": 1,
        "cause": "application",
        "exit_code": 7,
        "message": "the command ended with exit code 7",
        "log": [f"line {n}" for n in (3, 4, 5, 6, 7)],
    }
    since = status["since_last_good"]
    assert since["run_id"] == loop.bad
    assert {"name": "BATCH", "before": "256", "after": "512"} in since["changes"]
    assert loop.session.json("status", loop.refused)["since_last_good"] is None
    row = loop.session.json("list")["runs"][2]
    assert (row["metrics"]["success_rate"], row["metric_before"]) == (0.84, 0.9)


def test_json_of_odd_bytes_can_be_read(loop: Loop) -> None:
    done = loop.session.launcher("status", loop.bad, "--json", PYTHONIOENCODING="ascii")
    assert json.loads(done.out)["note"] == "wörse on purpose"


# --- small pieces ---------------------------------------------------------------------------------


def test_how_long_is_left() -> None:
    assert remaining(None, 3.0) == ""
    assert remaining((4230.0, 9), 1110.0) == "~52m00s left (median of 9)"
    assert remaining((60.0, 1), 61.0) == "longer than the usual 1m00s (1 run before)"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (Change("BATCH", "256", "512"), "BATCH 256→512"),
        (Change("BATCH", None, "512"), "BATCH 512 is new"),
        (Change("BATCH", "256", None), "BATCH is gone"),
        (Change("EMPTY", "", "1"), "EMPTY ''→1"),
        (Change("RETRAIN_CMD", "a" * 40, "b"), "RETRAIN_CMD changed"),
        (Change("X", "a\nb", "b"), "X changed"),
    ],
)
def test_a_change_in_few_words(change: Change, shown: str) -> None:
    assert str(change) == shown
