"""gc --run-dirs and restore, typed as a user types them, with the store in a folder and in a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.clock import parse_time
from launcher.retention.look import Look
from launcher.retention.reach import DAY_SECONDS, Policy
from launcher.run_contents import contents_of
from launcher.settings import Settings
from launcher.workspace import open_workspace
from tests.cli.session import Session, make_session, until
from tests.rig.s3 import S3Server, s3_server
from tests.rig.stores import copy_project

__all__ = ["s3_server"]


TARGET = "checkpoints/stable/s.pt"
#: The marker leaves the second one out where the first one's store is in a bucket already.
both = pytest.mark.parametrize(
    "session", ["folder", pytest.param("bucket", marks=pytest.mark.folder)], indirect=True
)


def after_a_run(root: Path, **environment: str) -> Session:
    made = make_session(root, **environment)
    done = made.submit("--run-id", "a", "--promotion-target", TARGET)
    assert done.code == 0, done
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    """A project after one run, a, and a copy of it."""
    folder = tmp_path_factory.mktemp("finished")
    made = after_a_run(folder / "project")
    copy_project(made.root, folder / "pristine")
    return made, folder / "pristine"


@pytest.fixture
def session(
    request: pytest.FixtureRequest, finished: tuple[Session, Path], tmp_path: Path
) -> Session:
    """A project after one run, a: in a folder, or with a bucket of its own."""
    if getattr(request, "param", "folder") == "folder":
        made, pristine = finished
        copy_project(pristine, made.root, of=pristine)
        return Session(made.root, dict(made.environment))
    server: S3Server = request.getfixturevalue("s3_server")
    return after_a_run(
        tmp_path / "project",
        **server.environment(),
        LAUNCHER_STORE=f"s3://{server.bucket()}/loop",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def collect(session: Session) -> str:
    done = session.look("gc", "--run-dirs", "--apply", "--yes")
    assert done.code == 0, done
    return done.out


def clean(session: Session) -> None:
    """Nothing is wrong, and a second look at the documents changes nothing."""
    for command in (["audit"], ["replay", "--check"]):
        done = session.look(*command)
        assert done.code == 0, done


@both
def test_a_folder_goes_stays_away_and_comes_back(session: Session) -> None:
    folder = session.home / "a"
    before = files(folder)
    plan = session.json("gc", "--run-dirs")
    assert [row["run_id"] for row in plan["safe"]] == ["a"]
    assert plan["safe"][0]["files"] == len(before)
    assert plan["safe"][0]["size_bytes"] == sum(map(len, before.values()))
    assert files(folder) == before, "a dry run changed something"

    assert "1 run folder removed" in collect(session)
    assert not folder.exists()
    clean(session)
    # Commands that write look for documents that are missing.
    for command in (["replay"], ["rollback", TARGET, "--to", "1", "--yes"]):
        done = session.look(*command)
        assert done.code == 0, done
        assert not folder.exists(), command
    for command in (["status", "a"], ["logs", "a", "retrain"], ["list"], ["storage"]):
        assert session.look(*command).code == 0, command
    assert "0 run folders removed" in collect(session)

    back = session.look("restore", "a")
    assert back.code == 0, back
    assert files(folder) == before
    clean(session)
    again = session.json("restore", "a")
    assert (again["written"], again["equal"]) == (0, len(before) - 4)
    # From here on its documents are kept again.
    (folder / "metadata.json").unlink()
    assert session.look("replay", "--check").code == 4
    assert session.look("replay").code == 0
    assert files(folder) == before
    collect(session)
    assert not folder.exists()
    clean(session)


@both
def test_a_machine_that_never_saw_the_run(session: Session, tmp_path: Path) -> None:
    before = files(session.home / "a")
    moved = tmp_path / "moved"
    store = session.env().get("LAUNCHER_STORE", str(moved / "runs" / "self_distill" / "objects"))
    ledger = "store" if store.startswith("s3://") else "sqlite"
    session.root.rename(moved)
    there = make_session(tmp_path / "there", **session.environment)
    there.environment |= {"LAUNCHER_STORE": store, "LAUNCHER_LEDGER": ledger}
    if ledger == "sqlite":
        there.environment["LAUNCHER_HOME"] = str(moved / "runs" / "self_distill")
    refused = there.look("restore", "a")
    assert refused.code == 2
    assert "--root" in refused.err
    assert len(refused.err.splitlines()) == 1

    done = there.look("restore", "a", "--root", ".")
    assert done.code == 0, done
    assert files(there.root / "runs" / "self_distill" / "a") == before
    done = there.look("restore", "a", "../copy")
    assert done.code == 0, done
    assert files(tmp_path / "copy") == before
    # The run's own project is not here, so nothing of it is missed or made.
    assert there.look("replay", "--check").code == 0
    assert there.look("replay").code == 0
    assert not session.root.exists()


def test_what_differs_is_refused_and_nothing_is_changed(session: Session) -> None:
    folder = session.home / "a"
    before = files(folder)
    (folder / "artifacts" / "planlets.txt").write_text("mine")
    (folder / "checkpoints" / "student.pt").write_text("mine too")
    shutil.rmtree(folder / "logs")
    refused = session.look("restore", "a")
    assert refused.code == 3
    assert len(refused.err.splitlines()) == 1
    assert "artifacts/planlets.txt" in refused.err
    assert "--force" in refused.err
    assert not (folder / "logs").exists()
    assert (folder / "artifacts" / "planlets.txt").read_text() == "mine"
    assert "artifacts/planlets.txt is not what its stage left" in collect(session)
    done = session.look("restore", "a", "--force")
    assert done.code == 0, done
    assert files(folder) == before


def test_nothing_is_written_through_a_symlink(session: Session, tmp_path: Path) -> None:
    folder, outside = session.home / "a", tmp_path / "outside"
    shutil.rmtree(folder / "checkpoints")
    outside.mkdir()
    (folder / "checkpoints").symlink_to(outside)
    (folder / "artifacts" / "planlets.txt").unlink()
    (tmp_path / "secret").write_text("kept")
    (folder / "artifacts" / "planlets.txt").symlink_to(tmp_path / "secret")
    for flags in ([], ["--force"]):
        refused = session.look("restore", "a", *flags)
        assert refused.code == 3, refused
        assert "symlink" in refused.err
    assert list(outside.iterdir()) == []
    (folder / "checkpoints").unlink()
    assert session.look("restore", "a").code == 3
    assert session.look("restore", "a", "--force").code == 0
    assert (tmp_path / "secret").read_text() == "kept"
    assert not (folder / "artifacts" / "planlets.txt").is_symlink()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("notes.txt", "notes.txt is in no stage's outputs"),
        ("checkpoints/later.pt", "checkpoints/later.pt is in no stage's outputs"),
        ("metadata.json", "metadata.json is not what the ledger says"),
        ("logs/03_retrain.log", "logs/03_retrain.log is not what its stage left"),
    ],
)
def test_a_folder_with_anything_else_stays_whole(session: Session, path: str, why: str) -> None:
    folder = session.home / "a"
    session.look("replay")
    (folder / path).write_text("by hand")
    before = files(folder)
    plan = session.json("gc", "--run-dirs")
    assert [row["why"] for row in plan["kept"]] == [why]
    if path != "metadata.json":  # a writing command rebuilds that one first
        assert why in collect(session)
        assert files(folder) == before


def test_it_asks_and_a_grace_keeps(session: Session) -> None:
    refused = session.launcher("gc", "--run-dirs", "--apply")
    assert refused.code == 2
    assert "--yes" in refused.err
    kept = session.look("gc", "--run-dirs", "--apply", "--yes", "--grace-days", "1")
    assert kept.code == 0
    assert "the run ended only at" in kept.out
    assert (session.home / "a").is_dir()


@both
def test_what_an_open_run_was_given_stays(session: Session) -> None:
    given = "runs/self_distill/a/checkpoints/student.pt"
    wait = "RETRAIN_EXTRA=until [ -e go ]; do sleep 0.05; done"
    arguments = ("--teacher-checkpoint", given, "--teacher-scorecard", "scorecard.json")
    process = session.start(
        "submit", "--config", "loop.env", *arguments, "--set", wait, "--run-id", "b"
    )
    try:
        until(lambda: session.stage_status("b", "retrain") == "running", "b's retrain")
        plan = session.json("gc", "--run-dirs")
        why = {row["run_id"]: row["why"] for row in plan["kept"]}
        assert why == {
            "a": f"run b, which is open, needs {given}",
            "b": "the run is open",
        }
        assert "0 run folders removed" in collect(session)
        refused = session.look("restore", "b")
        assert refused.code == 3
        assert "open" in refused.err
        assert session.look("restore", "b", "../early").code == 0
        early = files(session.root.parent / "early")
        assert early["artifacts/planlets.txt"] == b"p\n"
        assert "checkpoints/student.pt" not in early
    finally:
        (session.root / "go").touch()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert "2 run folders removed" in collect(session)
    clean(session)


def needed_by_a_run_of(session: Session, run_id: str) -> bool:
    """Whether a collection would keep all that a young run's folder is rebuilt from."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in session.env().items():
            patch.setenv(name, value)
        settings = Settings.from_environment(session.env(), session.root, {})
        ws = open_workspace(settings, session.root, writing=False)
        state = ws.journal.run(run_id)
        assert state.ended_at is not None
        contents = contents_of(state, ws.ledger, ws.store)
        now = parse_time(state.ended_at).timestamp() + 60
        seen = Look(ws, Policy(7 * DAY_SECONDS))(now)
        ws.ledger.close()
    return {kept.digest for kept in contents.files.values()} <= seen.digests


@both
def test_a_run_that_failed_keeps_what_it_saved(session: Session) -> None:
    done = session.submit(
        *("--run-id", "f", "--set"),
        "RETRAIN_EXTRA=echo half > $CHECKPOINT_DIR/half.pt; exit 7",
    )
    assert done.code == 7
    folder = session.home / "f"
    before = files(folder)
    assert "checkpoints/half.pt" in before
    assert needed_by_a_run_of(session, "f")
    collect(session)
    assert not folder.exists()
    clean(session)
    assert session.look("restore", "f").code == 0
    assert files(folder) == before


@pytest.mark.folder
def test_a_blob_that_is_gone_or_damaged_keeps_the_folder(session: Session) -> None:
    student = session.json("status", "a")["student"]["digest"].removeprefix("sha256:")
    blob = session.home / "objects" / "blobs" / "sha256" / student[:2] / student
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data[::-1])
    before = files(session.home / "a")
    assert "damaged" in collect(session)
    blob.unlink()
    assert "checkpoints/student.pt is not in the store any more" in collect(session)
    assert files(session.home / "a") == before
    (session.home / "a" / "checkpoints" / "student.pt").unlink()
    refused = session.look("restore", "a")
    assert refused.code == 4
    assert refused.err.startswith("launcher: checkpoints/student.pt: blob sha256:")
    assert len(refused.err.splitlines()) == 1


def test_links_that_stay_inside_come_back_as_copies(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    extra = "RETRAIN_EXTRA=echo x > $ARTIFACT_DIR/real; ln -s real $ARTIFACT_DIR/link"
    assert session.submit("--run-id", "a", "--set", extra).code == 0
    collect(session)
    assert not (session.home / "a").exists()
    assert session.look("restore", "a").code == 0
    link = session.home / "a" / "artifacts" / "link"
    assert link.read_text() == "x\n"
    assert not link.is_symlink()
    assert "1 run folder removed" in collect(session)


def test_a_tag_file_outside_of_the_folder(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    assert session.submit("--run-id", "a", "--relabel-tag-file", "data/tags.jsonl").code == 0
    tags = session.root / "data" / "tags.jsonl"
    data = tags.read_bytes()
    collect(session)
    assert tags.read_bytes() == data, "only the run's folder goes"
    tags.unlink()
    assert session.look("restore", "a").code == 0
    assert tags.read_bytes() == data
    assert session.look("restore", "a", "../copy").code == 0
    assert (tmp_path / "copy" / "outside" / "tags.jsonl").read_bytes() == data
    tags.write_text("newer")
    refused = session.look("restore", "a")
    assert refused.code == 3
    assert str(tags) in refused.err


def test_a_status_that_a_job_wrote_is_imported_before_the_folder_goes(session: Session) -> None:
    document = session.home / "a" / "metadata" / "relabel_tags.json"
    said = json.loads(document.read_bytes())
    document.write_text(json.dumps({**said, "status": "validated"}, indent=2) + "\n")
    assert "1 run folder removed" in collect(session)
    assert session.json("status", "a")["tags"]["status"] == "validated"
    assert session.look("restore", "a").code == 0
    assert json.loads(document.read_bytes())["status"] == "validated"


def test_times_of_restored_files_are_not_later_than_the_run(session: Session) -> None:
    assert session.submit("--run-id", "b", "--promotion-target", TARGET).code == 0
    student = session.home / "a" / "checkpoints" / "student.pt"
    written = student.stat().st_mtime
    collect(session)
    assert session.look("restore", "a").code == 0
    assert abs(student.stat().st_mtime - written) < 60
    # So that it counts as obsolete, like the one that the run left.
    obsolete = [row["path"] for row in session.json("storage")["obsolete"]]
    assert obsolete == ["runs/self_distill/a/checkpoints/student.pt"]


def test_what_was_brought_from_the_store_into_the_folder(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    assert session.submit("--run-id", "a", "--promotion-target", "student").code == 0
    given = ("--teacher-checkpoint", "pointer:student", "--teacher-scorecard", "scorecard.json")
    done = session.look("submit", "--config", "loop.env", *given, "--run-id", "b")
    assert done.code == 0, done
    before = files(session.home / "b")
    assert [path for path in before if path.startswith("inputs/")] == [
        "inputs/teacher_checkpoint.pt"
    ]
    assert "2 run folders removed" in collect(session)
    assert session.look("restore", "b").code == 0
    assert files(session.home / "b") == before
