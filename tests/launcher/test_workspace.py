"""What a writing command does first: documents that a crash left behind, and statuses that jobs wrote."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import clock
from launcher.documents import Documents
from launcher.errors import ConflictError, IntegrityError, UnavailableError, UsageError
from launcher.journal import Journal
from launcher.run_folders import RunFolders
from launcher.settings import Settings
from launcher.workspace import Workspace, open_workspace, translated
from ledger import errors
from ledger import events as e
from ledger.decider import RunState
from ledger.ids import run_stream
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import segment_key
from tests.ledger.log_objects import FaultyObjects, MemoryObjects

DIGEST = "sha256:" + "0" * 64


def opened(root: Path, *, writing: bool = True) -> Workspace:
    settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, root, {})
    return open_workspace(settings, root, writing=writing)


def request(root: Path, run_id: str, output_root: str = "runs/self_distill") -> e.RunRequested:
    plan = e.StagePlan(name="relabel", command="true", spec_digest=DIGEST)
    return e.RunRequested(
        run_id=run_id,
        project="p",
        project_root=str(root),
        output_root=output_root,
        config=e.ConfigRef(path=None, digest=DIGEST),
        stages=(plan,),
        relabel_tag_file="tags.jsonl",
        provenance=e.Provenance(launcher_version="0.1.0"),
    )


def relabelled(ws: Workspace, run_id: str, output_root: str = "runs/self_distill") -> Path:
    """Append a run with tags, as a launcher does that dies before it writes a document."""
    facts: list[e.EventData] = [
        request(ws.root, run_id, output_root),
        e.StageIntended(stage="relabel", attempt=1, executor="local", spec_digest=DIGEST),
        e.StageSubmitted(stage="relabel", attempt=1, handle=e.Handle(pid=1), log="log"),
        e.StageSucceeded(stage="relabel", attempt=1, manifest_digest=DIGEST, log_digest=None),
        e.RelabelTagsEmitted(tag_file="tags.jsonl", digest=DIGEST),
        e.RunSucceeded(),
    ]
    ws.journal.record_run(run_id, lambda _: facts)
    return ws.root / output_root / run_id / "metadata" / "relabel_tags.json"


class Counting(Documents):
    """Documents that note which runs were written."""

    def __init__(self, given: Documents) -> None:
        super().__init__(given.journal, given.locks)
        self.written: list[str] = []

    def write(self, run_id: str) -> RunState:
        self.written.append(run_id)
        return super().write(run_id)


def attended(root: Path) -> list[str]:
    """Attend as a fresh process does; which runs' documents it looked at."""
    ws = opened(root)
    documents = Counting(ws.documents)
    assert replace(ws, documents=documents).attend() == []
    ws.ledger.close()
    return documents.written


def settled(root: Path) -> None:
    """Attend until there is nothing to do: what was written itself is looked at once more."""
    for _ in range(2):
        attended(root)
    assert attended(root) == []


def status(path: Path) -> str:
    return str(json.loads(path.read_text())["status"])


def test_documents_that_a_crash_left_behind_are_written(tmp_path: Path) -> None:
    tags = relabelled(opened(tmp_path), "a")
    assert not tags.exists()
    assert attended(tmp_path) == ["a"]
    assert status(tags) == "pending"
    assert status(tags.parents[1] / "metadata.json") == "succeeded"
    settled(tmp_path)


def test_a_second_time_does_nothing_and_writes_nothing(tmp_path: Path) -> None:
    ws = opened(tmp_path)
    for number in range(5):
        relabelled(ws, f"r{number}")
    settled(tmp_path)
    before = {p: p.stat().st_ctime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert attended(tmp_path) == []
    assert {p: p.stat().st_ctime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_one_more_event_costs_one_run_however_many_there_are(tmp_path: Path) -> None:
    ws = opened(tmp_path)
    for number in range(30):
        relabelled(ws, f"r{number:02d}")
    settled(tmp_path)
    ws.journal.record_run("new", lambda _: [request(tmp_path, "new")])
    assert attended(tmp_path) == ["new"]


@pytest.mark.parametrize("output_root", ["runs/self_distill", "my runs/of today"])
def test_a_status_that_a_job_wrote_is_imported_wherever_the_run_lies(
    tmp_path: Path, output_root: str
) -> None:
    tags = relabelled(opened(tmp_path), "a", output_root)
    settled(tmp_path)
    tags.write_text(tags.read_text().replace('"pending"', '"validated"'))
    assert attended(tmp_path) == ["a"]
    ws = opened(tmp_path, writing=False)
    [last] = ws.ledger.read_stream(run_stream("a"))[-1:]
    assert (last.type, last.actor) == ("RelabelTagsValidated", "file")
    settled(tmp_path)
    assert status(tags) == "validated"


def test_a_status_that_was_moved_into_place_with_an_old_time_is_imported(tmp_path: Path) -> None:
    tags = relabelled(opened(tmp_path), "a")
    settled(tmp_path)
    draft = tmp_path / "draft.json"
    draft.write_text(tags.read_text().replace('"pending"', '"rejected"'))
    os.utime(draft, (0, 0))
    draft.replace(tags)
    assert attended(tmp_path) == ["a"]
    assert opened(tmp_path).journal.run("a").tags.status == "rejected"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"size": "many"}', '{"size": 6, "root": "00", "tags": {}}']
)
def test_a_marker_that_is_no_marker_costs_time_and_nothing_else(tmp_path: Path, text: str) -> None:
    relabelled(opened(tmp_path), "a")
    settled(tmp_path)
    (tmp_path / "runs/self_distill/locks/documents.json").write_text(text)
    assert attended(tmp_path) == ["a"]


def test_a_ledger_from_a_backup_gets_its_own_documents_back(tmp_path: Path) -> None:
    """The marker counts for the ledger that it was written of, not for an older or another one of any size."""
    ws = opened(tmp_path)
    tags = relabelled(ws, "a")
    path = tmp_path / "runs/self_distill/ledger.db"
    ws.ledger.close()
    shutil.copy(path, tmp_path / "backup.db")
    ws = opened(tmp_path)
    ws.journal.record_run(
        "a",
        lambda s: [
            e.RelabelTagsValidated(
                tag_file="tags.jsonl", digest=DIGEST, follows=s.tags.event_id if s.tags else ""
            )
        ],
    )
    settled(tmp_path)
    assert status(tags) == "validated"
    ws.ledger.close()
    shutil.copy(tmp_path / "backup.db", path)
    assert "a" in attended(tmp_path)
    assert json.loads((tags.parents[1] / "metadata.json").read_text())["ledger"]["position"] == 5


def test_a_measurement_that_came_after_everything_else_is_shown(tmp_path: Path) -> None:
    ws = opened(tmp_path)
    relabelled(ws, "a")
    settled(tmp_path)
    measured = e.StorageMeasured(store="s", bytes_by_class={}, free_bytes=1, run_id="a")
    ws.journal.record_storage(measured, "later")
    assert attended(tmp_path) == ["a"]
    assert (tmp_path / "runs/self_distill/a/metadata/storage_alert.txt").exists()


def test_one_run_whose_folder_is_away_stops_nobody_and_is_looked_at_again(tmp_path: Path) -> None:
    away = tmp_path / "disk"
    away.write_text("not mounted")
    ws = opened(tmp_path)
    relabelled(ws, "a", "disk")
    beside = relabelled(ws, "b")
    for _ in range(2):
        said = opened(tmp_path).attend()
        assert len(said) == 1
        assert str(away) in str(said[0])
    assert status(beside) == "pending"
    away.unlink()
    assert attended(tmp_path) == ["a"]
    assert (away / "a" / "metadata.json").exists()
    settled(tmp_path)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    ws = opened(tmp_path, writing=False)
    assert ws.journal.run_ids() == []
    assert list(ws.store.list("")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (errors.LedgerDamagedError("l", "d", 3), IntegrityError),
        (errors.LedgerUnavailableError("l", "locked"), UnavailableError),
        (errors.VersionConflictError("run/a", 1, 2), ConflictError),
        (errors.IllegalTransitionError("run/a", "open", "RunRequested"), ConflictError),
        (errors.NewerSchemaError("X", 2, 1, None), UsageError),
        (errors.InvalidNameError("run id", "-", "rule"), UsageError),
    ],
)
def test_the_ledgers_errors_get_an_exit_code(raised: Exception, meant: type[Exception]) -> None:
    with pytest.raises(meant), translated():
        raise raised


@pytest.mark.parametrize("runs", [3, 40])
def test_of_other_machines_runs_nothing_more_is_read(tmp_path: Path, runs: int) -> None:
    """A pod of every night has an empty home: it asks a ledger of many years no more than a young one."""
    bucket = MemoryObjects()
    writer = Journal(ObjectsEventStore(bucket, sleep=lambda _: None), "ana", clock.now)
    for number in range(runs):
        facts: list[e.EventData] = [
            request(tmp_path, f"r{number}"),
            e.StageIntended(stage="relabel", attempt=1, executor="local", spec_digest=DIGEST),
            e.StageSubmitted(
                stage="relabel", attempt=1, handle=e.Handle(machine_id="other", pid=1), log="log"
            ),
        ]
        writer.record_run(f"r{number}", lambda _, facts=facts: facts)  # type: ignore[misc]
    line = FaultyObjects(bucket)
    ledger = ObjectsEventStore(line, sleep=lambda _: None)
    ws = opened(tmp_path)
    documents = Counting(Documents(Journal(ledger, "ana", clock.now), ws.locks))
    documents.folders = RunFolders(ledger, shared=True)
    ws = replace(ws, ledger=ledger, journal=documents.journal, documents=documents)
    assert ws.attend() == []
    assert documents.written == []
    again = [call for call in line.calls if call == f"read {segment_key(runs + 1)}"]
    assert len(again) <= 6
