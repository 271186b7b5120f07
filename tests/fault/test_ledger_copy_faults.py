"""``launcher ledger copy`` between a file and a bucket, on a bad line and killed on the way.

Whatever happened, the same command typed again ends with an equal, verified ledger. Until then nothing at the
destination looks whole: a file has no name yet, a bucket holds a beginning.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.ledger_places import open_source
from ledger.stores.port import StoredEvent, TreeHead
from ledger.transparency.merkle import EMPTY_ROOT
from tests.cli.session import Done
from tests.cli.team import Team, make_team
from tests.rig.fault_proxy import FaultProxy, Request, answer, drop, flip, proxied, truncate
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = pytest.mark.folder  # has buckets of its own
REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = ("a", "b", "c", "d", "e", "f")
FILE = "runs/self_distill/ledger.db"


@dataclass(frozen=True)
class Content:
    """Every event with its bytes, and every head that was kept."""

    events: list[StoredEvent]
    heads: list[TreeHead]

    def begins_with(self, other: Content) -> bool:
        events, heads = len(other.events), len(other.heads)
        return (self.events[:events], self.heads[:heads]) == (other.events, other.heads)


@pytest.fixture(scope="module")
def team(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Six runs in a ledger in a file, and a copy of it in ``<team>/copy``."""
    with pytest.MonkeyPatch.context() as patch:
        made = make_team(s3_server, tmp_path_factory.mktemp("copy") / "p", "sqlite", patch)
        made.runs(*RUNS)
        made.ok("ledger", "copy", FILE, f"{made.url}/copy")
        yield made


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with proxied(s3_server) as proxy:
        yield proxy


def content(team: Team, place: str) -> Content:
    with open_source(place, team.session.root) as found:
        assert found.head() == (found.kept_heads() or [TreeHead(0, EMPTY_ROOT)])[-1]
        return Content(list(found.read_raw()), found.kept_heads())


def through(team: Team, proxy: FaultProxy, source: str, target: str) -> Done:
    return team.look("ledger", "copy", source, target, AWS_ENDPOINT_URL=proxy.endpoint)


def every(number: int) -> Callable[[Request], bool]:
    """True for every so many of the requests for segments."""
    seen = itertools.count(1)
    return lambda request: "/ledger/log/" in request.key and next(seen) % number == 0


PUTS = {
    "dropped before": drop(after=False),
    "dropped after": drop(after=True),
    "503": answer(503, "SlowDown"),
    "503 but applied": answer(503, "SlowDown", applied=True),
    "500 but applied": answer(500, "InternalError", applied=True),
}
GETS = {
    "dropped before": drop(after=False),
    "dropped after": drop(after=True),
    "503": answer(503, "SlowDown"),
    "truncated": truncate(40),
    "flipped": flip,
}


@pytest.mark.parametrize("fault", PUTS)
def test_into_a_bucket_on_a_bad_line(team: Team, proxy: FaultProxy, fault: str) -> None:
    target = f"{team.url}/into-{fault.replace(' ', '-')}"
    proxy.rule(PUTS[fault], method="PUT", times=10_000, when=every(2))
    done = through(team, proxy, FILE, target)
    assert (done.code, done.err) == (0, ""), done
    assert 10_000 - proxy.rules[0].left >= len(RUNS) // 2
    assert content(team, target) == content(team, FILE)


@pytest.mark.parametrize("fault", GETS)
def test_out_of_a_bucket_on_a_bad_line(team: Team, proxy: FaultProxy, fault: str) -> None:
    target = f"out-{fault.replace(' ', '-')}.db"
    proxy.rule(GETS[fault], method="GET", times=10_000, when=every(3))
    done = through(team, proxy, f"{team.url}/copy", target)
    assert (done.code, done.err) == (0, ""), done
    assert 10_000 - proxy.rules[0].left >= len(RUNS) // 3
    assert content(team, target) == content(team, FILE)


def test_a_bucket_that_stays_away_in_the_middle(team: Team, proxy: FaultProxy) -> None:
    target = f"{team.url}/away"
    numbers = {f"{number:012d}" for number in (1, 2, 3)}

    def is_later(request: Request) -> bool:
        return "/ledger/log/" in request.key and request.key.rpartition("/")[2] not in numbers

    proxy.rule(drop(after=True), times=10_000, when=is_later)
    stopped = through(team, proxy, FILE, target)
    assert (stopped.code, stopped.out, stopped.err.count("\n")) == (5, "", 1), stopped
    assert "ledger/log/000000000004" in stopped.err
    proxy.rules.clear()
    whole, begun = content(team, FILE), content(team, target)
    assert 3 <= len(begun.heads) < len(whole.heads)
    assert whole.begins_with(begun)
    # It is not taken for the whole, and it is gone on with.
    refused = team.look("promote", "a", "student", LAUNCHER_LEDGER="store", LAUNCHER_STORE=target)
    assert (refused.code, refused.err.count("\n")) == (3, 1), refused
    assert "launcher ledger copy" in refused.err
    done = through(team, proxy, FILE, target)
    assert (done.code, done.err) == (0, ""), done
    assert content(team, target) == whole


# --- killed ----------------------------------------------------------------------------------------------


def killed_everywhere(team: Team, source: str, target: str) -> list[str]:
    """The effects of a copy; at ``target`` with n for ``{}`` is what it left when it was killed before effect n."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fault.copy_child", source, target],
        cwd=team.session.root,
        env=team.session.env(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    effects = json.loads(child.stdout)
    assert isinstance(effects, list)
    return effects


def test_a_copy_into_a_bucket_killed_before_any_effect(team: Team) -> None:
    target = f"{team.url}/killed-{{}}"
    effects = killed_everywhere(team, FILE, target)
    assert effects.count("create") == len(RUNS)
    whole = content(team, FILE)
    assert content(team, target.format("whole")) == whole
    left = set()
    for number in range(len(effects)):
        place = target.format(number)
        begun = content(team, place)
        assert whole.begins_with(begun)
        left.add(len(begun.heads))
        team.ok("ledger", "copy", FILE, place)
        assert content(team, place) == whole, effects[number]
    assert left == set(range(len(RUNS)))


def test_a_copy_into_a_file_killed_before_any_effect(team: Team) -> None:
    effects = killed_everywhere(team, f"{team.url}/copy", "killed-{}.db")
    assert effects.count("load_raw") == len(RUNS) // 2
    # SQLite's file is made by a link as well; the last one gives it its name.
    named = max(number for number, effect in enumerate(effects) if effect == "link")
    assert named > effects.index("load_raw")
    whole = content(team, FILE)
    root = team.session.root
    assert content(team, "killed-whole.db") == whole
    for number in range(len(effects)):
        file = root / f"killed-{number}.db"
        assert file.exists() is (number > named), (number, effects)
        if file.exists():
            assert content(team, file.name) == whole
        said = json.loads(team.ok("ledger", "copy", f"{team.url}/copy", file.name, "--json"))
        assert said["size"] == len(whole.events)
        assert content(team, file.name) == whole, effects[number]
    # Not a second name of a ledger: SQLite would look for its journal under the first.
    assert not [path.name for path in root.glob("*.copying")]
