"""A collection that is killed at any moment (planned, moving, emptying) is gone on with by the next one.

The oracle: everything that is needed is in its place and hashes right, an audit misses nothing, what is to go is
in its place, in the trash or gone as the days say, every plan is said to be collected once, and a collection
after the next one does nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.audit import Scene, audit
from tests.fault.gc_child import opened
from tests.launcher.retention.world import RetentionWorld
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server

ROOT = Path(__file__).parents[2]
MOVING_DAYS, EMPTYING_DAYS = 8.0, 17.0


def made(world: RetentionWorld) -> tuple[set[str], set[str]]:
    """A live run and one that nothing needs; returns their blobs."""
    live = world.run("live")
    world.promote("live")
    return live, world.run("old") - live


def kill_everywhere(folder: Path, days: float, *bucket: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.gc_child", str(folder), str(days), *bucket],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads((folder / "effects.json").read_bytes())
    return said


def nothing_is_missed(world: RetentionWorld, live: set[str]) -> None:
    store = world.store()
    for digest in live:
        store.verify_blob(digest)
    report = audit(Scene(world.ledger, store, world.root, world.root, "p"), quick=True)
    found = {check.name: check.problems for check in report.checks}
    assert found["blobs"] == found["pointers"] == found["history"] == found["bytes"] == []


def settled(world: RetentionWorld, live: set[str]) -> None:
    nothing_is_missed(world, live)
    world.collect()
    assert live <= world.in_place()
    size, where = world.ledger.head().size, world.anywhere()
    again = world.collect()
    assert (again.moved, again.emptied, again.moved_back) == ([], [], [])
    assert (world.ledger.head().size, world.anywhere()) == (size, where)


def test_killed_before_any_effect_of_moving(tmp_path: Path) -> None:
    world = opened(tmp_path / "template", 0.0)
    live, gone = made(world)
    world.ledger.close()
    effects = kill_everywhere(tmp_path, MOVING_DAYS)
    assert {"append", "rename", "link"} <= set(effects)
    for number in range(len(effects)):
        after = opened(tmp_path / str(number), MOVING_DAYS)
        assert gone <= after.anywhere(), effects[number]
        settled(after, live)
        assert gone <= after.trashed(after.today()), effects[number]
        if effects[number] in ("append", "rename"):  # what was planned and what was moved
            after.later(9)
            after.collect()
            events = after.storage_events()
            assert events.count("GarbagePlanned") == events.count("GarbageCollected") >= 1
            assert not gone & after.anywhere()
            nothing_is_missed(after, live)
        after.ledger.close()


def test_killed_before_any_effect_of_emptying(tmp_path: Path) -> None:
    world = opened(tmp_path / "template", 0.0)
    live, gone = made(world)
    world.later(MOVING_DAYS)
    world.collect()
    world.ledger.close()
    effects = kill_everywhere(tmp_path, EMPTYING_DAYS)
    assert {"append", "unlink", "rmdir"} <= set(effects)
    for number in range(len(effects)):
        after = opened(tmp_path / str(number), EMPTYING_DAYS)
        settled(after, live)
        assert not gone & after.anywhere(), effects[number]
        assert after.storage_events() == ["GarbagePlanned", "GarbageCollected"]
        after.ledger.close()


def test_killed_again_and_again_in_a_bucket(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{s3_server.bucket()}/store"
    world = opened(tmp_path / "template", 0.0, bucket)
    live, gone = made(world)
    for days in (MOVING_DAYS, EMPTYING_DAYS):
        kill_everywhere(tmp_path, days, bucket)
        said = json.loads((tmp_path / "effects.json").read_bytes())
        assert said["killed"] >= 1, "it was never killed"
        world.days = days
        settled(world, live)
    assert not gone & world.anywhere()
    events = world.storage_events()
    assert events.count("GarbagePlanned") == events.count("GarbageCollected") >= 1
    world.ledger.close()
