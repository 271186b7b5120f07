"""The whole program on a bucket that misbehaves: one winner, nothing lost, audit clean, replay identical.

The store and the ledger lie in a bucket of a real server; faults are injected between it and the program.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.settings import Settings
from launcher.workspace import open_workspace
from tests.cli.session import GIVEN, Done, Session, make_session
from tests.launcher.pointer_world import add_run, student_of
from tests.rig.fault_proxy import (
    Act,
    FaultProxy,
    Request,
    answer,
    drop,
    proxied,
    without_conditions,
)
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
PLANTED = "planted-secret-value"
PROMOTERS = 20


class Place:
    """A project whose store is a bucket behind a proxy; ``direct`` goes past it."""

    def __init__(self, server: S3Server, proxy: FaultProxy, top: Path) -> None:
        self.server, self.proxy, self.bucket = server, proxy, server.bucket()
        self.url = f"s3://{self.bucket}/team"
        self.session = make_session(
            top / "p",
            **server.environment(proxy.endpoint),
            LAUNCHER_STORE=self.url,
            XDG_CACHE_HOME=str(top / "cache"),
            HF_TOKEN=PLANTED,
        )
        self.direct = {"AWS_ENDPOINT_URL": server.endpoint}

    @property
    def objects(self) -> Path:
        return self.server.root / self.bucket / "team"

    def look(self, *arguments: str) -> Done:
        done = self.session.look(*arguments)
        self.no_secret(done.out + done.err)
        return done

    def no_secret(self, text: str) -> None:
        for secret in (ACCESS_KEY, SECRET_KEY, PLANTED):
            assert secret not in text

    def check(self, name: str = "student") -> dict[str, object]:
        """The oracle; returns what is live. Uses a cold cache."""
        cold = {**self.direct, "XDG_CACHE_HOME": str(self.session.root.parent / "cold")}
        audit = self.session.look("audit", "--json", **cold)
        assert audit.code == 0, audit
        replay = self.session.look("replay", "--check", **cold)
        assert replay.code == 0, replay
        said = self.session.look("pointers", "check", "--deep", "--json", **cold)
        assert (said.code, json.loads(said.out)["differences"]) == (0, []), said
        for path in self.objects.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not [s for s in (SECRET_KEY, PLANTED) if s.encode() in data], path
        live = json.loads(self.session.look("pointers", name, "--json", **cold).out)["live"]
        assert isinstance(live, dict)
        return live


@pytest.fixture
def place(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with proxied(s3_server) as proxy:
        yield Place(s3_server, proxy, tmp_path)


def submit(place: Place, run_id: str) -> Done:
    done = place.session.launcher(
        *("submit", "--config", "loop.env", *GIVEN),
        *("--run-id", run_id, "--promotion-target", "student"),
    )
    place.no_secret(done.out + done.err)
    return done


def every(number: int) -> Callable[[Request], bool]:
    """Each so-many-th write, by the proxy's own count; a new bucket's probe is let alone."""
    count = itertools.count(1)

    def is_chosen(request: Request) -> bool:
        counts = request.method == "PUT" and "/probe/" not in request.key
        return counts and next(count) % number == 0

    return is_chosen


# --- one fault at a time, at every write of a swap ------------------------------------------------------

FAULTS: dict[str, Act] = {
    "dropped before": drop(after=False),
    "dropped after": drop(after=True),
    "409": answer(409, "ConditionalRequestConflict"),
    "412 after": answer(412, "PreconditionFailed", applied=True),
    "500": answer(500, "InternalError"),
    "500 after": answer(500, "InternalError", applied=True),
    "503": answer(503, "SlowDown"),
}


@pytest.fixture(scope="module")
def two_runs(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Runs a and b succeeded, and were promoted."""
    with proxied(s3_server) as proxy:
        place = Place(s3_server, proxy, tmp_path_factory.mktemp("two"))
        for run_id in ("a", "b"):
            assert submit(place, run_id).code == 0
        yield place


@pytest.mark.parametrize("fault", FAULTS)
def test_a_promotion_and_a_rollback_with_a_fault_at_each_kind_of_write(
    two_runs: Place, fault: str
) -> None:
    place, name = two_runs, "at-" + fault.replace(" ", "-")
    for command, live in (
        (("promote", "a", name), "a"),
        (("promote", "b", name), "b"),
        (("rollback", name, "--yes"), "a"),
    ):
        place.proxy.rules.clear()
        keys = [f"/pointers/{name}/0", "/ledger/log/"]
        # The view's write has no condition that a server could find unmet.
        keys += [] if fault.startswith("412") else [f"/pointers/{name}.json"]
        for key in keys:
            place.proxy.rule(FAULTS[fault], method="PUT", key=key)
        done = place.look(*command)
        assert done.code == 0, done
        assert not any(rule.left for rule in place.proxy.rules)
        said = json.loads(place.look("pointers", name, "--json").out)
        assert said["live"]["run_id"] == live
    place.proxy.rules.clear()
    assert [g["kind"] for g in said["generations"]] == ["promotion", "promotion", "rollback"]
    assert said["held"]
    assert place.check(name)["run_id"] == "a"


@pytest.mark.parametrize("act", [drop(after=True), drop(after=False), answer(503, "SlowDown")])
def test_a_run_while_every_fifth_write_fails(place: Place, act: Act) -> None:
    place.proxy.rule(act, times=10_000, when=every(5))
    assert submit(place, "a").code == 0
    assert submit(place, "b").code == 0
    done = place.look("rollback", "student", "--yes", "--reason", "bad")
    assert done.code == 0, done
    assert place.proxy.rules[0].left < 10_000 - 5
    live = place.check()
    assert (live["kind"], live["generation"], live["run_id"]) == ("rollback", 3, "a")


# --- together ---------------------------------------------------------------------------------------------


def test_twenty_promote_at_one_generation_and_one_wins(place: Place) -> None:
    session = Session(place.session.root, {**place.session.environment, **place.direct})
    settings = Settings.from_environment(session.env(), session.root, {})
    runs = [f"run-{number:02d}" for number in range(PROMOTERS)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in session.environment.items():
            patch.setenv(name, value)
        ws = open_workspace(settings, session.root, writing=True)
        for run_id in runs:
            add_run(ws.journal, ws.store, run_id, student_of(run_id), session.root)
        ws.ledger.close()
    children = [
        session.start("promote", run, "student", "--expect-generation", "0") for run in runs
    ]
    outs: list[tuple[int, str, str]] = []
    for child in children:
        try:
            out, err = child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
        outs.append((child.returncode, out.decode(), err.decode()))
    winners = [run for run, (code, _, _) in zip(runs, outs, strict=True) if code == 0]
    assert len(winners) == 1, outs
    for code, _, err in outs:
        if code:
            assert code == 3
            assert err.count("\n") == 1
            assert f"g1 is run {winners[0]}" in err
    said = json.loads(session.look("pointers", "student", "--json").out)
    assert [g["run_id"] for g in said["generations"]] == winners
    check = session.look("pointers", "check", "--deep", "--json")
    assert json.loads(check.out)["differences"] == []


# --- the lying store --------------------------------------------------------------------------------------


def test_a_store_that_ignores_conditions_is_refused_in_one_line_and_nothing_is_written(
    place: Place,
) -> None:
    place.proxy.rule(without_conditions, method="PUT", times=10_000)
    done = submit(place, "a")
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert "If-None-Match" in done.err
    assert not [p for p in place.objects.rglob("*") if p.is_file()]
