"""launcher tags: what a person reads, what a program reads, and the exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.planlets.schema import shipped_bytes
from tests.launcher.small_runs import open_project, relabelled, requested, say, tag_events

TAGS = b'{"planlet_id":"a"}\n{"planlet_id":"a"}\n{"planlet_id":\n'
Printed = tuple[int, str, str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "my project"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("LAUNCHER_HOME", "LAUNCHER_STORE"):
        monkeypatch.delenv(name, raising=False)
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Printed:
    with pytest.raises(SystemExit) as left:
        main(["tags", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


def without_digests(text: str) -> str:
    return re.sub(r"sha256:[0-9a-f]+", "sha256:…", text)


def test_the_screen_of_rejected_tags(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabelled(open_project(project), "20260611T021500Z-7f3a", TAGS)
    code, out, err = run(capsys, "validate", "7f3a")
    assert code == 4
    assert without_digests(out) == (
        "run       0611-7f3a\n"
        "tags      runs/self_distill/20260611T021500Z-7f3a/artifacts/tags.jsonl"
        "  JSON Lines  53 B  sha256:……\n"
        "schema    none: planlet_id only\n"
        "planlets  3  valid 1  errors 2  duplicates 1\n"
        "error     line 2: planlet_id 'a' is that of line 1 too\n"
        "error     line 3: it is no JSON: Expecting value at column 15\n"
        "status    rejected\n"
        "next      launcher logs 0611-7f3a relabel\n"
        "          mend what writes the tags (RELABEL_CMD), then launcher submit again\n"
    )
    said = "launcher: the relabel tags of 20260611T021500Z-7f3a are rejected: 2 errors\n"
    assert err == said
    assert run(capsys, "validate", "7f3a") == (4, out, err)
    assert len(tag_events(open_project(project), "20260611T021500Z-7f3a")) == 2


def test_the_screen_of_validated_tags(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabelled(open_project(project), "r", b'[{"planlet_id":"a"}]')
    code, out, err = run(capsys, "validate", "r")
    assert (code, err) == (0, "")
    assert "a JSON array" in out
    assert "planlets  1  valid 1  errors 0  duplicates 0\nstatus    validated\n" in out
    assert "next      launcher tags validate r --schema planlet-v0.1   (checks more)\n" in out


def test_json_tells_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ws = open_project(project)
    relabelled(ws, "r", TAGS)
    code, out, _ = run(capsys, "validate", "r", "--json", "--schema", "planlet-v0.1")
    found: dict[str, Any] = json.loads(out)
    assert code == 4
    tags = open_project(project).journal.run("r").tags
    assert tags is not None
    assert found["digest"] == tags.digest
    assert found["counts"] == tags.counts
    assert [e["line"] for e in found["errors"]] == [1, 2, 2, 3]
    assert {k: found[k] for k in ("run_id", "status", "size_bytes", "form", "visible_file")} == {
        "run_id": "r",
        "status": "rejected",
        "size_bytes": len(TAGS),
        "form": "lines",
        "visible_file": "same",
    }
    assert found["schema"]["name"] == "planlet-v0.1"


def test_more_errors_than_are_shown_are_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relabelled(open_project(project), "r", b"{}\n" * 1500)
    _, out, err = run(capsys, "validate", "r")
    assert out.count("error     line ") == 20
    assert "          … and 1,480 more\n" in out
    assert err.endswith("rejected: 1500 errors\n")


@pytest.mark.parametrize(("change", "says"), [(b"other", "has changed since"), (None, "is gone")])
def test_a_file_that_is_not_what_was_checked_is_said(
    project: Path, capsys: pytest.CaptureFixture[str], change: bytes | None, says: str
) -> None:
    place = relabelled(open_project(project), "r", b'{"planlet_id":"a"}\n')
    place.unlink()
    if change is not None:
        place.write_bytes(change)
    code, out, _ = run(capsys, "validate", "r")
    assert code == 0
    assert f"tags.jsonl {says}; checked was what the stage left, from the store\n" in out
    pull = re.search(r"launcher (pull sha256:[0-9a-f]{64}) FILE\n", out)
    assert pull is not None
    with pytest.raises(SystemExit) as left:
        main([*pull[1].split(), "back.jsonl"])
    assert left.value.code == 0
    assert (project / "back.jsonl").read_bytes() == b'{"planlet_id":"a"}\n'


def test_a_file_that_was_not_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relabelled(open_project(project), "r", None)
    code, out, _ = run(capsys, "validate", "r")
    assert code == 4
    assert "error     the tag file: the relabel stage did not write it\n" in out


def test_wrong_use_is_one_line_and_records_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ws = open_project(project)
    relabelled(ws, "r", TAGS)
    say(ws, "open", requested(ws, "open"))
    (project / "bad.json").write_text('{"type": 3}')
    size = ws.ledger.head().size
    for arguments, code, says in (
        (["r", "--schema", "absent.json"], 2, "schema absent.json is not there"),
        (["r", "--schema", "bad.json"], 2, "schema bad.json is no JSON Schema: type:"),
        (["nobody"], 2, "no run 'nobody'"),
        (["open"], 3, "the relabel stage of run open has not ended yet"),
        ([], 2, "Missing argument 'RUN'"),
    ):
        found = run(capsys, "validate", *arguments)
        assert (found[0], found[1], found[2].count("\n")) == (code, "", 1), arguments
        assert says in found[2]
    assert open_project(project).ledger.head().size == size


def test_the_shipped_schema_is_printed_as_it_is(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["schema"], ["schema", "planlet-v0.1"]):
        code, out, _ = run(capsys, *arguments)
        assert (code, out.encode()) == (0, shipped_bytes("planlet-v0.1"))
    code, _, err = run(capsys, "schema", "planlet-v9")
    assert (code, err) == (
        2,
        "launcher: no schema 'planlet-v9' is shipped (there is planlet-v0.1)\n",
    )
    assert list(project.iterdir()) == []


def test_the_installed_program_checks_with_a_schema_of_the_user(project: Path) -> None:
    relabelled(open_project(project), "r", TAGS.splitlines(keepends=True)[0])
    (project / "mine.json").write_text(json.dumps({"required": ["score"]}))
    program = Path(sys.executable).with_name("launcher")
    done = subprocess.run(
        [program, "tags", "validate", "r", "--schema", "mine.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "error     line 1: it lacks 'score'\n" in done.stdout
    assert done.stderr == "launcher: the relabel tags of r are rejected: 1 error\n"
