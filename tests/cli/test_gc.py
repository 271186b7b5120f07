"""gc, typed as a user types it: on a folder store and on a bucket."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.session import Done, Session, Terminal, make_session
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Project:
    """A project with a store of its own, whose days pass."""

    session: Session
    objects: Path

    def later(self, days: float, *arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cli.later", str(days), *arguments],
            cwd=self.session.root,
            env=self.session.env(PYTHONPATH=str(REPOSITORY)),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def said(self, days: float, *arguments: str) -> Any:
        done = self.later(days, *arguments, "--json")
        assert done.code == 0, done
        return json.loads(done.out)

    def files(self, folder: str) -> set[str]:
        return {p.name for p in (self.objects / folder).rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=["folder", "s3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Runs a (old and not promoted), b and c (live, one after the other), all within the last minute."""
    top = tmp_path_factory.mktemp(request.param)
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = server.bucket()
        where = {"LAUNCHER_STORE": f"s3://{bucket}/store", "XDG_CACHE_HOME": str(top / "cache")}
        session = make_session(top / "p", **server.environment(), **where)
        objects = server.root / bucket / "store"
    else:
        store = top / "objects"
        session = make_session(top / "p", LAUNCHER_STORE=str(store))
        objects = store
    for run_id in "abc":
        target = () if run_id == "a" else ("--promotion-target", "student")
        done = session.submit("--run-id", run_id, *target)
        assert done.code == 0, done
    return Project(session, objects)


def test_from_a_dry_run_to_an_empty_trash(made: Project) -> None:
    blobs = made.files("blobs")
    early = made.later(0, "gc")
    assert (early.code, early.err) == (0, "")
    assert "nothing to do" in early.out

    planned = made.said(8, "gc")
    assert planned["done"] is None
    assert [run["run_id"] for run in planned["runs"]] == ["a"]
    moving = {digest.removeprefix("sha256:") for digest in planned["moving"]["digests"]}
    assert moving

    asked = made.later(8, "gc", "--apply")
    assert asked.code == 2
    assert "--yes" in asked.err
    assert "run a: ended 8d ago" in asked.out
    assert made.files("blobs") == blobs, "nothing is moved unasked"

    done = made.said(8, "gc", "--apply", "--yes")
    assert done["done"]["moved"] == len(moving)
    assert made.files("trash") == moving
    assert not moving & made.files("blobs")
    assert made.later(8, "audit").code == 0

    # A rollback crosses it: the checkpoint, and what made it, were kept.
    back = made.later(8, "rollback", "student", "--yes", "--reason", "stuck")
    assert back.code == 0, back
    pulled = made.later(8, "pull", "pointer:student", "out.pt")
    assert pulled.code == 0, pulled
    assert (made.session.root / "out.pt").read_text() == "b\n"

    # A promotion of what lies in the trash brings it back.
    promoted = made.later(9, "promote", "a", "other")
    assert promoted.code == 0, promoted
    assert made.later(9, "pull", "pointer:other", "a.pt").code == 0
    assert (made.session.root / "a.pt").read_text() == "a\n"

    waiting = made.said(12, "gc")
    assert [day["emptying"] for day in waiting["trash"]] == [False]
    last = made.said(30, "gc", "--apply", "--yes")
    assert last["trash"][0]["emptying"]
    assert made.files("trash") == set()
    assert moving <= made.files("blobs"), "it was needed again by then"
    report = made.later(30, "audit")
    assert report.code == 0, report


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAUNCHER_GC_GRACE_DAYS", "soon"),
        ("LAUNCHER_GC_GRACE_DAYS", "-1"),
        ("LAUNCHER_GC_KEEP", "0"),
    ],
)
def test_a_setting_that_cannot_be(made: Project, variable: str, value: str) -> None:
    done = made.session.look("gc", **{variable: value})
    assert done.code == 2
    assert variable in done.err


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """The store of one project, the ledger of another."""
    one, two = make_session(tmp_path / "one"), make_session(tmp_path / "two")
    for session in (one, two):
        session.environment["LAUNCHER_STORE"] = str(tmp_path / "objects")
    assert one.submit("--run-id", "one").code == 0
    assert two.submit("--run-id", "two").code == 0
    before = {p for p in (tmp_path / "objects").rglob("*") if p.is_file()}
    done = two.launcher("gc", "--apply", "--yes", "--grace-days", "0")
    assert done.code == 4
    assert "does not know" in done.err
    assert {p for p in (tmp_path / "objects").rglob("*") if p.is_file()} >= before


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    session = make_session(tmp_path / "p", LAUNCHER_STORE=str(tmp_path / "objects"))
    assert session.submit("--run-id", "a").code == 0
    terminal = Terminal(session, ["gc", "--apply", "--grace-days", "0"])
    terminal.until("?")
    terminal.type(b"n\n")
    assert terminal.wait() == 130
    assert not (tmp_path / "objects" / "trash").exists()


def test_old_locks_and_hidden_files_go_and_held_ones_stay(tmp_path: Path) -> None:
    import fcntl
    import os
    import time

    session = make_session(tmp_path / "p", LAUNCHER_STORE=str(tmp_path / "objects"))
    assert session.submit("--run-id", "a").code == 0
    project = Project(session, tmp_path / "objects")
    hidden = tmp_path / "objects" / "blobs" / ".tmp-killed"
    hidden.write_bytes(b"half")
    old = time.time() - 2 * 86400
    os.utime(hidden, (old, old))
    locks = sorted((session.home / "locks").glob("a.*.1.lock"))
    assert len(locks) > 1
    with locks[0].open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        done = project.later(9, "gc", "--apply", "--yes")
        assert done.code == 0, done
        assert locks[0].exists()
    assert [lock for lock in locks[1:] if lock.exists()] == []
    assert not hidden.exists()
