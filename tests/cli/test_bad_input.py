"""What a user types wrong: one line that says what and where, exit 2, and nothing made or changed anywhere.

Most cases go through the program's door in this process; a few through the installed program, to see its exit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.env_file import LIMIT_BYTES

SECRET = "hunter2-hunter2"
CONFIG = "RETRAIN_CMD='echo s > \"$CHECKPOINT_DIR/s.pt\"'\n"
LAUNCHER = Path(sys.executable).with_name("launcher")
GIVEN = ["--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "card.json"]


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and folder, hidden ones too, with its time and bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (path.lstat().st_mtime_ns, path.lstat().st_ino, data)
    return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "my project"
    (root / "folder").mkdir(parents=True)
    (root / "c.env").write_text(CONFIG)
    (root / "teacher.pt").write_text("t")
    (root / "card.json").write_text("{}")
    monkeypatch.chdir(root)
    for name in [n for n in os.environ if n.startswith("LAUNCHER_") or n.endswith("_KEY")]:
        monkeypatch.delenv(name)
    return root


Refused = Callable[..., str]


@pytest.fixture
def refused(project: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the program, sees that it refused and left everything as it was, and returns its one line."""

    def run(*args: str, code: int = 2, command: str = "submit") -> str:
        before = tree(project.parent)
        given = ["--config", "c.env", *GIVEN] if command == "submit" else []
        with pytest.raises(SystemExit) as left:
            main([command, *given, *args])
        shown = capsys.readouterr()
        assert left.value.code == code, shown
        assert tree(project.parent) == before
        assert shown.out == ""
        assert shown.err.startswith("launcher: ")
        assert shown.err.count("\n") == 1
        assert SECRET not in shown.err
        assert all(c.isprintable() for c in shown.err.rstrip("\n"))
        return shown.err

    return run


BAD_NAMES = [
    "../x",
    "a/../b",
    "a\x00b",
    "a\nb",
    "a\n",
    "x" * 300,
    "-x",
    "",
    ".",
    "..",
    "a b",
    "é",
    "\x1b[2J",
]


@pytest.mark.parametrize(
    "name", [*BAD_NAMES, "a/b", "objects", "Locks", "ledger.db", "ledger.db-wal"]
)
def test_a_run_id_outside_the_allowlist(name: str, refused: Refused) -> None:
    if name:
        assert "run id" in refused("--run-id", name)


@pytest.mark.parametrize("name", [n for n in BAD_NAMES if n])
def test_a_label_outside_the_allowlist(name: str, refused: Refused) -> None:
    assert "label" in refused("--label", f"team={name}")
    assert "label" in refused("--label", f"{name}=lab")


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../b.pt", "a\x00b", "a\nb.pt", "x" * 300, "-x", "-x.pt", "", ".", "a/\x1b.pt"],
)
def test_a_pointer_name_outside_the_allowlist(name: str, refused: Refused) -> None:
    said = refused("--promotion-target", name)
    assert "pointer name" in said or "--promotion-target" in said
    for command in ("rollback", "release"):
        assert "pointer name" in refused("--", name, command=command)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--label", "a"], "--label 'a' is not NAME=VALUE"),
        (["--label", "a=b", "--label", "a=c"], "--label a is given twice"),
        (["--set", "RUN_ID=x"], "RUN_ID is ours to set"),
        (["--set", "1=2"], "'1' is no variable name"),
        (["--set", "A"], "is not NAME=VALUE"),
        (["--set", "A=\udcff"], "not UTF-8 text"),
        (["--set", "RETRAIN_CMD= "], "no stage command at all"),
        (["--set", "RETRAIN_RETRIES=-1"], "--set RETRAIN_RETRIES"),
        (["--set", "RETRAIN_TIMEOUT=nan"], "number of seconds above 0"),
        (["--set", "LLMON_CMD=x"], "did you mean LLM_ON_CMD?"),
        (["--set", "PROMOTION_GATE=x > 1"], "PROMOTION_GATE is not supported"),
        (["--set", "PROMOTION_GATE=x > 1", "--promotion-target", "s"], "not supported"),
        (["--note", "a\x1b[2Jb"], "--note"),
        (["--note", "\udcff"], "--note"),
        (["--output-root", "a\x00b"], "--output-root"),
        (["--config", "none.env"], "none.env"),
        (["--config", "folder"], "is a folder"),
        (["--config", "x" * 300], "cannot be read"),
        (["--config", "/dev/zero"], f"larger than {LIMIT_BYTES} bytes"),
        (["--teacher-checkpoint", "none.pt"], "teacher_checkpoint none.pt is not there"),
        (["--teacher-checkpoint", "folder"], "is not a file"),
        (["--teacher-checkpoint", "/dev/null"], "is not a file"),
        (["--teacher-checkpoint", "run:none"], "no run 'none'"),
        (["--teacher-checkpoint", "pointer:none"], "names nothing yet"),
        (["--teacher-checkpoint", "pointer:../x"], "pointer name"),
        (["--teacher-checkpoint", "sha256:zz"], "digest"),
        (["--teacher-scorecard", "none.json"], "teacher_scorecard none.json is not there"),
        (["--promotion-target", "folder/"], "folder"),
        (["--promotion-target", "./student"], "without a checkpoint's suffix"),
        (["--promotion-target", "teacher.pt/x.pt"], "is no folder"),
        (["--promotion-target", "runs/self_distill/ledger.db"], "the ledger's own file"),
        (["--promotion-target", "runs/self_distill/objects/x.pt"], "the launcher's own"),
        (["--promotion-record", "r.json"], "needs --promotion-target"),
        (["--promotion-target", "s", "--promotion-record", "folder"], "is a folder"),
        (["--promotion-target", "s.pt", "--promotion-record", "./s.pt"], "not all different"),
        (["--relabel-tag-file", "teacher.pt/x"], "is no folder"),
        (["--output-root", "teacher.pt"], "is a file"),
        (["--home", "teacher.pt"], "is a file"),
        (["--home", "s3://ana:hunter2-hunter2@bucket"], "--home is s3://…"),
        (["--home", "~/runs"], "no shell expanded the ~"),
        (["--set", "INPUTS=none/*"], "no file matches 'none/*' of INPUTS"),
        (["--set", "INPUTS_PRIVATE=**x"], "no file matches '**x' of INPUTS_PRIVATE"),
        (["--set", "INPUTS='open"], "a quote in INPUTS is not closed"),
    ],
    ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "",
)  # fmt: skip
def test_flags_that_cannot_be(args: list[str], said: str, refused: Refused) -> None:
    assert said in refused(*args)


@pytest.mark.parametrize("flag", GIVEN[::2])
def test_the_teacher_is_not_optional(flag: str, project: Path, refused: Refused) -> None:
    at = GIVEN.index(flag)
    others = [*GIVEN[:at], *GIVEN[at + 2 :]]
    before = tree(project)
    with pytest.raises(SystemExit) as left:
        main(["submit", "--config", "c.env", *others])
    assert (left.value.code, tree(project)) == (2, before)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no stage command at all"),
        ("LLM_ON_CMD=''\nRELABEL_CMD=\nRETRAIN_CMD='  '\n", "no stage command at all"),
        ("A=1\n\nRETRAIN_CMD='x\nB=2\n", "c.env:3: the value of RETRAIN_CMD has no closing '"),
        ("RETRAIN_CMD='it'\"'\"'s'\n", "c.env:1: the value of RETRAIN_CMD has no closing '"),
        ("RETRAIN_CMD=true\nRETRAIN_CMD=false\n", "c.env:2: RETRAIN_CMD is set twice, first on line 1"),
        ("RETRAIN_CMD=true\n\n# c\nexport A\n", "c.env:4: there is no '=' on this line"),
        ("RETRAIN_CMD=true\nsource x.env\n", "c.env:2: this line is no NAME=VALUE"),
        ("RETRAIN_CMD=true\nmy-name=1\n", "c.env:2: what stands before '=' is no variable name"),
        ("\n\nRETRAIN_COMMAND=true\n", "c.env:3: unknown key RETRAIN_COMMAND; did you mean RETRAIN_CMD?"),
        ("LLM_ON_CMD=x\r\nRETRAIN_TIMOUT=5\r\n", "c.env:2: unknown key RETRAIN_TIMOUT; did you mean RETRAIN_TIMEOUT?"),
        ("\ufeffRUN_ID=1\nRETRAIN_CMD=true\n", "c.env:1: RUN_ID is ours to set"),
        ("RETRAIN_CMD=true\nSTUDENT_CHECKPOINT=x\n", "c.env:2: STUDENT_CHECKPOINT is ours to set"),
        ("RETRAIN_CMD=true\nRETRAIN_TIMEOUT=soon\n", "c.env:2: RETRAIN_TIMEOUT='soon' is not a number"),
        ("RETRAIN_CMD=true\nRETRAIN_RETRIES=1.5\n", "c.env:2: RETRAIN_RETRIES='1.5' is not a whole number"),
        ("RETRAIN_CMD=true\nINFRASTRUCTURE_RETRIES=1e9\n", "INFRASTRUCTURE_RETRIES='1e9'"),
        ("RETRAIN_CMD=true\nA='a\0b'\n", "c.env:2: a NUL byte is not allowed"),
        (f"API_KEY={SECRET}\nRETRAIN_CMD='curl {SECRET}'\n", "c.env:2: RETRAIN_CMD contains the secret API_KEY ("),
        (f"API_KEY={SECRET}\nRETRAIN_CMD='curl {{API_KEY}}'\n", "RETRAIN_CMD contains the secret API_KEY"),
        (f"URL=x:{SECRET}@h\nSECRET_NAMES='A, URL'\nA=\nRETRAIN_CMD='curl x:{SECRET}@h'\n", "the secret URL"),
        (f"API_KEY={SECRET}\nRETRAIN_CMD=true\nRELABEL_TAG_FILE=out/{SECRET}\n", "contains the secret API_KEY"),
        (f"API_KEY={SECRET}\nRETRAIN_CMD=true\nRETRAIN_TIMEOUT={SECRET}\n", "c.env:3: RETRAIN_TIMEOUT is not a number"),
        ("SECRET_NAMES=RETRAIN_CMD\nRETRAIN_CMD=true\n", "cannot be secret"),
        ("SECRET_NAMES=DATABASE_ULR\nRETRAIN_CMD=true\nDATABASE_URL=x\n", "no DATABASE_ULR; did you mean DATABASE_URL"),
        # What was pasted without quotes may be a secret: its line is named, it is not shown.
        (f"RETRAIN_CMD=true\nAPI_KEY: {SECRET}\n", "c.env:2: this line is no NAME=VALUE"),
        (f"RETRAIN_CMD=true\nPRIVATE_KEY=-----BEGIN\n{SECRET}\n", "c.env:3: there is no '=' on this line"),
        (f"RETRAIN_CMD=true\n{SECRET}==\n", "c.env:2: what stands before '='"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be(text: str, said: str, project: Path, refused: Refused) -> None:
    (project / "c.env").write_bytes(text.encode())
    assert said in refused()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"A=1\n\xff\xfe=2\n", "c.env:2: byte 4 is not UTF-8 text"),
        (CONFIG.encode("utf-16"), "c.env:1: byte 0 is not UTF-8 text"),
        (bytes(range(128, 144)) + b"\xff" * 64, "not UTF-8 text"),
        (b"#" * (LIMIT_BYTES + 1), "larger than"),
    ],
)
def test_configs_that_are_no_text(data: bytes, said: str, project: Path, refused: Refused) -> None:
    (project / "c.env").write_bytes(data)
    assert said in refused()


@pytest.mark.parametrize(
    "flag",
    [
        "--note",
        "--label",
        "--promotion-target",
        "--promotion-record",
        "--relabel-tag-file",
        "--output-root",
        "--run-id",
        "--set",
    ],
)
@pytest.mark.parametrize("where", ["config", "environment"])
def test_no_flag_carries_a_secret_into_the_ledger(
    flag: str, where: str, project: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "config":
        (project / "c.env").write_text(f"{CONFIG}API_KEY={SECRET}\n")
    else:
        monkeypatch.setenv("PLANNER_API_KEY", SECRET)
    value = {"--label": f"team={SECRET}", "--set": f"RETRAIN_CMD=run {SECRET}"}.get(flag, SECRET)
    assert "API_KEY" in refused(flag, value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAUNCHER_HOME", "~/runs", "no shell expanded the ~"),
        ("LAUNCHER_HOME", "a\nb", "LAUNCHER_HOME must be printable"),
        ("LAUNCHER_HOME", "card.json/runs", "is a file"),
        (
            "LAUNCHER_STORE",
            f"s3://ana:{SECRET}@bucket/x",
            "a store's URL holds no credentials",
        ),
        (
            "LAUNCHER_STORE",
            f"gs://ana:{SECRET}@bucket/x",
            "LAUNCHER_STORE is gs://…: it must be a folder, or s3://bucket/prefix",
        ),
        ("LAUNCHER_LEDGER", "postgres", "LAUNCHER_LEDGER='postgres' is neither sqlite nor store"),
        ("LAUNCHER_STORE", "x" * 5000, "LAUNCHER_STORE must be"),
        ("LAUNCHER_PROJECT", "a\x1bb", "LAUNCHER_PROJECT"),
        ("LAUNCHER_ACTOR", "a\nb", "LAUNCHER_ACTOR"),
        ("LAUNCHER_GRACE_SECONDS", "soon", "LAUNCHER_GRACE_SECONDS='soon'"),
        ("LAUNCHER_GRACE_SECONDS", "nan", "LAUNCHER_GRACE_SECONDS='nan'"),
        ("LAUNCHER_GRACE_SECONDS", "-1", "LAUNCHER_GRACE_SECONDS='-1'"),
    ],
)
def test_settings_that_cannot_be(
    name: str, value: str, said: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert said in refused()


def test_a_run_id_that_exists_names_resume(project: Path, refused: Refused) -> None:
    assert spawn(project, "--run-id", "r").returncode == 0
    assert "launcher resume r" in refused("--run-id", "r", code=3)
    (project / "runs/self_distill/other").mkdir()
    (project / "runs/self_distill/other/notes.txt").write_text("mine")
    assert "is not empty" in refused("--run-id", "other", code=3)


# --- the installed program ----------------------------------------------------------------------------


def spawn(project: Path, *args: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command: list[str | bytes] = [str(LAUNCHER), "submit", "--config", "c.env", *GIVEN, *args]
    return subprocess.run(
        command, cwd=project, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "args",
    [
        ["--run-id", "../x"],
        ["--config", "none.env"],
        ["--config", b"\xff"],
        ["--note", b"\xff\x1b"],
        ["--teacher-checkpoint", b"\xff.pt"],
    ],
)
def test_the_program_says_one_line_and_exits_two(args: list[str | bytes], project: Path) -> None:
    before = tree(project)
    done = spawn(project, *args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"launcher: ")
    assert done.stderr.count(b"\n") == 1
    assert tree(project) == before


def test_nothing_in_a_config_is_executed_and_loader_variables_reach_the_stage_alone(
    project: Path,
) -> None:
    """BASH_ENV, PYTHONPATH and LD_PRELOAD leave a trace in every process that they reach."""
    evil = project / "evil"
    evil.mkdir()
    (evil / "sitecustomize.py").write_text(
        "import sys\nopen('traces', 'a').write(f'{sys.orig_argv[1:3]}\\n')\n"
    )
    (project / "bash_env").write_text('echo "bash of ${STAGE:-nobody}" >> traces\n')
    (project / "c.env").write_text(
        'A=$(touch executed)\nB=`touch executed`\nC="$(touch executed)"\n'
        "BASH_ENV=bash_env\nPYTHONPATH=evil\nLD_PRELOAD=./missing.so\n"
        f'RETRAIN_CMD=\'"{sys.executable}" -c pass; echo s > "$CHECKPOINT_DIR/s.pt"; echo "$A|$B|$C"\'\n'
    )
    assert spawn(project, "--dry-run").returncode == 0
    assert not (project / "traces").exists()
    done = spawn(project, "--run-id", "r")
    assert done.returncode == 0, done
    assert b"missing.so" not in done.stderr
    traces = (project / "traces").read_text().splitlines()
    assert traces[0] == "bash of retrain"
    assert set(traces[1:]) == {"['-c', 'pass']"}
    log = (project / "runs/self_distill/r/logs/03_retrain.log").read_text()
    assert "$(touch executed)|`touch executed`|$(touch executed)" in log
    assert "missing.so" in log
    assert not (project / "executed").exists()
