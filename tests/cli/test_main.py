"""The door: help, one-line errors and their exit codes, readers that go away, outputs that are closed or full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import listing
from launcher.cli.main import COMMANDS
from launcher.cli.terminal import one_line
from ledger.stores.sqlite import SqliteEventStore
from tests.cli.session import GIVEN, LAUNCHER, Session, make_session

#: A way to call each command that gets as far as the ledger.
CALLS = {
    "submit": ["--config", "loop.env", "--teacher-checkpoint", "teacher.pt"],
    "resume": ["r"],
    "attach": ["r"],
    "cancel": ["r"],
    "cron": ["p", "--schedule", "@daily", "--", "--config", "loop.env"],
    "pause": ["p", "--reason", "r"],
    "unpause": ["p"],
    "status": [],
    "list": [],
    "logs": ["r"],
    "tags": ["validate", "r"],
    "promote": ["r", "student"],
    "release": ["student"],
    "pull": ["run:r", "out.pt"],
    "storage": [],
    "replay": [],
    "audit": [],
    "drill": [],
    "restore": ["r"],
    "gc": ["--run-dirs"],
    "ledger": ["head"],
}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project")


# --- help -----------------------------------------------------------------------------------------


def test_help_names_every_command_under_its_heading(session: Session) -> None:
    done = session.look("--help")
    assert done.code == 0
    for name, (_, text, heading) in COMMANDS.items():
        assert f"\n  {name:<8}  {text}\n" in done.out
        assert f"\n{heading}:\n" in done.out
    assert done.out == session.look("-h").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(session: Session, name: str) -> None:
    done = session.look(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: launcher {name}")
    assert list(session.root.glob("runs")) == []


def test_help_waits_for_nothing_heavy(session: Session) -> None:
    code = (
        "import sys\nfrom launcher.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'rich', 'sqlite3', 'psutil', 'boto3', 'jsonschema', 'kubernetes'}\n"
        "print('HEAVY', heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[-1] == "HEAVY set()"


@pytest.mark.parametrize(
    "arguments", [["list"], ["status"], ["submit", "--dry-run", "--config", "loop.env", *GIVEN]]
)
def test_whoever_asks_no_cluster_waits_for_no_client_of_it(
    session: Session, arguments: list[str]
) -> None:
    assert session.submit().code == 0
    code = (
        "import sys\nfrom launcher.cli.main import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as exc: assert not exc.code, exc.code\n"
        "print('CLIENT', {'kubernetes'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=session.root,
        env=session.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "CLIENT set()"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lsit"], "no command 'lsit'; did you mean 'list'? (see launcher --help)"),
        (["xyzzy"], "no command 'xyzzy' (see launcher --help)"),
        (["list", "--bogus"], "No such option '--bogus' (see launcher list --help)"),
        (["logs"], "Missing argument 'RUN' (see launcher logs --help)"),
        (["list", "-n", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    session: Session, arguments: list[str], said: str
) -> None:
    done = session.look(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("launcher: ")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--debug", "status"], ["status", "--debug"]])
def test_debug_anywhere_puts_the_traceback_before_the_same_line(
    session: Session, arguments: list[str]
) -> None:
    plain, debug = session.look("status"), session.look(*arguments)
    assert plain.code == debug.code == 2
    assert "Traceback" not in plain.err
    assert debug.err.startswith("Traceback")
    assert debug.err.splitlines()[-1] == plain.err.strip()


def test_debug_as_a_value_is_a_value(session: Session) -> None:
    done = session.look("status", "--home", "--debug")
    assert "Traceback" not in done.err


def test_a_defect_is_one_line_and_exit_1(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_ws: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(listing, "View", broken)
    done = session.look("list")
    assert done.code == 1
    assert done.err.startswith("launcher: a defect: KeyError: 'x' at test_main.py:")
    assert "Traceback" in session.look("list", "--debug").err


@pytest.mark.folder
@pytest.mark.parametrize("name", CALLS)
def test_a_damaged_ledger_is_an_integrity_error_of_every_command(
    session: Session, name: str
) -> None:
    session.home.mkdir(parents=True)
    (session.home / "ledger.db").write_bytes(b"this was a ledger" * 1000)
    done = session.look(name, *CALLS[name])
    assert done.code == 4, done
    assert "ledger.db" in done.out + done.err
    assert "Traceback" not in done.err
    if name != "audit":
        assert len(done.err.splitlines()) == 1
    assert (session.home / "ledger.db").read_bytes() == b"this was a ledger" * 1000


@pytest.mark.folder
def test_a_damaged_ledger_is_said_by_launcher_alone(session: Session) -> None:
    session.home.mkdir(parents=True)
    (session.home / "ledger.db").write_bytes(b"this was a ledger" * 1000)
    done = session.look()
    assert (done.code, done.out, len(done.err.splitlines())) == (4, "", 1)


@pytest.mark.folder
@pytest.mark.parametrize("name", CALLS)
def test_a_ledger_that_cannot_be_opened_is_unavailable(session: Session, name: str) -> None:
    (session.home / "ledger.db").mkdir(parents=True)
    done = session.look(name, *CALLS[name])
    assert done.code in (4, 5), done
    assert "ledger.db" in done.out + done.err
    assert "Traceback" not in done.err


def test_every_command_is_tried_on_bad_ledgers() -> None:
    # These two go on from the store alone; to say so is the business of doctor, and of the exporter's pages.
    assert set(CALLS) == set(COMMANDS) - {"rollback", "pointers", "doctor", "exporter"}


# --- readers and outputs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "--json"], [], ["pointers"], ["storage"]]
)
def test_a_reader_that_went_away_is_no_error(session: Session, arguments: list[str]) -> None:
    SqliteEventStore(session.home / "ledger.db").close()
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [str(LAUNCHER), *arguments],
            cwd=session.root,
            env=session.env(),
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("list >&-", 0, ""),
        ("status >&-", 2, "launcher: no run yet"),
        ("status 2>&-", 2, ""),
        ("logs r >&-", 2, "launcher: there is no standard output"),
        ("list >/dev/full", 5, "launcher: No space left on device"),
        ("--help <&- >&- 2>&-", 0, ""),
    ],
)
def test_outputs_that_are_closed_or_full(
    session: Session, command: str, code: int, said: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" {command}', str(LAUNCHER)],
        cwd=session.root,
        env=session.env(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.decode().startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_a_closed_output_is_never_the_ledger(session: Session) -> None:
    """With standard output closed the next file opened would be number 1, and prints would go there."""
    given = "--teacher-checkpoint teacher.pt --teacher-scorecard scorecard.json"
    command = f'"$0" submit --config loop.env --run-id r {given} >&- 2>&- <&-'
    done = subprocess.run(
        ["bash", "-c", command, str(LAUNCHER)], cwd=session.root, env=session.env(), check=False
    )
    assert done.returncode == 0
    assert session.json("list")["runs"][0]["status"] == "succeeded"
    audited = session.look("audit")
    assert audited.code == 0, audited


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("two\nlines\r\tand\x00more", "two lines  and more"),
        ("\x9b31mC1", "31mC1"),
    ],
)
def test_nothing_of_others_moves_a_terminal(text: str, shown: str) -> None:
    assert one_line(text) == shown
