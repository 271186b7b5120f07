"""With --json standard output is one JSON document, also where a person at a terminal is asked something."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.session import DEADLINE_SECONDS, LAUNCHER, Done, Session
from tests.launcher.pointer_world import TARGET, make_project
from tests.rig.stores import copy_project


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs were promoted."""
    top = tmp_path_factory.mktemp("json")
    session = Session(make_project(top / "p", "a", "b"), {"LAUNCHER_ACTOR": "ana"})
    for run in ("a", "b"):
        assert session.look("promote", run, TARGET).code == 0
    copy_project(top / "p", top / "template")
    return top


@pytest.fixture
def session(template: Path) -> Session:
    copy_project(template / "template", template / "p")
    return Session(template / "p", {"LAUNCHER_ACTOR": "ana"})


def asked(session: Session, *arguments: str, answer: bytes) -> Done:
    """Somebody sits at a terminal and sends standard output to a program."""
    ours, theirs = pty.openpty()
    try:
        child = subprocess.Popen(
            [str(LAUNCHER), *arguments],
            cwd=session.root,
            env=session.env(),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.write(ours, answer)
        out, err = child.communicate(timeout=DEADLINE_SECONDS)
    finally:
        os.close(ours)
        os.close(theirs)
    return Done(child.returncode, out.decode(), err.decode())


def test_a_question_is_asked_on_standard_error(session: Session) -> None:
    done = asked(session, "rollback", TARGET, "--json", answer=b"y\n")
    assert done.code == 0, done
    assert json.loads(done.out)["live"]["generation"] == 3
    assert "Roll back?" in done.err
    done = asked(session, "gc", "--run-dirs", "--apply", "--json", answer=b"y\n")
    assert done.code == 0, done
    assert json.loads(done.out)["applied"] is True


def test_who_says_no_gets_no_document(session: Session) -> None:
    done = asked(session, "rollback", TARGET, "--json", answer=b"n\n")
    assert (done.code, done.out) == (130, ""), done
    assert session.json("pointers", TARGET)["live"]["generation"] == 2


@pytest.mark.folder  # puts the ledger's file away
def test_without_the_ledger_and_by_address_too(session: Session) -> None:
    (session.home / "ledger.db").rename(session.home / "away.db")
    done = asked(session, "rollback", TARGET, "--json", answer=b"y\n")
    assert done.code == 0, done
    assert json.loads(done.out)["live"]["generation"] == 3
    address = f"{session.home / 'objects'}#{TARGET}"
    done = asked(session, "rollback", address, "--to", "2", "--json", answer=b"y\n")
    assert done.code == 0, done
    assert json.loads(done.out)["live"]["generation"] == 4
