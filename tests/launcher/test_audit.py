"""What an audit finds in a real project that was damaged by hand, and that it changes nothing itself."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest

from launcher.audit import Report, standing_differences
from launcher.settings import Settings
from launcher.storage.blobs import digest_file
from launcher.storage.pointer import Pointers
from launcher.workspace import open_workspace
from ledger.canonical import canonical_json, parse_json
from ledger.events import RunRequested, StageSucceeded
from ledger.stores.port import NewEvent, TreeHead
from ledger.stores.sqlite import SqliteEventStore
from tests.e2e.project import TARGET
from tests.launcher.finished import Finished, overwrite
from tests.launcher.test_workspace import relabelled


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished.make(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def finished(made: Finished) -> Finished:
    made.restore()
    return made


def bad(report: Report) -> list[str]:
    """The checks that found something."""
    return [check.name for check in report.checks if check.problems]


def everything(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def test_what_nobody_touched_is_clean_and_stays_as_it_is(finished: Finished) -> None:
    before = everything(finished.root)
    report = finished.audit()
    assert report.problems == []
    assert not any(check.skipped for check in report.checks)
    assert report.head == finished.workspace().ledger.head()
    looked = {check.name: check.looked_at for check in report.checks}
    assert looked["results"].startswith("8 ended attempts")
    assert looked["targets"].startswith("1 file")
    assert everything(finished.root) == before


def test_the_ledger_extends_every_head_of_its_own(finished: Finished) -> None:
    heads = finished.workspace().ledger.kept_heads()
    assert len(heads) > 10
    assert finished.audit(*heads).problems == []


# --- the ledger -----------------------------------------------------------------------------------


def test_an_event_edited_into_another_legal_one(finished: Finished) -> None:
    with finished.unguarded() as db:
        db.execute('UPDATE events SET raw = replace(raw, \'"project":"my\', \'"project":"by\')')
    # replace() makes text of the bytes; what was there was bytes.
    with finished.unguarded() as db:
        db.execute("UPDATE events SET raw = CAST(raw AS BLOB)")
    report = finished.audit()
    assert bad(report)[0] == "heads"
    assert report.first_position == 0
    [problem] = [p for p in report.problems if p.check == "heads"]
    assert "nor do the" in problem.what


def test_an_event_edited_in_the_middle_names_the_batch_it_was_in(finished: Finished) -> None:
    ledger = finished.workspace().ledger
    [last] = [r for r in ledger.read_all() if isinstance(r.data, StageSucceeded)][-1:]
    heads = [head.size for head in ledger.kept_heads()]
    with finished.unguarded() as db:
        (raw,) = db.execute(
            "SELECT raw FROM events WHERE rowid = ?", (last.position + 1,)
        ).fetchone()
        event = parse_json(raw)
        event["actor"] = "mallory"
        db.execute(
            "UPDATE events SET raw = ? WHERE rowid = ?", (canonical_json(event), last.position + 1)
        )
    report = finished.audit()
    assert report.first_position == max(size for size in heads if size <= last.position)
    assert "documents" not in bad(report)  # what follows from the edit alone is not said again


def test_an_event_whose_bytes_are_none(finished: Finished) -> None:
    with finished.unguarded() as db:
        for row, raw in ((3, b'{"id":'), (6, b"{ }")):
            db.execute("UPDATE events SET raw = ? WHERE rowid = ?", (raw, row))
    report = finished.audit()
    places = [p.position for p in report.problems if p.check == "bytes"]
    assert places == [2, 5]
    assert report.first_position == 2
    assert "order" not in bad(report)


@pytest.mark.parametrize("position", [0, 7, 30])
def test_an_event_removed(finished: Finished, position: int) -> None:
    with finished.unguarded() as db:
        db.execute("DELETE FROM events WHERE rowid = ?", (position + 1,))
    report = finished.audit()
    [problem] = [p for p in report.problems if p.check == "order"]
    assert (problem.position, problem.what) == (position, "1 event is missing")
    assert report.first_position == position


def test_two_events_that_changed_places(finished: Finished) -> None:
    with finished.unguarded() as db:
        for old, new in ((11, 9011), (13, 11), (9011, 13)):
            db.execute("UPDATE events SET rowid = ? WHERE rowid = ?", (new, old))
    report = finished.audit()
    assert {"order", "heads"} <= set(bad(report))
    assert report.first_position == 10


def test_a_row_whose_index_names_another_event(finished: Finished) -> None:
    with finished.unguarded() as db:
        db.execute("UPDATE events SET stream = 'run/c' WHERE stream = 'run/a' AND version = 2")
    report = finished.audit()
    assert "the index has stream 'run/c'" in next(p.what for p in report.problems)
    assert bad(report) == ["order"]


def test_the_tail_cut_off_and_its_heads_kept(finished: Finished) -> None:
    size = finished.workspace().ledger.head().size
    with finished.unguarded() as db:
        db.execute("DELETE FROM events WHERE rowid > ?", (size - 3,))
    report = finished.audit()
    [problem] = [p for p in report.problems if p.check == "heads"]
    assert problem.position == size - 3
    assert "the tail was cut off" in problem.what


def test_events_that_no_head_covers(finished: Finished) -> None:
    head = finished.workspace().ledger.kept_heads()[-2]
    with finished.unguarded() as db:
        db.execute("DELETE FROM heads WHERE size > ?", (head.size,))
    report = finished.audit()
    [problem] = [p for p in report.problems if p.check == "heads"]
    assert problem.position == head.size
    assert "no head covers it" in problem.what


def test_a_head_that_was_changed_itself(finished: Finished) -> None:
    head = finished.workspace().ledger.kept_heads()[5]
    with finished.unguarded() as db:
        db.execute("UPDATE heads SET root = zeroblob(32) WHERE size = ?", (head.size,))
    [problem] = finished.audit().problems
    assert problem.where == f"the head of {head.size} events"


def _cut(finished: Finished, size: int) -> None:
    """Cut the tail off, with its heads: what is left is a ledger that nothing is wrong with."""
    with finished.unguarded() as db:
        db.execute("DELETE FROM events WHERE rowid > ?", (size,))
        db.execute("DELETE FROM heads WHERE size > ?", (size,))
        db.execute("DELETE FROM schemas WHERE position >= ?", (size,))


def test_a_tail_cut_off_with_its_heads_shows_against_a_head_kept_elsewhere(
    finished: Finished,
) -> None:
    ledger = finished.workspace().ledger
    head = ledger.head()
    start = next(r.position for r in ledger.read_all() if r.stream == "run/b")
    _cut(finished, start)
    report = finished.audit(head)
    assert "heads" in bad(report)
    assert any("its tail was cut off" in p.what for p in report.problems if p.check == "heads")
    # Even by itself: the folder of the run that was cut off shows a later position.
    alone = finished.audit()
    assert bad(alone) == ["documents"]
    assert "runs/self_distill/b/metadata.json" in alone.problems[0].where
    # Without that folder nothing is left to see it by; that is what a head kept elsewhere is for.
    shutil.rmtree(finished.home / "b")
    assert finished.audit().problems == []
    assert bad(finished.audit(head)) == ["heads"]


def test_a_ledger_written_anew_shows_against_a_head_kept_elsewhere(finished: Finished) -> None:
    ledger = finished.workspace().ledger
    head = ledger.head()
    stored = list(ledger.read_all())
    ledger.close()
    (finished.home / "ledger.db").unlink()
    forged = SqliteEventStore(finished.home / "ledger.db")
    for record in stored:
        data = record.data
        if isinstance(data, RunRequested):
            data = data.model_copy(update={"note": "it was somebody else"})
        event = NewEvent(record.id, data)
        forged.append(
            record.stream, record.version - 1, [event], now=record.time, actor=record.actor
        )
    forged.close()
    finished.project.launcher("replay")
    assert finished.audit().problems == []
    [problem] = finished.audit(head).problems
    assert problem.what == f"the first {head.size} events are not those that this head was of"


@pytest.mark.parametrize("left_bytes", [0, 5000, -1])
def test_a_damaged_file_stops_at_nothing_else(finished: Finished, left_bytes: int) -> None:
    path = finished.home / "ledger.db"
    os.truncate(path, left_bytes if left_bytes >= 0 else path.stat().st_size - 4096)
    before = everything(finished.root)
    done = finished.project.launcher("audit")
    assert done.code == 4
    assert "BAD  bytes" in done.out
    assert "ok   pointers" in done.out
    assert "ok   targets" in done.out
    assert "put a backup copy in its place" in done.out
    assert done.err.count("\n") == 1
    assert everything(finished.root) == before
    for command in (["list"], ["status", "a"], ["replay", "--check"], ["storage"]):
        other = finished.project.launcher(*command)
        assert other.code == 4, (command, other)
        assert other.err.count("\n") == 1
    assert everything(finished.root) == before


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", '{"run_id": "a"', "edited\n", None])
def test_a_torn_or_edited_document_is_named_and_rebuilt(
    finished: Finished, text: str | None
) -> None:
    path = finished.home / "a" / "metadata.json"
    good = path.read_bytes()
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    [problem] = finished.audit().problems
    assert (problem.check, problem.where) == ("documents", "runs/self_distill/a/metadata.json")
    assert finished.project.launcher("replay").code == 0
    assert path.read_bytes() == good
    assert finished.audit().problems == []


def test_a_tag_status_that_a_job_changed_is_no_damage(finished: Finished) -> None:
    path = finished.home / "a" / "metadata" / "relabel_tags.json"
    path.write_text(path.read_text().replace('"pending"', '"validated"'))
    assert finished.audit().problems == []
    path.write_text(path.read_text().replace('"tags.jsonl"', '"else.jsonl"').replace("/tags", "/t"))
    assert bad(finished.audit()) == ["documents"]


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 1},
        {"metrics": {"success_rate": 0.99}},
        {"checkpoints": []},
        {"log_digest": None},
    ],
)
def test_a_result_that_says_something_else(finished: Finished, change: dict[str, object]) -> None:
    stage = "llm_off" if "metrics" in change else "retrain"
    path = finished.store / "runs" / "a" / stage / "1" / "result.json"
    overwrite(path, canonical_json({**json.loads(path.read_bytes()), **change}))
    report = finished.audit()
    assert bad(report) == ["results"]
    assert report.problems[0].where == f"runs/a/{stage}/1/result.json"


@pytest.mark.parametrize("data", [b"", b"[]", b'{"exit_code": 0}', None])
def test_a_result_that_is_none(finished: Finished, data: bytes | None) -> None:
    path = finished.store / "runs" / "b" / "relabel" / "1" / "result.json"
    path.chmod(0o644)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    report = finished.audit()
    assert bad(report) == ["results"]


# --- blobs ----------------------------------------------------------------------------------------


def _named(finished: Finished) -> list[Path]:
    return sorted(p for p in (finished.store / "blobs").rglob("*") if p.is_file())


def test_every_single_blob_is_missed_and_rehashed(finished: Finished) -> None:
    named = [path for path in _named(finished) if path.stat().st_size]
    for path, damage in zip(named, itertools.cycle(("missing", "cut short", "flipped"))):
        data = path.read_bytes()
        path.chmod(0o644)
        if damage == "missing":
            path.unlink()
        elif damage == "cut short":
            path.write_bytes(data[:-1])
        else:
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    report = finished.audit()
    assert bad(report) == ["blobs"]
    found = {p.where for p in report.problems}
    # Where a manifest is gone, nothing names what was in it alone.
    lost = {f"sha256:{p.name}" for p in named} - found
    assert len(found) > 8
    assert all(
        b"files" not in finished.blob(d).read_bytes() for d in lost if finished.blob(d).exists()
    )


@pytest.mark.parametrize("damage", ["missing", "cut short", "flipped"])
def test_a_file_that_only_a_manifest_names(finished: Finished, damage: str) -> None:
    path = finished.blob(digest_file(finished.home / "a" / "artifacts" / "planlets.txt").digest)
    data = path.read_bytes()
    path.chmod(0o644)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut short" else bytes([data[0] ^ 1]) + data[1:])
    [problem] = finished.audit().problems
    assert problem.where == f"sha256:{path.name}"
    assert "artifacts/planlets.txt in the outputs of llm_on attempt 1 of run" in problem.what


def test_quick_looks_at_presence_and_size_only(finished: Finished) -> None:
    student = finished.workspace().journal.run("a").student
    assert student is not None
    path = finished.blob(student.digest)
    data = path.read_bytes()
    overwrite(path, bytes([data[0] ^ 1]) + data[1:])
    assert finished.audit(quick=True).problems == []
    assert bad(finished.audit()) == ["blobs"]
    path.write_bytes(data + b"more")
    [problem] = finished.audit(quick=True).problems
    assert "student.pt" in problem.what
    assert f"{len(data) + 4} bytes of {len(data)}" in problem.what


# --- pointers and targets -------------------------------------------------------------------------


def _generation(finished: Finished, number: int) -> Path:
    [path] = (finished.store / "pointers").glob(f"*/{number:08d}.json")
    return path


def test_a_generation_that_was_edited(finished: Finished) -> None:
    path = _generation(finished, 1)
    overwrite(path, path.read_bytes().replace(b'"run_id":"a"', b'"run_id":"b"'))
    [problem] = finished.audit().problems
    assert (problem.check, problem.where) == ("pointers", TARGET)
    assert problem.what == "g1 is not what the ledger says it is"


def test_generations_that_are_gone(finished: Finished) -> None:
    _generation(finished, 2).unlink()
    report = finished.audit()
    assert "the ledger knows g2" in next(p.what for p in report.problems if p.check == "pointers")
    finished.restore()
    _generation(finished, 1).unlink()
    report = finished.audit()
    assert bad(report) == ["pointers"]
    assert "00000001.json is missing" in report.problems[0].what


def test_a_generation_that_the_ledger_has_not_heard_of_is_no_damage(finished: Finished) -> None:
    pointers = Pointers(finished.workspace().store)
    history = pointers.history(TARGET)
    live = history.live
    assert live is not None
    fence = history.fence_body(
        project=live.project,
        promotion_id="elsewhere",
        actor="bo",
        reason=None,
        time="2026-01-31T02:00:00.000000Z",
    )
    pointers.create(fence)
    report = finished.audit()
    assert report.problems == []
    [check] = [c for c in report.checks if c.name == "pointers"]
    assert "not imported yet: 1 generation" in check.notes[0]


def test_a_generation_that_does_not_follow_the_one_before(finished: Finished) -> None:
    pointers = Pointers(finished.workspace().store)
    body = pointers.history(TARGET).generations[0]
    lie = body.model_copy(update={"generation": 3, "origin": 3, "promotion_id": "forged"})
    pointers.create(lie)
    report = finished.audit()
    assert "g3 (promotion) does not follow g2 as it is" in {p.what for p in report.problems}


def test_a_target_file_that_is_not_what_is_live(finished: Finished) -> None:
    target = finished.root / TARGET
    live = target.read_bytes()
    times = target.stat()
    target.write_bytes(b"X" + live[1:])
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    [problem] = finished.audit().problems
    assert (problem.check, problem.where) == ("targets", TARGET)
    target.unlink()
    assert bad(finished.audit()) == ["targets"]
    assert finished.project.launcher("replay").code == 0
    assert target.read_bytes() == live
    assert finished.audit().problems == []


def test_a_file_of_another_project_is_not_ours_to_compare(finished: Finished) -> None:
    (finished.root / TARGET).write_bytes(b"something else")
    done = finished.project
    done.environment["LAUNCHER_PROJECT"] = "other"
    try:
        said = done.launcher("audit")
    finally:
        del done.environment["LAUNCHER_PROJECT"]
    assert said.code == 0
    assert f"{TARGET} is not a file of this project" in said.out


def test_heads_from_the_command_line(finished: Finished) -> None:
    head = finished.workspace().ledger.kept_heads()[3]
    good = finished.project.launcher(
        "audit", "--quick", "--expect-head", f"{head.size}:{head.root.hex()}"
    )
    assert good.code == 0
    assert f"extends the head of {head.size} events" in good.out
    wrong = TreeHead(head.size, bytes(32))
    bad_one = finished.project.launcher(
        "audit", "--quick", "--json", "--expect-head", f"{wrong.size}:{wrong.root.hex()}"
    )
    assert bad_one.code == 4
    assert json.loads(bad_one.out)["ok"] is False


def test_however_many_documents_are_missing_their_writers_are_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, tmp_path, {})
    ws = open_workspace(settings, tmp_path, writing=True)
    for number in range(20):
        relabelled(ws, f"r{number:02d}")
    waits: list[float] = []
    monkeypatch.setattr("launcher.clock.sleep", waits.append)
    differences = standing_differences(ws.documents, ws.journal.run_ids())
    assert len(differences) == 40
    assert len(waits) == 2


def test_a_document_that_its_writer_is_about_to_write_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, tmp_path, {})
    ws = open_workspace(settings, tmp_path, writing=True)
    relabelled(ws, "a")
    monkeypatch.setattr("launcher.clock.sleep", lambda _seconds: ws.documents.write("a"))
    assert standing_differences(ws.documents, ["a"]) == []
