"""pointers check: every way in which ledger and store can differ over a pointer is named, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.storage.port import blob_key
from tests.cli.session import Session
from tests.launcher.pointer_world import TARGET, make_project
from tests.rig.stores import copy_project

pytestmark = pytest.mark.folder  # changes what lies in a store behind its back
VIEW = "pointers/student.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs were promoted under two names, one of them a file."""
    top = tmp_path_factory.mktemp("check")
    session = Session(make_project(top / "p", "a", "b"), {"LAUNCHER_ACTOR": "ana"})
    for run in ("a", "b"):
        for name in ("student", TARGET):
            assert session.look("promote", run, name).code == 0
    copy_project(top / "p", top / "template")
    return top


@pytest.fixture
def session(template: Path) -> Session:
    copy_project(template / "template", template / "p")
    return Session(template / "p", {"LAUNCHER_ACTOR": "ana"})


def objects(session: Session) -> Path:
    return session.home / "objects"


def generation(session: Session, number: int) -> Path:
    return objects(session) / f"pointers/student/{number:08d}.json"


def live_blob(session: Session) -> Path:
    digest = json.loads(generation(session, 2).read_text())["digest"]
    return objects(session) / blob_key(digest)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))


def differences(session: Session, *arguments: str, code: int) -> list[tuple[str, str, int | None]]:
    done = session.look("pointers", "check", *arguments, "--json")
    assert done.code == code, done
    assert done.err.count("\n") == (1 if code else 0)
    said = json.loads(done.out)
    assert said["ok"] == (code == 0)
    return [(d["grade"], d["kind"], d["generation"]) for d in said["differences"]]


def test_what_agrees_is_said_to(session: Session) -> None:
    done = session.look("pointers", "check", "--deep")
    assert (done.code, done.err) == (0, "")
    assert done.lines == [f"ok   {TARGET}", "ok   student"]
    assert differences(session, "student", code=0) == []
    assert differences(session, f"{objects(session)}#student", code=0) == []


def test_what_was_made_elsewhere_is_news_and_no_damage(session: Session) -> None:
    assert session.look("rollback", f"{objects(session)}#student", "--yes").code == 0
    assert differences(session, code=0) == [("news", "not_imported", 3)]
    assert session.look("promote", "a", "other").code == 0
    assert differences(session, code=0) == []


CHANGES: dict[str, tuple[Callable[[Session], object], tuple[str, str, int | None]]] = {
    "the newest is missing": (
        lambda s: generation(s, 2).unlink(),
        ("damage", "missing_in_store", 2),
    ),
    "one before is missing": (
        lambda s: generation(s, 1).unlink(),
        ("damage", "missing_in_store", 1),
    ),
    "another body": (
        lambda s: rewrite(generation(s, 2), lambda d: d.replace(b'"ana"', b'"eve"')),
        ("damage", "differs", 2),
    ),
    "no body": (lambda s: rewrite(generation(s, 2), lambda d: d[:40]), ("damage", "unreadable", 2)),
    "a gap": (
        lambda s: generation(s, 4).write_bytes(
            generation(s, 2).read_bytes().replace(b'"generation":2', b'"generation":4')
        ),
        ("damage", "gap", 3),
    ),
    "no blob": (lambda s: live_blob(s).unlink(), ("damage", "blob", 2)),
    "a short blob": (lambda s: rewrite(live_blob(s), lambda d: d[:-1]), ("damage", "blob", 2)),
    "no view": (lambda s: (objects(s) / VIEW).unlink(), ("behind", "view", None)),
    "an old view": (
        lambda s: (objects(s) / VIEW).write_bytes(generation(s, 1).read_bytes()),
        ("behind", "view", None),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_difference_is_named(session: Session, name: str) -> None:
    change, expected = CHANGES[name]
    change(session)
    found = differences(session, "student", code=4)
    assert expected in found
    assert ("damage", "chain", None) not in found
    done = session.look("pointers", "check", "student")
    assert (done.code, done.lines[0]) == (4, "BAD  student")
    # The other pointer is looked at all the same; it may share the blob.
    assert session.look("pointers", "check").code == 4


def test_a_file_that_is_behind(session: Session) -> None:
    (session.root / TARGET).write_bytes(b"by hand")
    assert differences(session, code=4) == [("behind", "target", None)]
    assert session.look("replay").code == 0
    assert differences(session, code=0) == []


def test_a_flipped_bit_shows_to_whoever_hashes(session: Session) -> None:
    rewrite(live_blob(session), lambda d: d[:-1] + b"X")
    assert differences(session, "student", code=0) == []
    assert differences(session, "student", "--deep", code=4) == [("damage", "blob", 2)]


def test_without_the_ledger_the_store_is_checked_and_the_rest_is_said(session: Session) -> None:
    (session.home / "ledger.db").rename(session.home / "away.db")
    done = session.look("pointers", "check", "student")
    assert (done.code, done.lines) == (5, ["ok   student"])
    assert "not compared with the ledger" in done.err
    (session.home / "ledger.db").write_bytes(b"\0" * 4096)
    assert session.look("pointers", "check", "student").code == 4


def test_what_cannot_be_asked(session: Session) -> None:
    for arguments in (
        ["student", "--deep"],
        ["student", TARGET],
        ["check", "--at", "2026-01-31T02:00:00Z"],
    ):
        done = session.look("pointers", *arguments)
        assert (done.code, done.err.count("\n")) == (2, 1), done
