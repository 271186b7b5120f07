"""Care with only the bucket: rollback by STORE#NAME, and a ledger that moves between a file and a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from launcher.settings import Settings
from launcher.workspace import open_workspace
from ledger.stores.sqlite import SqliteEventStore
from tests.cli.session import Done, Session
from tests.launcher.pointer_world import add_run, student_of
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
TARGET = "checkpoints/stable/student_latest.pt"


class Team:
    """A project whose store is a bucket: runs a, b and c, of which two are live under two names in turn."""

    def __init__(self, server: S3Server, root: Path, ledger: str) -> None:
        self.server, self.bucket = server, server.bucket()
        self.url = f"s3://{self.bucket}/team"
        root.mkdir(parents=True)
        env = {
            **server.environment(),
            "LAUNCHER_STORE": self.url,
            "LAUNCHER_LEDGER": ledger,
            "LAUNCHER_ACTOR": "ana",
            "XDG_CACHE_HOME": str(root.parent / "cache"),
        }
        self.session = Session(root, env)

    def runs(self, *run_ids: str) -> None:
        settings = Settings.from_environment(self.session.env(), self.session.root, {})
        ws = open_workspace(settings, self.session.root, writing=True)
        for run_id in run_ids:
            add_run(ws.journal, ws.store, run_id, student_of(run_id), self.session.root)
        ws.ledger.close()

    def look(self, *arguments: str, **more: str) -> Done:
        done = self.session.look(*arguments, **more)
        for secret in (ACCESS_KEY, SECRET_KEY):
            assert secret not in done.out + done.err
        return done

    def ok(self, *arguments: str, **more: str) -> str:
        done = self.look(*arguments, **more)
        assert done.code == 0, done
        return done.out

    @property
    def objects(self) -> Path:
        return self.server.root / self.bucket / "team"

    def keys(self) -> set[str]:
        return {str(p.relative_to(self.objects)) for p in self.objects.rglob("*") if p.is_file()}

    def elsewhere(self, folder: Path) -> Session:
        """A machine with nothing but the bucket: no project, no home, no settings of ours."""
        folder.mkdir()
        return Session(
            folder, {**self.server.environment(), "LAUNCHER_ACTOR": "eve", "HOME": "/nonexistent"}
        )


@pytest.fixture(params=["store", "sqlite"])
def team(
    request: pytest.FixtureRequest,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Team:
    made = Team(s3_server, tmp_path / "my project", request.param)
    for name, value in made.session.environment.items():
        if name.startswith(("AWS", "XDG")):
            monkeypatch.setenv(name, value)
    made.runs("a", "b", "c")
    for run_id in ("a", "b"):
        made.ok("promote", run_id, "student")
        made.ok("promote", run_id, TARGET)
    return made


# --- rollback with nothing but the bucket -----------------------------------------------------------


def test_a_rollback_from_a_machine_that_has_only_the_bucket(team: Team, tmp_path: Path) -> None:
    pod = team.elsewhere(tmp_path / "pod")
    asked = pod.look("rollback", f"{team.url}#student")
    assert (asked.code, asked.err.count("\n")) == (2, 1)
    assert "add --yes" in asked.err
    done = pod.look("rollback", f"{team.url}/#student", "--reason", "stuck in menus", "--yes")
    assert (done.code, done.err) == (0, "")
    assert "live: student g3 = checkpoint of g1" in done.out
    assert f"undo: launcher rollback '{team.url}#student' --to 2" in done.out
    assert "when fixed in the project: launcher release student" in done.out
    assert list(pod.root.iterdir()) == []
    # The file of the other pointer is nobody's here; the bucket says what is live.
    target = f"{team.url}#{TARGET}"
    said = json.loads(pod.look("rollback", target, "--to", "1", "--deep", "--yes", "--json").out)
    assert (said["changed"], said["live"]["generation"], said["live"]["actor"]) == (True, 3, "eve")
    assert said["undo"] == f"launcher rollback '{target}' --to 2"
    again = json.loads(pod.look("rollback", target, "--to", "1", "--yes", "--json").out)
    assert (again["changed"], again["live"]["generation"]) == (False, 3)
    assert list(pod.root.iterdir()) == []
    file = team.session.root / TARGET
    assert file.read_bytes() == student_of("b")

    # The ledger imports both, holds included, and the file follows.
    history = json.loads(team.ok("pointers", "student", "--json"))
    assert (history["held"], history["held_by"]) == (True, 3)
    team.ok("promote", "c", "other")
    assert file.read_bytes() == student_of("a")
    confirmed = json.loads(team.ok("pointers", "student", "--json"))["generations"][2]
    assert (confirmed["actor"], confirmed["reason"]) == ("eve", "stuck in menus")
    assert "is released" in team.ok("release", "student")
    assert not json.loads(team.ok("pointers", "student", "--json"))["held"]


def test_a_rollback_by_address_that_cannot_be(team: Team, tmp_path: Path) -> None:
    pod = team.elsewhere(tmp_path / "pod")
    before = team.keys()
    for arguments, code, said in (
        (["rollback", f"{team.url}#nobody", "--yes"], 2, "nobody has no generation in s3://"),
        (["rollback", f"{team.url}#student", "--to", "9", "--yes"], 2, "no generation 9"),
        (["rollback", team.url, "--yes"], 2, "names a store and no pointer"),
        (["rollback", "s3://no-such-bucket-here#student", "--yes"], 2, "does not exist"),
        (["release", f"{team.url}#student"], 2, "in the project: launcher release student"),
        (["promote", "a", f"{team.url}#student"], 2, "in the project: launcher promote a student"),
    ):
        done = pod.look(*arguments)
        assert (done.code, done.err.count("\n")) == (code, 1), done
        assert said in done.err
    refused = pod.look("rollback", f"{team.url}#student", "--yes", AWS_SECRET_ACCESS_KEY="wrong")
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    assert team.keys() == before
    assert list(pod.root.iterdir()) == []


def test_pointers_by_address_and_a_store_in_a_folder(team: Team, tmp_path: Path) -> None:
    pod = team.elsewhere(tmp_path / "pod")
    done = pod.look("pointers", f"{team.url}#student", "--json")
    assert [g["run_id"] for g in json.loads(done.out)["generations"]] == ["a", "b"]
    shutil.copytree(team.objects, tmp_path / "mirror")
    done = pod.look("rollback", f"{tmp_path}/mirror#student", "--yes")
    assert done.code == 0, done
    assert (tmp_path / "mirror/pointers/student/00000003.json").exists()
    assert not (team.objects / "pointers/student/00000003.json").exists()


# --- a ledger that moves ------------------------------------------------------------------------------


def test_a_team_moves_from_a_file_to_the_bucket_and_back(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = Team(s3_server, tmp_path / "p", "sqlite")
    for name, value in team.session.environment.items():
        if name.startswith(("AWS", "XDG")):
            monkeypatch.setenv(name, value)
    team.runs("a", "b")
    team.ok("promote", "a", "student")
    file = "runs/self_distill/ledger.db"
    head = team.ok("ledger", "head").split()[0]
    size = head.partition(":")[0]

    # A writer that finds only a file is told what to type; what is typed says what it did.
    refused = team.look("promote", "b", "student", LAUNCHER_LEDGER="store")
    assert refused.code == 3
    assert f"launcher ledger copy {team.session.root}/{file} {team.url}" in refused.err
    said = team.ok("ledger", "copy", file, team.url)
    assert said == (
        f"{team.url} has all {size} events of {team.session.root}/{file} ({size} copied now), "
        f"verified: head {head}\n"
    )
    assert "nothing was missing" in team.ok("ledger", "copy", "runs/self_distill", team.url)
    assert json.loads(team.ok("ledger", "head", team.url, "--json"))["head"] == head

    team.ok("promote", "b", "student", LAUNCHER_LEDGER="store")
    # The file is behind now: it may be brought up to the bucket, and is no source of it any more.
    late = team.look("ledger", "copy", file, team.url)
    assert (late.code, late.err.count("\n")) == (3, 1), late
    assert "is no beginning of" in late.err
    said = json.loads(team.ok("ledger", "copy", team.url, file, "--json"))
    assert said["copied"] > 0
    assert said["head"] == team.ok("ledger", "head", file).split()[0]
    assert said["head"] == team.ok("ledger", "head", team.url).split()[0]

    # Back for good, into a new home, from which everything is as it was.
    team.ok("ledger", "copy", team.url, "fresh")
    assert {p.name for p in (team.session.root / "fresh").iterdir()} == {"ledger.db"}
    assert (
        json.loads(team.ok("pointers", "student", "--json", "--home", "fresh"))["live"]["run_id"]
        == "b"
    )


def test_a_copy_that_was_stopped_has_no_name_that_looks_whole_and_is_gone_on_with(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = Team(s3_server, tmp_path / "p", "store")
    for name, value in team.session.environment.items():
        if name.startswith(("AWS", "XDG")):
            monkeypatch.setenv(name, value)
    team.runs("a", "b")
    segments = sorted(team.objects.glob("ledger/log/*"))
    kept = segments[1].read_bytes()
    segments[1].write_bytes(kept.replace(b"RunSucceeded", b"RunFailed", 1))
    stopped = team.look("ledger", "copy", team.url, "copy.db")
    assert (stopped.code, stopped.err.count("\n")) == (4, 1), stopped
    assert segments[1].name in stopped.err
    assert not (team.session.root / "copy.db").exists()
    segments[1].write_bytes(kept)

    # Half of it, as a kill leaves it.
    team.ok("ledger", "copy", team.url, "whole.db")
    half = SqliteEventStore(team.session.root / "whole.db", read_only=True)
    raws = [[one.raw for one in half.read_raw()][: half.kept_heads()[0].size]]
    half.close()
    beside = SqliteEventStore(team.session.root / "other.db.copying")
    beside.load_raw(*raws)
    beside.close()
    said = json.loads(team.ok("ledger", "copy", team.url, "other.db", "--json"))
    assert said["copied"] == said["size"] - len(raws[0])
    assert not list(team.session.root.glob("*.copying*"))
    assert team.ok("ledger", "head", "other.db").split()[0] == said["head"]


def test_half_a_copy_in_a_bucket_is_not_written_to(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = Team(s3_server, tmp_path / "p", "sqlite")
    for name, value in team.session.environment.items():
        if name.startswith(("AWS", "XDG")):
            monkeypatch.setenv(name, value)
    team.runs("a")
    team.ok("ledger", "copy", "runs/self_distill", team.url)
    team.runs("b")
    refused = team.look("promote", "a", "student", LAUNCHER_LEDGER="store")
    assert (refused.code, refused.err.count("\n")) == (3, 1), refused
    assert "only the first" in refused.err
    assert "launcher ledger copy" in refused.err
    team.ok("ledger", "copy", "runs/self_distill", team.url)
    team.ok("promote", "a", "student", LAUNCHER_LEDGER="store")


def test_places_that_hold_no_ledger(tmp_path: Path) -> None:
    session = Session(tmp_path)
    for source, said in (("nowhere", "holds no ledger"), ("gs://x/y", "is no place of a ledger")):
        done = session.look("ledger", "copy", source, "there.db")
        assert (done.code, done.err.count("\n")) == (2, 1), done
        assert said in done.err
    assert list(tmp_path.iterdir()) == []
