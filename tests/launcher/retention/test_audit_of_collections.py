"""What an audit says of blobs that are gone: by right, or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.audit import Scene, audit
from launcher.audit.report import Check
from launcher.retention.reach import Policy
from launcher.storage.port import blob_key, trash_key
from tests.launcher.retention.world import WEEK, RetentionWorld


@pytest.fixture
def world(tmp_path: Path) -> RetentionWorld:
    return RetentionWorld(tmp_path)


def blobs(world: RetentionWorld, *, quick: bool = False) -> Check:
    scene = Scene(world.ledger, world.store(), world.root, world.root, "p")
    report = audit(scene, quick=quick)
    return next(check for check in report.checks if check.name == "blobs")


def emptied(world: RetentionWorld, policy: Policy = WEEK) -> None:
    """Everything that may go goes, for good."""
    world.later(8)
    world.collect(policy)
    world.later(9)
    assert world.collect(policy).emptied


@pytest.mark.parametrize("quick", [False, True])
def test_what_was_collected_is_not_missed(world: RetentionWorld, quick: bool) -> None:
    gone = world.run("old") - world.run("live")
    world.promote("live")
    before = blobs(world).looked_at
    emptied(world)
    check = blobs(world, quick=quick)
    assert check.problems == []
    known = len(gone) - 1  # nobody can say any more what the run's manifest listed
    assert check.notes == [f"{known} blobs that nothing needs any more: collected"]
    assert check.looked_at != before


def test_what_lies_in_the_trash_is_read_there(world: RetentionWorld) -> None:
    world.run("old")
    world.later(8)
    world.collect()
    assert (blobs(world).problems, blobs(world).notes) == ([], [])
    path = world.root / "objects" / trash_key(world.today(), world.student("old"))
    path.unlink()
    path.write_bytes(b"student of 0ld")
    [problem] = blobs(world).problems
    assert problem.where == world.student("old")


def test_what_no_collection_took_is_missed(world: RetentionWorld) -> None:
    world.run("old")
    world.run("live")
    world.promote("live")
    emptied(world)
    (world.root / "objects" / blob_key(world.student("live"))).unlink()
    [problem] = blobs(world).problems
    assert (problem.where, problem.what.rpartition(": ")[2]) == (
        world.student("live"),
        "it is missing",
    )


def test_what_was_named_again_after_it_was_taken_is_missed(world: RetentionWorld) -> None:
    world.run("old", shared="both")
    emptied(world)
    world.run("new", shared="both")
    manifest = world.ws().journal.run("new").stages["retrain"].manifest_digest
    assert manifest
    store = world.store()
    shared = next(d for d in world.in_place() if store.read_blob(d) == b"metrics both")
    assert blobs(world).problems == []
    (world.root / "objects" / blob_key(shared)).unlink()
    assert [problem.where for problem in blobs(world).problems] == [shared]


def test_what_is_live_is_missed_even_if_a_collection_took_it(world: RetentionWorld) -> None:
    """Such a collection has a defect; the audit must not believe it."""
    world.run("old")
    world.promote("old")
    world.run("new")
    world.promote("new")
    world.rollback()
    world.run("other")
    emptied(world)
    student = world.student("old")
    taken = world.ws().store
    path = world.root / "objects" / blob_key(student)
    data = taken.read_blob(student)
    path.unlink()
    from launcher.retention.collect import _plan_bytes
    from launcher.retention.reach import Blob
    from ledger import events as e

    plan = taken.ingest_bytes(_plan_bytes(world.today(), [Blob(student, len(data), 0.0)]))
    world.ws().journal.record_storage(
        e.GarbagePlanned(plan_digest=plan.digest, objects=1, size_bytes=len(data))
    )
    assert student in [problem.where for problem in blobs(world).problems]


def test_generations_that_are_not_kept_are_not_missed(world: RetentionWorld) -> None:
    for run_id in "abc":
        world.run(run_id)
        world.promote(run_id)
    emptied(world, Policy(WEEK.grace_seconds, keep_generations=1))
    assert world.student("a") not in world.anywhere()
    assert blobs(world).problems == []


def test_a_plan_that_is_missing_is_a_problem_and_excuses_nothing(world: RetentionWorld) -> None:
    gone = world.run("old") - world.run("live")
    world.promote("live")
    emptied(world)
    [planned, _] = world.ledger.read_stream("storage")
    (world.root / "objects" / blob_key(planned.data.plan_digest)).unlink()
    found = {problem.where for problem in blobs(world).problems}
    assert planned.data.plan_digest in found
    assert found & gone
