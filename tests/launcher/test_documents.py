"""Documents: whole, current, rebuilt from the ledger, and open to the one change that a job may make."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher import clock
from launcher.documents import Documents, write_atomically
from launcher.errors import UnavailableError
from launcher.planlets.schema import load_schema
from launcher.tags import validate
from launcher.workspace import Workspace
from ledger import events as e
from ledger.canonical import canonical_json
from ledger.transparency.merkle import tree_root
from tests.launcher.small_runs import (
    HOME,
    digest,
    open_project,
    promoted,
    relabelled,
    requested,
    say,
    tag_events,
)

GOOD = b'{"planlet_id":"a"}\n'
TAGS_DOCUMENT = f"{HOME}/r/metadata/relabel_tags.json"
METADATA = f"{HOME}/r/metadata.json"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = open_project(tmp_path / "my project")
    yield ws
    ws.ledger.close()


def shown(ws: Workspace, path: str) -> dict[str, Any]:
    value = json.loads((ws.root / path).read_bytes())
    assert isinstance(value, dict)
    return value


def edit(ws: Workspace, before: str, after: str) -> Path:
    """What a job does that sets a status: read, replace, write in place."""
    path = ws.root / TAGS_DOCUMENT
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    return path


def fields_of(ws: Workspace) -> dict[Path, bytes]:
    return dict(ws.documents.expected(ws.journal.run("r")))


def measured(run_id: str, **more: Any) -> e.StorageMeasured:
    return e.StorageMeasured(
        store="objects", bytes_by_class={"logs": 3}, free_bytes=7, run_id=run_id, **more
    )


# --- written whole ------------------------------------------------------------------------------------


def test_killed_before_any_of_its_calls_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    def prepare(folder: Path) -> tuple[Workspace, dict[Path, bytes]]:
        """A run whose ledger is ahead of its documents: validated, and ended."""
        ws = open_project(folder)
        relabelled(ws, "r", GOOD, ended=False)
        old = fields_of(ws)
        emitted = tag_events(ws, "r")[0]
        fields = {"tag_file": emitted.data.tag_file, "digest": emitted.data.digest}
        # With the counts of before, so that a file that is behind looks just like an edited one.
        say(ws, "r", e.RelabelTagsValidated(**fields, follows=emitted.id), e.RunSucceeded())
        return ws, old

    def child(folder: Path, death: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fault.documents_child", str(folder), "r"]
        return subprocess.run(
            [*command, str(death)], capture_output=True, text=True, timeout=60, check=False
        )

    prepare(tmp_path / "whole")
    calls = child(tmp_path / "whole", -1).stdout.split()
    assert calls.count("replace") == 2
    assert [c for c in calls if c in ("fsync", "replace")] == ["fsync", "replace", "fsync"] * 2
    for death in range(len(calls)):
        ws, old = prepare(tmp_path / str(death))
        new = fields_of(ws)
        assert new.keys() == old.keys()
        assert all(new[path] != old[path] for path in new)
        done = child(ws.root, death)
        assert done.returncode == -signal.SIGKILL, done.stderr
        found = {path: path.read_bytes() for path in new}
        renamed = calls[:death].count("replace")
        assert [found[path] == new[path] for path in new] == [n < renamed for n in range(2)]
        assert all(found[path] in (old[path], new[path]) for path in new)
        open_project(ws.root).documents.write("r")
        assert {path: path.read_bytes() for path in new} == new, calls[death]
        assert [r.actor for r in tag_events(ws, "r")] == ["ana", "ana"], calls[death]
        assert not list((ws.root / HOME / "r").rglob("*.tmp"))
        ws.ledger.close()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="cannot write"):
        write_atomically(path, b"x")
    with pytest.raises(UnavailableError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", _make_file(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"here"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a folder", "file", "inside"]


def test_two_homes_of_one_project_write_one_document(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their locks are not the same, so the second sweeps away what the first is just about to rename."""
    relabelled(ws, "r", GOOD, ended=False)
    (ws.root / HOME / "r" / "metadata.json").unlink()
    other = Documents(ws.journal, tmp_path / "other home" / "locks")
    (other.locks).mkdir(parents=True)
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        other.write("r")
        assert not source.exists()
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    ws.documents.write("r")
    assert ws.documents.check(ws.journal.run("r")) == []
    assert not list((ws.root / HOME / "r").rglob("*.tmp"))


def _make_file(path: Path) -> bytes:
    path.write_bytes(b"here")
    return b"x"


def test_a_document_that_is_right_is_not_written_again(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD)
    before = {path: path.stat().st_ino for path in fields_of(ws)}
    ws.documents.write("r")
    assert {path: path.stat().st_ino for path in fields_of(ws)} == before


@pytest.mark.parametrize(
    "damage", [b"", b'{"run_id": "r"', b"\xff\x00", b"[" * 100_000, b'{"status": []}', None]
)
@pytest.mark.parametrize("name", [METADATA, TAGS_DOCUMENT])
def test_torn_edited_or_lost_documents_are_rebuilt(
    ws: Workspace, name: str, damage: bytes | None
) -> None:
    relabelled(ws, "r", GOOD)
    expected = fields_of(ws)
    path = ws.root / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    state = ws.journal.run("r")
    differences = ws.documents.check(state)
    assert [(d.path, d.what) for d in differences] == [
        (path, "missing" if damage is None else "differs")
    ]
    ws.documents.write("r")
    assert path.read_bytes() == expected[path]
    assert ws.documents.check(state) == []
    assert len(tag_events(ws, "r")) == 1


def test_checking_changes_nothing(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD)
    (ws.root / METADATA).write_text("torn")
    lock = ws.locks / "r.documents.lock"
    lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in ws.root.rglob("*")}
    reader = open_project(ws.root, writing=False)
    assert len(reader.documents.check(reader.journal.run("r"))) == 1
    assert {path: path.stat().st_mtime_ns for path in ws.root.rglob("*")} == before


# --- never the older of two states --------------------------------------------------------------------


def test_who_waited_for_the_lock_writes_what_holds_then(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD, ended=False)
    with (ws.locks / "r.documents.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _writing(ws.root, "r"):
            say(ws, "r", e.RunSucceeded())
            fcntl.flock(lock, fcntl.LOCK_UN)
    assert shown(ws, METADATA)["status"] == "succeeded"
    assert ws.documents.check(ws.journal.run("r")) == []


def test_many_processes_leave_the_newest_state(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD, ended=False)
    command = [sys.executable, "-m", "tests.fault.documents_child", str(ws.root), "r", "-1"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for number in range(20):
        schema = load_schema("planlet-v0.1", ws.root) if number % 2 else None
        validate(ws, "r", schema)
    say(ws, "r", e.RunSucceeded())
    ws.documents.write("r")
    assert [child.wait(60) for child in children] == [0, 0, 0]
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    assert ws.documents.check(ws.journal.run("r")) == []
    assert {r.actor for r in tag_events(ws, "r")} == {"ana"}


# --- the status that a job may change -----------------------------------------------------------------


@pytest.mark.parametrize("status", ["validated", "rejected"])
def test_a_jobs_status_is_no_difference_and_becomes_a_fact(ws: Workspace, status: str) -> None:
    relabelled(ws, "r", GOOD)
    path = edit(ws, '"pending"', f'"{status}"')
    assert ws.documents.check(ws.journal.run("r")) == []
    ws.documents.write("r")
    emitted, fact = tag_events(ws, "r")
    assert (fact.type, fact.actor) == (f"RelabelTags{status.title()}", "file")
    assert (fact.data.source, fact.data.follows) == ("file", emitted.id)
    assert shown(ws, TAGS_DOCUMENT)["status"] == status
    ws.documents.write("r")
    assert len(tag_events(ws, "r")) == 2
    path.write_text(path.read_text().replace(f'"{status}"', '"pending"'))
    ws.documents.write("r")
    assert [r.type for r in tag_events(ws, "r")][2:] == ["RelabelTagsReopened"]
    assert shown(ws, TAGS_DOCUMENT)["status"] == "pending"


def test_a_job_may_write_the_document_in_a_form_of_its_own(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD)
    path = ws.root / TAGS_DOCUMENT
    changed = {**json.loads(path.read_text()), "status": "validated"}
    path.write_bytes(canonical_json(changed))
    ws.documents.write("r")
    assert tag_events(ws, "r")[1].actor == "file"
    assert path.read_text().startswith('{\n  "planlet_tag_file"')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"pending"', '"fine"'),
        ('"pending"', '["validated"]'),
        ('"status": "pending",', '"status": "validated", "by": "job",'),
        ('"digest": "sha256:', '"digest": "sha256:0'),
    ],
)
def test_any_other_edit_is_a_difference_and_is_taken_back(
    ws: Workspace, before: str, after: str
) -> None:
    relabelled(ws, "r", GOOD)
    path = edit(ws, before, after)
    assert [d.path for d in ws.documents.check(ws.journal.run("r"))] == [path]
    ws.documents.write("r")
    assert shown(ws, TAGS_DOCUMENT)["status"] == "pending"
    assert ws.documents.check(ws.journal.run("r")) == []
    assert len(tag_events(ws, "r")) == 1


def test_a_job_overrules_the_launcher_and_the_launcher_a_job(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD)
    validate(ws, "r", None)
    counts = shown(ws, TAGS_DOCUMENT)["counts"]
    edit(ws, '"validated"', '"rejected"')
    ws.documents.write("r")
    assert (shown(ws, TAGS_DOCUMENT)["status"], counts["valid"]) == ("rejected", 1)
    assert shown(ws, TAGS_DOCUMENT)["counts"] == counts
    validate(ws, "r", None)
    edit(ws, '"validated"', '"rejected"')
    ws.documents.write("r")
    said = [(r.type.removeprefix("RelabelTags"), r.actor) for r in tag_events(ws, "r")[1:]]
    assert said == [("Validated", "ana"), ("Rejected", "file")] * 2
    assert shown(ws, TAGS_DOCUMENT)["status"] == "rejected"


def test_a_file_that_is_behind_is_not_taken_for_a_jobs_word(ws: Workspace) -> None:
    """The launcher's verdict after a job's, with equal counts: another process writes the documents first."""
    relabelled(ws, "r", GOOD)
    validate(ws, "r", None)
    edit(ws, '"validated"', '"rejected"')
    ws.documents.write("r")
    last = tag_events(ws, "r")[-1]
    verdict = e.RelabelTagsValidated(
        **last.data.model_dump(exclude={"type", "follows", "source", "errors"}), follows=last.id
    )
    say(ws, "r", verdict)
    other = open_project(ws.root)
    behind = other.documents.check(other.journal.run("r"))
    assert [d.path.name for d in behind] == ["metadata.json", "relabel_tags.json"]
    other.documents.write("r")
    assert tag_events(ws, "r")[-1].data == verdict
    assert shown(ws, TAGS_DOCUMENT)["status"] == "validated"


# --- where they go, and what they show ----------------------------------------------------------------


def _succeeded(ws: Workspace, run_id: str, pointer: str = "student", **plan: Any) -> None:
    """A run that succeeded, was promoted and measured."""
    promotion = e.PromotionPlan(target=pointer, **plan)
    say(ws, run_id, requested(ws, run_id, stages=(), promotion=promotion))
    say(ws, run_id, e.RunSucceeded())
    promoted(ws, pointer, run_id)
    ws.journal.record_storage(measured(run_id, alert_file=plan.get("alert_file")), run_id)


def test_nightly_runs_share_a_record_and_the_newest_promotion_owns_it(ws: Workspace) -> None:
    places = {"record": "out/record.json", "alert_file": "out/alert.txt"}
    for run_id in ("a", "b"):
        _succeeded(ws, run_id, **places)
        ws.documents.write(run_id)
    for run_id in ("b", "a"):
        ws.documents.write(run_id)
        assert shown(ws, "out/record.json")["run_id"] == "b"
        assert ws.documents.check(ws.journal.run(run_id)) == []
    owned = {str(p.relative_to(ws.root)) for p, _ in ws.documents.expected(ws.journal.run("a"))}
    assert owned == {f"{HOME}/a/metadata.json"}
    promoted(ws, "student", "a")
    ws.documents.write("b")
    ws.documents.write("a")
    assert shown(ws, "out/record.json")["run_id"] == "a"


def test_a_slow_writer_of_a_shared_record_looks_again(ws: Workspace) -> None:
    _succeeded(ws, "a", record="out/record.json")
    ws.documents.write("a")
    place = next(ws.locks.glob("*.document.lock"))
    record = ws.root / "out/record.json"
    record.unlink()
    with place.open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _writing(ws.root, "a"):
            _wait_until(lambda: _is_locked(ws.locks / "a.documents.lock"))
            _succeeded(ws, "b", record="out/record.json")
            newer = dict(ws.documents.expected(ws.journal.run("b")))[record]
            write_atomically(record, newer)
            fcntl.flock(lock, fcntl.LOCK_UN)
    assert shown(ws, "out/record.json")["run_id"] == "b"


@contextmanager
def _writing(root: Path, run_id: str) -> Iterator[None]:
    """Another process's writer of a run's documents, which knows the state of now; gone afterwards."""
    knows = threading.Event()

    def write() -> None:
        stale = open_project(root)
        stale.journal.run(run_id)
        knows.set()
        stale.documents.write(run_id)
        stale.ledger.close()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        assert knows.wait(30)
        yield
        writer.result(30)


def _wait_until(holds: Callable[[], bool]) -> None:
    over = clock.deadline(30)
    while not holds():
        assert not over()
        clock.sleep(0.01)


def _is_locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_the_newest_promotion_is_the_later_one_even_if_the_clock_went_back(ws: Workspace) -> None:
    times = iter(f"2026-01-{day}T00:00:00.000000Z" for day in range(31, 9, -1))
    ws.journal.clock = lambda: next(times)
    _succeeded(ws, "r", "first")
    promoted(ws, "second", "r")
    ws.documents.write("r")
    record = shown(ws, f"{HOME}/r/metadata/promotion.json")
    assert (record["promoted_to"], record["generation"]) == ("second", 1)


def test_only_a_run_that_succeeded_has_a_record(ws: Workspace) -> None:
    say(ws, "r", requested(ws, "r", stages=()))
    promoted(ws, "student", "r")
    assert {p.name for p in fields_of(ws)} == {"metadata.json"}


def test_documents_as_of_a_position_are_those_that_stood_then(ws: Workspace) -> None:
    """Each state's documents, kept as they are written, are what as_of makes of the whole ledger later."""
    seen: list[tuple[int, dict[Path, bytes]]] = []

    def look() -> None:
        seen.append((ws.ledger.head().size - 1, fields_of(ws)))

    request = requested(ws, "r", promotion=e.PromotionPlan(target="student"))
    say(ws, "r", request)
    look()
    stage: e.StageName = "relabel"
    plan = digest("relabel")
    say(ws, "r", e.StageIntended(stage=stage, attempt=1, executor="local", spec_digest=plan))
    look()
    say(
        ws,
        "r",
        e.StageSubmitted(stage=stage, attempt=1, handle=e.Handle(pid=7), log="l"),
        e.StageStarted(stage=stage, attempt=1, node="n"),
        e.StageSucceeded(stage=stage, attempt=1, manifest_digest=plan, log_digest=None),
        e.RelabelTagsEmitted(tag_file="t", digest=None),
    )
    look()
    say(ws, "r", e.RunSucceeded())
    look()
    promoted(ws, "student", "r")
    look()
    ws.journal.record_storage(measured("r"), "one")
    look()
    promoted(ws, "student", "r")
    ws.journal.record_storage(measured("r", obsolete_count=1), "two")
    look()
    say(ws, "other", requested(ws, "other", stages=()))
    assert [len(documents) for _, documents in seen] == [1, 1, 2, 2, 3, 4, 4]
    for position, documents in seen:
        assert dict(ws.documents.as_of("r", position)) == documents
    assert dict(ws.documents.as_of("other", seen[-1][0])) == {}


def test_metadata_names_the_position_and_the_root_that_it_shows(ws: Workspace) -> None:
    relabelled(ws, "r", GOOD)
    say(ws, "other", requested(ws, "other", stages=()))
    ws.documents.write("r")
    named = shown(ws, METADATA)["ledger"]
    assert named["position"] == ws.ledger.head().size - 2
    leaves = [s.raw for s in ws.ledger.read_raw() if s.position <= named["position"]]
    assert named["root"] == tree_root(leaves).hex()
