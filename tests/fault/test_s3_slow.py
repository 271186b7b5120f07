"""A server that takes its time: a run ends once, no stage is run twice, and whoever looks meanwhile is answered."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.session import Session, make_session, until
from tests.rig.fault_proxy import Act, FaultProxy, Handler, Request, late, proxied
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
DELAY_SECONDS = 1.5
#: Notes each time that it is begun.
CONFIG = (
    """RETRAIN_CMD='echo begun >> begun.txt; echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"'\n"""
)
SUBMIT = ("--run-id", "a", "--promotion-target", "student")


class Place:
    """A project whose store is a bucket behind ``proxy``."""

    def __init__(self, server: S3Server, proxy: FaultProxy, top: Path) -> None:
        self.proxy = proxy
        self.session: Session = make_session(
            top / "p",
            **server.environment(proxy.endpoint),
            LAUNCHER_STORE=f"s3://{server.bucket()}/team",
            XDG_CACHE_HOME=str(top / "cache"),
        )
        (self.session.root / "loop.env").write_text(CONFIG)

    def begun(self) -> int:
        path = self.session.root / "begun.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def ended_once(self) -> None:
        """One command, one attempt, one generation, one end; and nothing is wrong anywhere."""
        assert self.begun() == 1
        [stage] = [s for s in self.session.json("status", "a")["stages"] if s["stage"] == "retrain"]
        assert (stage["status"], stage["attempt"]) == ("completed", 1)
        there = self.session.json("pointers", "student")["generations"]
        assert [(g["generation"], g["run_id"]) for g in there] == [(1, "a")]
        appended = [r for r in self.proxy.requests if r.method == "PUT" and r.status == 200]
        for event in (b'"type":"StageSucceeded"', b'"type":"RunSucceeded"'):
            landed = [r.key for r in appended if event in r.body and "/ledger/log/" in r.key]
            assert len(landed) == 1, (event, landed)
        audit = self.session.look("audit")
        assert audit.code == 0, audit
        replay = self.session.look("replay", "--check")
        assert replay.code == 0, replay


@pytest.fixture
def place(s3_server: S3Server, tmp_path: Path) -> Iterator[Place]:
    with proxied(s3_server) as proxy:
        yield Place(s3_server, proxy, tmp_path)


def slow(handler: Handler, request: Request) -> None:
    """It is done at once, and said late."""
    response = handler.proxy.forward(request)
    time.sleep(DELAY_SECONDS)
    handler.send(response)


def held(until_set: threading.Event) -> Act:
    """Nothing happens, and nothing is said, before somebody allows it."""

    def act(handler: Handler, request: Request) -> None:
        assert until_set.wait(60)
        handler.send(handler.proxy.forward(request))

    return act


def test_a_run_on_a_slow_server_ends_once(place: Place) -> None:
    """Every fourth write takes long; two lose their connection and land when the run is long over."""
    place.proxy.rule(late, method="PUT", key="/result.json")
    place.proxy.rule(
        late, method="PUT", key="/ledger/log/", when=lambda r: b'"StageSucceeded"' in r.body
    )
    writes = itertools.count(1)
    place.proxy.rule(slow, method="PUT", times=10**6, when=lambda _: next(writes) % 4 == 0)
    done = place.session.submit(*SUBMIT)
    assert done.code == 0, done
    slowed = 10**6 - place.proxy.rules[2].left
    assert [rule.left for rule in place.proxy.rules[:2]] == [0, 0]
    assert slowed >= 5
    place.proxy.rules.clear()
    place.ended_once()
    firsts = [
        next(r for r in place.proxy.requests if r.method == "PUT" and what(r))
        for what in (
            lambda r: "/result.json" in r.key,
            lambda r: "/ledger/log/" in r.key and b'"StageSucceeded"' in r.body,
        )
    ]
    assert [r.status for r in firsts] == [None, None]
    place.proxy.release()
    # They came too late: what they would have made was there.
    assert [r.status for r in firsts] == [412, 412]
    place.ended_once()


def test_screens_answer_while_a_write_does_not(place: Place) -> None:
    allowed, asked = threading.Event(), threading.Event()

    def closes_the_stage(request: Request) -> bool:
        if b'"StageSucceeded"' in request.body and "/ledger/log/" in request.key:
            asked.set()
            return True
        return False

    place.proxy.rule(held(allowed), method="PUT", when=closes_the_stage)
    run = place.session.start_submit(*SUBMIT)
    try:
        until(asked.is_set, "the stage's end was to be recorded")
        first = len(place.proxy.requests)
        for arguments in ((), ("list",), ("status", "a"), ("logs", "a"), ("pointers",)):
            done = place.session.look(*arguments)
            assert (done.code, done.err) == (0, ""), (arguments, done)
        assert place.session.json("status", "a")["status"] == "running"
        assert {r.method for r in place.proxy.requests[first:]} <= {"GET", "HEAD"}
        assert run.poll() is None
    finally:
        allowed.set()
    out, err = run.communicate(timeout=90)
    assert run.returncode == 0, (out, err)
    place.ended_once()
