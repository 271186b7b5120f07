"""What is counted, and above all what is never called obsolete."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from launcher.usage import Usage, measure, survey
from ledger.events import RunRequested
from tests.e2e.project import TARGET, TEACHER
from tests.launcher.finished import Finished, overwrite

A = "runs/self_distill/a/checkpoints/student.pt"
B = "runs/self_distill/b/checkpoints/student.pt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three promoted runs: a, b and c. Live is c; two backups lie beside the target."""
    finished = Finished.make(tmp_path_factory.mktemp("usage"))
    done = finished.project.script("--run-id", "c", "--promotion-target", TARGET)
    assert done.code == 0, done
    return finished.keep()


@pytest.fixture
def finished(made: Finished) -> Finished:
    made.restore()
    return made


def surveyed(finished: Finished) -> Usage:
    ws = finished.workspace()
    try:
        return survey(ws)
    finally:
        ws.ledger.close()


def obsolete(finished: Finished) -> set[str]:
    return {item.path for item in surveyed(finished).obsolete}


def sizes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def test_every_byte_of_the_home_is_in_one_class(finished: Finished) -> None:
    usage = surveyed(finished)
    inside = ("students", "other checkpoints", "teachers and inputs", "logs", "other outputs")
    blobs = sizes(finished.store / "blobs")
    assert sum(usage.classes[name] for name in inside) == blobs
    assert usage.classes["results"] == sizes(finished.store) - blobs
    assert usage.classes["run folders"] == sum(sizes(finished.home / run) for run in "abc")
    assert usage.classes["ledger"] == (finished.home / "ledger.db").stat().st_size
    assert usage.classes["backups"] == 2 * len("teacher\n1 a\n")
    assert usage.classes["students"] == 3 * len("teacher\n1 a\n")
    assert usage.free_bytes is not None
    assert usage.free_bytes > 0


def test_runs_and_pointers(finished: Finished) -> None:
    usage = surveyed(finished)
    assert [(r.run_id, r.status) for r in usage.runs] == [(r, "succeeded") for r in "abc"]
    assert all(r.folder_bytes > r.stored_bytes > 0 for r in usage.runs)
    [pointer] = usage.pointers
    assert (pointer.name, pointer.generations, pointer.kept_bytes) == (TARGET, 3, 36)


def test_the_write_ahead_log_counts_as_ledger(finished: Finished) -> None:
    before = surveyed(finished).classes["ledger"]
    (finished.home / "ledger.db-wal").write_bytes(b"")
    (finished.home / "ledger.db-shm").write_bytes(b"x" * 1000)
    assert surveyed(finished).classes["ledger"] == before + 1000


def test_only_what_is_safe_to_remove_is_called_obsolete(finished: Finished) -> None:
    assert obsolete(finished) == {A, B, f"{TARGET}.bak.b"}
    for path in obsolete(finished):
        (finished.root / path).unlink()
    assert obsolete(finished) == set()
    # What was called obsolete was: the old students come back from the store.
    assert finished.audit().problems == []
    for number, holds in ((1, "teacher\n1 a\n"), (2, "teacher\n1 b\n")):
        back = finished.project.launcher("rollback", TARGET, "--to", str(number), "--yes")
        assert back.code == 0
        assert (finished.root / TARGET).read_text() == holds


def test_a_file_whose_blob_is_gone_or_short_stays(finished: Finished) -> None:
    student = finished.workspace().journal.run("a").student
    assert student is not None
    blob = finished.blob(student.digest)
    overwrite(blob, blob.read_bytes()[:-1])
    assert A not in obsolete(finished)
    assert f"{TARGET}.bak.b" not in obsolete(finished)
    blob.unlink()
    assert A not in obsolete(finished)


def test_a_file_that_was_written_since_or_is_a_link_stays(finished: Finished) -> None:
    path = finished.root / A
    data = path.read_bytes()
    path.write_bytes(data[::-1])
    assert A not in obsolete(finished)
    path.unlink()
    path.symlink_to(finished.root / B)
    assert A not in obsolete(finished)


def test_a_file_that_an_open_run_was_given_stays(finished: Finished) -> None:
    ws = finished.workspace(writing=True)
    request = ws.journal.run("a").request
    assert request is not None
    assert request.teacher_checkpoint is not None
    given = request.teacher_checkpoint.model_copy(update={"path": A})
    wanted = RunRequested(
        **{**dict(request), "run_id": "open", "teacher_checkpoint": given, "promotion": None}
    )
    ws.journal.record_run("open", lambda _: [wanted])
    ws.ledger.close()
    assert obsolete(finished) == {B, f"{TARGET}.bak.b"}


def test_what_somebody_put_beside_or_into_the_target_by_hand_stays(finished: Finished) -> None:
    mine = finished.root / f"{TARGET}.bak.mine"
    mine.write_bytes(b"the only copy")
    os.utime(mine, (0, 0))
    target = finished.root / TARGET
    target.write_bytes(b"trained by hand")
    done = finished.project.launcher("replay")
    assert done.code == 0, done
    kept = [p for p in target.parent.iterdir() if p.read_bytes() == b"trained by hand"]
    assert len(kept) == 1
    names = {str(p.relative_to(finished.root)) for p in (mine, *kept)}
    assert not names & obsolete(finished)


def test_the_live_checkpoint_and_the_newest_backup_stay(finished: Finished) -> None:
    back = finished.project.launcher("rollback", TARGET, "--yes")
    assert back.code == 0
    found = obsolete(finished)
    assert B not in found  # live again
    assert "runs/self_distill/c/checkpoints/student.pt" in found
    assert f"{TARGET}.bak.c" in found
    # That of the rollback: what it replaced was c's.
    kept = [
        p for p in (finished.root / TARGET).parent.glob("*.bak.*") if "\n1 c\n" in p.read_text()
    ]
    assert len(kept) == 1
    assert str(kept[0].relative_to(finished.root)) not in found


def test_where_a_pointer_cannot_be_read_nothing_is_obsolete(finished: Finished) -> None:
    [first] = (finished.store / "pointers").glob("*/00000001.json")
    first.unlink()
    usage = surveyed(finished)
    assert usage.obsolete == ()
    assert usage.classes["students"] == 36


def test_links_count_once_and_symlinks_not_at_all(finished: Finished) -> None:
    before = surveyed(finished).classes["run folders"]
    folder = finished.home / "a" / "artifacts"
    (folder / "one").write_bytes(b"x" * 5000)
    (folder / "two").hardlink_to(folder / "one")
    (finished.home / "b" / "three").hardlink_to(folder / "one")
    (folder / "four").symlink_to(folder / "one")
    (folder / "around").symlink_to(finished.home)
    (folder / "nowhere").symlink_to("/nowhere")
    assert surveyed(finished).classes["run folders"] == before + 5000


def test_a_run_folder_that_was_moved_elsewhere_is_followed(finished: Finished) -> None:
    before = surveyed(finished).classes["run folders"]
    (finished.home / "a").rename(finished.root / "bigger disk")
    (finished.home / "a").symlink_to(finished.root / "bigger disk")
    assert surveyed(finished).classes["run folders"] == before


def test_a_run_folder_that_is_gone_is_nothing(finished: Finished) -> None:
    usage = surveyed(finished)
    shutil.rmtree(finished.home / "a")
    after = surveyed(finished)
    assert after.classes["run folders"] == usage.classes["run folders"] - usage.runs[0].folder_bytes
    assert after.runs[0].folder_bytes == 0
    assert after.runs[0].stored_bytes == usage.runs[0].stored_bytes


def test_a_teacher_counts_as_one_though_a_run_is_its_own(finished: Finished) -> None:
    assert (finished.root / TEACHER).exists()
    usage = surveyed(finished)
    given = (finished.root / TEACHER).stat().st_size
    card = len('{"success_rate": 0.9}\n')
    assert usage.classes["teachers and inputs"] == given + card


def test_the_fact_has_the_first_twenty_and_counts_all(finished: Finished) -> None:
    ws = finished.workspace()
    fact = measure(ws, run_id="c", alert_file="x")
    assert (fact.obsolete_count, fact.obsolete_bytes, len(fact.obsolete)) == (3, 36, 3)
    assert (fact.run_id, fact.alert_file) == ("c", "x")
    assert fact.bytes_by_class == surveyed(finished).classes
