"""gc --run-dirs and restore, killed before every change, and met by others in the middle."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher import retiring
from launcher.folder_survey import Folder, survey_folders
from launcher.retiring import folder_lock, remove
from launcher.settings import Settings
from launcher.workspace import Workspace, open_workspace, translated
from ledger import events as e
from tests.cli.session import Session, make_session
from tests.e2e.project import REPOSITORY
from tests.rig.stores import copy_project

COLLECT = ("gc", "--run-dirs", "--apply", "--yes")


class Killed:
    """A project after one run, which is put back before each death."""

    def __init__(self, session: Session, pristine: Path) -> None:
        self.session, self.pristine = session, pristine
        copy_project(session.root, pristine)
        self.before = files(session.home / "a")

    def put_back(self) -> None:
        copy_project(self.pristine, self.session.root, of=self.pristine)

    def child(self, death: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.fault.run_dirs_child", str(death), *arguments],
            cwd=self.session.root,
            env=self.session.env(PYTHONPATH=str(REPOSITORY)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, *arguments: str) -> list[str]:
        lived = self.child(-1, *arguments)
        assert lived.returncode == 0, lived
        return lived.stdout.splitlines()[-1].split()

    def clean(self) -> None:
        for command in (["audit"], ["replay", "--check"]):
            done = self.session.look(*command)
            assert done.code == 0, done


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    session = make_session(folder / "project")
    done = session.submit("--run-id", "a")
    assert done.code == 0, done
    return Killed(session, folder / "pristine")


def test_a_removal_killed_anywhere_is_finished_by_the_next(killed: Killed) -> None:
    killed.put_back()
    calls = killed.calls(*COLLECT)
    first = calls.index("append")
    assert calls[first:].count("unlink") >= len(killed.before)
    folder = killed.session.home / "a"
    for death in (first, *range(first + 1, len(calls), 2)):
        killed.put_back()
        died = killed.child(death, *COLLECT)
        assert died.returncode == -signal.SIGKILL, (death, died)
        # What is left is as it was, and nothing is missed.
        left = files(folder)
        assert left.items() <= killed.before.items()
        killed.clean()
        if death % 3 == 0:  # by somebody who wants it back
            done = killed.session.look("restore", "a")
            assert done.code == 0, done
            assert files(folder) == killed.before
        else:  # by the next collection, which another writing command may precede
            if death % 3 == 1:
                assert killed.session.look("replay").code == 0
                assert files(folder).items() <= killed.before.items()
            done = killed.session.look(*COLLECT)
            assert done.code == 0, done
            assert not folder.exists(), (death, done, files(folder))
        killed.clean()


def test_a_restore_killed_anywhere_goes_on_where_it_ended(killed: Killed) -> None:
    killed.put_back()
    assert killed.session.look(*COLLECT).code == 0
    retired = killed.pristine.with_name("retired")
    copy_project(killed.session.root, retired)
    calls = killed.calls("restore", "a")
    folder = killed.session.home / "a"
    assert calls.count("replace") >= len(killed.before)
    for death in range(0, len(calls), 2):
        copy_project(retired, killed.session.root, of=retired)
        died = killed.child(death, "restore", "a")
        assert died.returncode == -signal.SIGKILL, (death, died)
        left = {p: data for p, data in files(folder).items() if ".tmp" not in p}
        assert left.items() <= killed.before.items()
        if death % 4:
            done = killed.session.look("restore", "a")
            assert done.code == 0, done
            whole = {p: data for p, data in files(folder).items() if ".tmp" not in p}
            assert whole == killed.before
        done = killed.session.look(*COLLECT)
        assert done.code == 0, done
        assert not folder.exists(), (death, done, files(folder))
        killed.clean()


# --- others in the middle -----------------------------------------------------------------------------


@contextmanager
def opened(killed: Killed) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in killed.session.env().items():
            patch.setenv(name, value)
        settings = Settings.from_environment(killed.session.env(), killed.session.root, {})
        ws = open_workspace(settings, killed.session.root, writing=True)
        with translated():
            yield ws
        ws.ledger.close()


def alone(_run_id: str) -> bool:
    return False


def surveyed(ws: Workspace) -> Folder:
    [folder] = survey_folders(ws, alone)
    assert folder.kept_because is None, folder
    return folder


def begun(ws: Workspace, **more: object) -> None:
    """Another run is requested, with a's student as its teacher."""
    request = ws.journal.run("a").request
    assert request is not None
    assert request.teacher_checkpoint is not None
    given = request.teacher_checkpoint.model_copy(
        update={"path": "runs/self_distill/a/checkpoints/student.pt"}
    )
    changed = {"run_id": "b", "teacher_checkpoint": given, **more}
    wanted = e.RunRequested(**{**dict(request), **changed})
    ws.journal.record_run("b", lambda _: [wanted])


def test_a_run_that_starts_between_the_look_and_the_removal(killed: Killed) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        begun(ws)
        after = remove(ws, folder, alone)
        assert after.kept_because is not None
        assert "run b, which is open, needs" in after.kept_because
        assert files(folder.path) == killed.before
        assert ws.documents.folders.last("a") is None


def test_a_run_that_starts_as_the_folder_is_retired(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        retire = retiring._retire

        def meanwhile(*args: object) -> None:
            begun(ws)
            retire(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(retiring, "_retire", meanwhile)
        after = remove(ws, folder, alone)
        assert after.kept_because is not None
        assert files(folder.path) == killed.before
        last = ws.documents.folders.last("a")
        assert last is not None
        assert isinstance(last.data, e.RunFolderRestored)
        assert not ws.documents.folders.is_retired(ws.journal.run("a"))


def test_a_run_that_was_being_requested_gets_its_teacher_all_the_same(killed: Killed) -> None:
    """It saw the file and stored it, then the folder went, then it asked for its run."""
    killed.put_back()
    with opened(killed) as ws:
        assert remove(ws, surveyed(ws), alone).kept_because is None
        (killed.session.home / "b").mkdir()  # as submit does before it asks
        begun(ws, relabel_tag_file="runs/self_distill/b/artifacts/tags.jsonl")
    teacher = killed.session.home / "a" / "checkpoints" / "student.pt"
    assert not teacher.exists()
    done = killed.session.look("resume", "b")
    assert done.code == 0, done
    assert teacher.read_bytes() == b"teacher\n", "the bytes that were stored for it"


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "checkpoints" / "student.pt").write_bytes(b"newer"),
        lambda top: (top / "notes.txt").write_bytes(b"new"),
        lambda top: (top / "checkpoints" / "student.pt").touch(),
    ],
)
def test_a_file_that_changes_after_the_look(
    killed: Killed, change: Callable[[Path], object]
) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        change(folder.path)
        before = files(folder.path)
        after = remove(ws, folder, alone)
        assert after.kept_because is not None
        assert "has changed since it was looked at" in after.kept_because
        assert files(folder.path) == before


def test_a_file_that_comes_while_the_others_go(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        gone_by_now = retiring._gone_by_now

        def meanwhile(*args: object) -> str | None:
            (folder.path / "artifacts" / "mine.txt").write_text("mine")
            (folder.path / "checkpoints" / "student.pt").write_text("mine too")
            return gone_by_now(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(retiring, "_gone_by_now", meanwhile)
        after = remove(ws, folder, alone)
        assert after.kept_because is not None
        assert "launcher restore" in after.kept_because
        left = files(folder.path)
        assert left["artifacts/mine.txt"] == b"mine"
        assert left["checkpoints/student.pt"] == b"mine too"


def test_a_removal_and_a_restore_wait_for_each_other(killed: Killed) -> None:
    killed.put_back()
    with opened(killed) as ws, folder_lock(ws, "a"):
        refused = killed.session.launcher("restore", "a")
        assert refused.code == 5
        assert "held by a restore or a gc" in refused.err
        kept = killed.session.launcher(*COLLECT)
        assert kept.code == 5
        assert files(killed.session.home / "a") == killed.before


def test_a_blob_that_was_moved_to_the_trash_is_brought_back_first(killed: Killed) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        blobs = [info for digest in folder.digests if (info := ws.store.stat_blob(digest))]
        assert ws.store.discard(blobs, "2026-01-01") == {}
        assert remove(ws, folder, alone).kept_because is None
        there = {"sha256:" + info.key.rpartition("/")[2] for info in ws.store.list("blobs/")}
        assert folder.digests <= there
    assert killed.session.look("restore", "a").code == 0
    assert files(killed.session.home / "a") == killed.before


def test_a_blob_that_is_gone_by_then_keeps_the_folder(killed: Killed) -> None:
    killed.put_back()
    with opened(killed) as ws:
        folder = surveyed(ws)
        blobs = [info for digest in folder.digests if (info := ws.store.stat_blob(digest))]
        ws.store.discard(blobs[:1], "2026-01-01")
        ws.store.empty("2026-01-01", [blobs[0].digest])
        after = remove(ws, folder, alone)
        assert after.kept_because == f"blob {blobs[0].digest} is not in the store any more"
        assert files(folder.path) == killed.before
        assert not ws.documents.folders.is_retired(ws.journal.run("a"))


def test_the_pristine_copy_was_whole(killed: Killed) -> None:
    """So that no test above compared nothing with nothing."""
    assert len(killed.before) >= 10
    shutil.rmtree(killed.session.root)
