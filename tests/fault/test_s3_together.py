"""Twenty at once on one ledger in a bucket: rollbacks against promotions. No number has two winners.

The oracle: a number's one winner is who the store says it is; every other one says in one line that it lost, and to
whom; ledger and pointers agree afterwards, and an audit finds nothing.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.session import Done, Session, make_session
from tests.rig.racers import race
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has a bucket of its own
RACERS = 20
#: One stage is enough of a run here.
CONFIG = 'RETRAIN_CMD=\'echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"\'\n'


@pytest.fixture(scope="module")
def made(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Three real runs, none of them promoted."""
    top = tmp_path_factory.mktemp("together")
    session = make_session(
        top / "p",
        **s3_server.environment(),
        LAUNCHER_STORE=f"s3://{s3_server.bucket()}/team",
        XDG_CACHE_HOME=str(top / "cache"),
    )
    (session.root / "loop.env").write_text(CONFIG)
    children = [session.start_submit("--run-id", run_id) for run_id in "abc"]
    for child in children:
        out, err = child.communicate(timeout=90)
        assert child.returncode == 0, (out, err)
    return session


def generations(session: Session, name: str) -> list[dict[str, Any]]:
    found = session.json("pointers", name)["generations"]
    assert isinstance(found, list)
    return found


def agreed(session: Session) -> None:
    """Ledger, pointers and everything else are what was written."""
    check = session.look("pointers", "check", "--deep", "--json")
    assert (check.code, json.loads(check.out)["differences"]) == (0, []), check
    audit = session.look("audit")
    assert audit.code == 0, audit
    assert "half done" not in audit.out
    assert "not imported" not in audit.out


def lost(done: Done) -> None:
    assert (done.code, done.err.count("\n")) == (3, 1), done
    assert done.err.startswith("launcher: "), done


def test_rollbacks_against_promotions(made: Session) -> None:
    for run_id in "ab":
        assert made.launcher("promote", run_id, "student").code == 0
    actors = [f"racer-{number:02d}" for number in range(RACERS)]
    commands = [
        ("rollback", "student", "--to", "1", "--yes")
        if number % 2
        else ("promote", "c", "student", "--expect-generation", "2")
        for number in range(RACERS)
    ]
    ended = dict(zip(actors, race(made, *commands, actors=actors), strict=True))

    there = generations(made, "student")
    assert [g["generation"] for g in there] == [*range(1, len(there) + 1)]
    assert [g["run_id"] for g in there[:2]] == ["a", "b"]
    moved = [g for g in there[2:] if g["kind"] != "fence"]
    # A promotion may come first, and a rollback after it; nothing comes after a rollback, which holds.
    assert [g["kind"] for g in moved] in (["promotion"], ["rollback"], ["promotion", "rollback"])
    winners = {g["actor"] for g in moved}
    assert len(winners) == len(moved)
    for actor, done in ended.items():
        rolls_back = actors.index(actor) % 2
        idle = "this checkpoint is live already: nothing to do" in done.lines
        if actor in winners:
            assert (done.code, idle) == (0, False), done
        elif rolls_back and done.code == 0:
            # It came when another rollback had done what it wanted.
            assert idle, done
        else:
            lost(done)
            assert any(f"g{g['generation']} " in done.err for g in there[2:]), done
    agreed(made)
    # And once more changes nothing: what everybody left behind was settled.
    assert made.launcher("release", "student").code in (0, 3)
    assert [g["generation"] for g in generations(made, "student")] == [
        g["generation"] for g in there
    ]
