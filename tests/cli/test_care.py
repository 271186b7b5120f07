"""storage, replay, audit and doctor, typed as a user types them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import LAUNCHER, TARGET, Done, Project
from tests.launcher.finished import Finished

#: Of folders: tests/cli/test_bucket_care.py asks the same of a bucket.
pytestmark = pytest.mark.folder


@pytest.fixture(scope="module")
def made() -> Iterator[Finished]:
    """In a folder that any user may look into."""
    with tempfile.TemporaryDirectory(dir=os.path.realpath("/tmp")) as folder:
        Path(folder).chmod(0o755)
        yield Finished.make(Path(folder))


@pytest.fixture
def finished(made: Finished) -> Finished:
    made.restore()
    return made


def stamps(root: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_ctime_ns for p in root.rglob("*")}


def parsed(done: Done) -> Any:
    return json.loads(done.out)


READING = [
    ["audit"],
    ["audit", "--json"],
    ["replay", "--check"],
    ["replay", "--check", "--json", "a"],
    ["replay", "--at", "4"],
    ["replay", "--at", "4", "--json"],
    ["storage"],
    ["storage", "--json"],
    ["doctor", "--no-probe"],
    ["doctor", "--no-probe", "--json"],
]


def test_reading_commands_change_nothing_not_even_a_time(finished: Finished) -> None:
    before = stamps(finished.root)
    for command in READING:
        done = finished.project.launcher(*command)
        assert (done.code, done.err) == (0, ""), (command, done)
        if "--json" in command:
            parsed(done)
    assert stamps(finished.root) == before


def test_doctors_probes_leave_nothing(finished: Finished) -> None:
    before = stamps(finished.root).keys()
    done = finished.project.launcher("doctor")
    assert done.code == 0
    assert "ok       create-only" in done.out
    assert stamps(finished.root).keys() == before


#: Runs a command as a user who may write nowhere; all is imported before, for he may not read it either.
AS_NOBODY = """
import concurrent.futures.thread, importlib, os, pkgutil, sys
import launcher, psutil
for module in pkgutil.walk_packages(launcher.__path__, "launcher."):
    importlib.import_module(module.name)
if os.geteuid() == 0:
    os.setuid(65534)
os.chdir(sys.argv[1])
importlib.import_module("launcher.cli.main").main(sys.argv[2:])
"""


def test_reading_goes_on_where_nothing_can_be_written(finished: Finished) -> None:
    """A disk that is full or read-only, as another user meets it."""
    root = finished.root
    folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)

    def run(*command: str) -> Done:
        return finished.project.bare(sys.executable, "-c", AS_NOBODY, str(root), *command)

    try:
        for command in (["audit"], ["replay", "--check"], ["replay", "--at", "3"], ["storage"]):
            done = run(*command)
            assert (done.code, done.err) == (0, ""), (command, done)
        doctor = run("doctor")
        assert doctor.code == 5
        assert "failed   home" in doctor.out
        replay = run("replay")
        assert replay.code == 5
        assert replay.err.count("\n") == 1
        unread = finished.home / "a" / "metadata.json"
        unread.chmod(0o000)
        audit = run("audit")
        assert audit.code == 4
        assert "runs/self_distill/a/metadata.json: it differs" in audit.out
        unread.chmod(0o644)
    finally:
        for folder in folders:
            folder.chmod(0o755)


# --- replay -----------------------------------------------------------------------------------------


def test_replay_rebuilds_byte_for_byte_what_was_thrown_away(finished: Finished) -> None:
    documents = sorted(p for p in finished.home.glob("*/metadata*/*.json"))
    documents = [p for p in documents if p.name != "metrics.json"]
    documents += sorted(finished.home.glob("*/metadata.json"))
    documents += sorted(finished.home.glob("*/metadata/storage_alert.txt"))
    before = {path: path.read_bytes() for path in documents}
    assert len(before) == 8
    for path in documents:
        path.unlink()
    checked = finished.project.launcher("replay", "--check")
    assert checked.code == 4
    assert checked.out.count("missing") == 8
    assert "launcher replay rewrites them" in checked.err
    one = finished.project.launcher("replay", "a", "--json")
    assert one.code == 0
    assert [row["what"] for row in parsed(one)["rewritten"]] == ["missing"] * 4
    assert finished.project.launcher("replay").code == 0
    assert {path: path.read_bytes() for path in documents} == before
    again = finished.project.launcher("replay")
    assert again.out == "the documents of 2 runs are what the ledger says\n"


def test_check_names_each_difference(finished: Finished) -> None:
    path = finished.home / "b" / "metadata.json"
    path.write_text(path.read_text().replace('"succeeded"', '"failed"'))
    done = finished.project.launcher("replay", "--check", "--json")
    assert done.code == 4
    [row] = parsed(done)["differences"]
    assert row == {"path": "runs/self_distill/b/metadata.json", "what": "differs"}
    assert finished.project.launcher("replay", "--check", "a").code == 0


def test_as_they_were_then(finished: Finished) -> None:
    events = list(finished.workspace().ledger.read_all())
    succeeded = next(r for r in events if r.type == "StageSucceeded")
    before = stamps(finished.root)
    by_position = finished.project.launcher(
        "replay", "a", "--at", str(succeeded.position), "--json"
    )
    by_time = finished.project.launcher("replay", "a", "--at", succeeded.time, "--json")
    shown = parsed(by_position)
    assert shown["position"] == succeeded.position
    [document] = shown["documents"]
    assert document["path"] == "runs/self_distill/a/metadata.json"
    then = json.loads(document["text"])
    assert [s["status"] for s in then["stages"]] == ["completed"] + ["pending"] * 3
    assert then["ledger"]["position"] == succeeded.position
    # Facts of one batch have one time: a time means all of them.
    assert parsed(by_time)["position"] == max(
        r.position for r in events if r.time == succeeded.time
    )
    text = finished.project.launcher("replay", "a", "--at", str(succeeded.position)).out
    assert text.endswith(document["text"])
    assert stamps(finished.root) == before


def test_the_newest_position_shows_what_is_there_now(finished: Finished) -> None:
    size = finished.workspace().ledger.head().size
    done = finished.project.launcher("replay", "--at", str(size - 1), "--to", "then")
    assert done.code == 0
    now, then = finished.home, finished.root / "then" / "runs" / "self_distill"
    written = [p for p in then.rglob("*") if p.is_file()]
    assert len(written) == 8
    for path in written:
        assert path.read_bytes() == (now / path.relative_to(then)).read_bytes()


def test_earlier_documents_are_never_written_over_anything(finished: Finished) -> None:
    before = stamps(finished.root)
    for dest in (".", "runs", TARGET, "runs/self_distill/a"):
        done = finished.project.launcher("replay", "--at", "3", "--to", dest)
        assert done.code == 2, dest
    assert stamps(finished.root) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--at", "yesterday"], "neither a position nor an RFC 3339 time"),
        (["--at", "-1"], "neither a position nor"),
        (["--at", "100000"], "has no position 100000"),
        (["--at", "2001-01-01T00:00:00Z"], "no event at or before"),
        (["--at", "3", "--check"], "one of them"),
        (["--to", "x"], "--to needs --at"),
        (["nosuch"], "no run 'nosuch'"),
        (["b", "--at", "0"], "run b was not requested yet at position 0"),
    ],
)
def test_what_replay_refuses(finished: Finished, options: list[str], said: str) -> None:
    done = finished.project.launcher("replay", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_time_is_looked_up_by_position_even_where_clocks_went_back(finished: Finished) -> None:
    events = list(finished.workspace().ledger.read_all())
    middle = events[len(events) // 2]
    found = parsed(finished.project.launcher("replay", "--at", middle.time, "--json"))
    assert found["position"] == max(r.position for r in events if r.time <= middle.time)


# --- audit ------------------------------------------------------------------------------------------


def test_the_audit_screen_of_damage(finished: Finished) -> None:
    path = finished.home / "a" / "metadata.json"
    path.write_text("{}")
    blob = next(
        p for p in (finished.store / "blobs").rglob("*") if p.is_file() and p.stat().st_size
    )
    blob.unlink()
    done = finished.project.launcher("audit")
    assert done.code == 4
    lines = done.out.splitlines()
    assert "BAD  documents  1 wrong" in lines
    assert "       runs/self_distill/a/metadata.json: it differs from the ledger" in lines
    assert any(line.startswith("BAD  blobs") for line in lines)
    assert any(line.startswith("next  documents: launcher replay") for line in lines)
    assert done.err == "launcher: audit found 2 wrong in documents, blobs\n"


def test_a_new_project_audits_clean_and_says_what_cannot_be_seen(tmp_path: Path) -> None:
    done = Project(tmp_path).launcher("audit", "--json")
    assert done.code == 0
    said = parsed(done)
    assert said["ok"] is True
    assert said["head"].startswith("0:e3b0c442")
    assert "tail was cut off" in said["limits"]
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_gone_is_not_taken_for_a_new_one(finished: Finished) -> None:
    (finished.home / "ledger.db").unlink()
    done = finished.project.launcher("audit")
    assert done.code == 4
    assert "this one has 0 events" in done.out
    assert not (finished.home / "ledger.db").exists()


@pytest.mark.parametrize("head", ["", "5", "5:", "5:xyz", f"x:{'0' * 64}", f"-1:{'0' * 64}"])
def test_a_head_that_is_none(finished: Finished, head: str) -> None:
    done = finished.project.launcher("audit", "--expect-head", head)
    assert done.code == 2
    assert "no SIZE:ROOT" in done.err


# --- storage ----------------------------------------------------------------------------------------


def test_storage_shows_what_may_go_and_how(finished: Finished) -> None:
    said = parsed(finished.project.launcher("storage", "--json"))
    assert [run["run_id"] for run in said["runs"]] == ["a", "b"]
    assert said["bytes_by_class"]["students"] == 24
    [item] = said["obsolete"]
    text = finished.project.launcher("storage").out
    command = f"rm -- {item['path']}"
    assert f"  {command}   # 12 B" in text
    assert finished.project.bare("bash", "-c", command).code == 0
    assert "obsolete checkpoints: none" in finished.project.launcher("storage").out


def test_help_is_there_for_each() -> None:
    for command in ("audit", "doctor", "replay", "storage"):
        done = Project(Path("/")).bare(str(LAUNCHER), command, "--help")
        assert done.code == 0
        assert "--json" in done.out
