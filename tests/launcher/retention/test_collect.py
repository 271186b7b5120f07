"""Collections, one after another, as days pass: what moves, what waits, what comes back, what goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from launcher.errors import IntegrityError
from launcher.retention.collect import ClockSkewError
from launcher.retention.look import ForeignLedgerError
from launcher.retention.reach import DAY_SECONDS, Policy
from launcher.settling import WrongStoreError
from launcher.storage.blobs import digest_bytes
from launcher.storage.port import BlobInfo, BlobMissingError, ObjectInfo, blob_key, trash_key
from ledger import events as e
from tests.launcher.retention.world import POINTER, WEEK, LaterFolder, RetentionWorld

NOW = Policy(0.0)


@pytest.fixture
def world(tmp_path: Path) -> RetentionWorld:
    return RetentionWorld(tmp_path)


def test_a_young_run_stays_and_an_old_one_goes_to_the_trash_of_the_day(
    world: RetentionWorld,
) -> None:
    old = world.run("old")
    world.later(6.9)
    young = world.run("young")
    assert world.collect().moved == []
    world.later(0.2)
    moved = {blob.digest for blob in world.collect().moved}
    assert moved == old - young
    assert world.trashed(world.today()) == moved
    assert young <= world.in_place()
    assert world.storage_events() == ["GarbagePlanned"]


def test_what_a_pointer_names_stays_with_all_that_made_it(world: RetentionWorld) -> None:
    first, second, never = world.run("a"), world.run("b"), world.run("c")
    world.promote("a")
    world.promote("b")
    world.later(400)
    world.collect()
    assert first | second <= world.in_place()
    assert not (never - first - second) & world.in_place()


def test_fewer_generations_may_be_kept_but_the_live_one_and_the_way_back(
    world: RetentionWorld,
) -> None:
    runs = {run_id: world.run(run_id) for run_id in "abcd"}
    for run_id in runs:
        world.promote(run_id)
    world.later(30)
    world.collect(Policy(WEEK.grace_seconds, keep_generations=1))
    there = world.in_place()
    assert runs["d"] <= there, "it is live"
    assert runs["c"] <= there, "a rollback goes there"
    for gone in "ab":
        assert world.student(gone) not in there
    world.rollback()
    for _ in range(2):
        world.later(30)
        world.collect(Policy(WEEK.grace_seconds, keep_generations=1))
    there = world.anywhere()
    assert world.student("c") in there, "it is live now"
    assert world.student("b") in there, "and this is the way back, out of the trash again"
    assert world.student("a") not in there
    ws = world.ws()
    history = ws.promoter.history(POINTER)
    first = history.rollback_target("1")
    with pytest.raises(IntegrityError, match="is not in"):
        ws.promoter.rollback(POINTER, first, reason="bad", base=history.latest)


def test_while_the_trash_lasts_more_generations_can_be_kept_again(world: RetentionWorld) -> None:
    for run_id in "abc":
        world.run(run_id)
        world.promote(run_id)
    world.later(30)
    world.collect(Policy(WEEK.grace_seconds, keep_generations=1))
    assert world.student("a") not in world.in_place()
    assert world.collect().moved_back
    assert {world.student(run_id) for run_id in "abc"} <= world.in_place()


def test_the_trash_is_emptied_after_the_grace_and_said_to_be(world: RetentionWorld) -> None:
    gone = world.run("old") - world.run("kept")
    world.promote("kept")
    world.later(8)
    day = world.today()
    world.collect()
    world.later(7)
    assert world.collect().emptied == [], "the grace begins when the day is over"
    world.later(1)
    done = world.collect()
    assert {blob.digest for blob in done.emptied} == gone
    assert not gone & world.anywhere()
    assert day not in world.store().trash_dates()
    planned, collected = (record.data for record in world.ledger.read_stream("storage"))
    assert isinstance(planned, e.GarbagePlanned)
    assert isinstance(collected, e.GarbageCollected)
    assert planned.plan_digest == collected.plan_digest
    assert collected.objects == planned.objects == len(gone)
    assert collected.size_bytes == planned.size_bytes
    before = world.ledger.head().size
    assert world.collect().emptied == []
    assert world.ledger.head().size == before, "said once"


def test_even_without_a_grace_the_trash_lies_there_for_a_day(world: RetentionWorld) -> None:
    world.run("old")
    assert world.collect(NOW).moved
    assert world.collect(NOW).emptied == []
    world.later(1)
    assert world.collect(NOW).emptied == []
    world.later(1)
    assert world.collect(NOW).emptied


def test_a_trash_waits_for_the_runs_that_were_open_at_its_date(world: RetentionWorld) -> None:
    """An upload that skipped a blob because it was there, and a gc that moves it before anything names it."""
    world.run("old", shared="same bytes")
    world.later(8)
    world.request("slow")
    skipped = world.upload("slow", shared="same bytes")
    world.collect()
    metrics = digest_bytes(b"metrics same bytes").digest
    assert metrics in skipped & world.trashed(world.today())
    world.later(60)
    assert world.collect().emptied == []
    assert world.store().read_blob(metrics) == b"metrics same bytes"
    named = world.finish("slow", shared="same bytes")
    assert metrics in named
    world.later(1)
    world.collect()
    assert named <= world.in_place(), "it was moved back"


def test_a_run_that_began_after_a_trash_does_not_keep_it(world: RetentionWorld) -> None:
    world.run("old")
    world.later(8)
    world.collect()
    world.later(3)
    world.request("newer")
    world.later(6)
    assert world.collect().emptied


def test_a_promotion_out_of_the_trash_brings_the_blob_back(world: RetentionWorld) -> None:
    blobs = world.run("old")
    world.run("other")
    world.later(8)
    world.collect()
    assert world.student("old") not in world.in_place()
    world.promote("old")
    assert blobs <= world.in_place(), "and all that made it"
    world.later(9)
    world.collect()
    assert blobs <= world.in_place()
    assert world.store().trash_dates() == []


def test_a_rollback_into_the_trash_brings_its_checkpoint_back(world: RetentionWorld) -> None:
    for run_id in "abc":
        world.run(run_id)
        world.promote(run_id)
    world.later(30)
    world.collect(Policy(WEEK.grace_seconds, keep_generations=1))
    assert world.student("a") not in world.in_place()
    ws = world.ws()
    history = ws.promoter.history(POINTER)
    ws.promoter.rollback(POINTER, history.rollback_target("1"), reason="bad", base=history.latest)
    assert world.student("a") in world.in_place()


def test_a_trash_whose_run_began_while_it_was_looked_at_waits(world: RetentionWorld) -> None:
    """Asked once more right before anything is deleted."""
    world.run("old")
    world.later(8)
    world.collect()
    day = world.today()
    world.later(9)
    lies = world.trashed(day)

    def requested_then() -> None:
        days, world.days = world.days, 8.0
        world.request("late")
        world.days = days

    class Late(LaterFolder):
        def trashed(self, date: str) -> Iterator[ObjectInfo]:
            if "run/late" not in world.ledger.streams():
                self.asked = getattr(self, "asked", 0) + 1
                if self.asked == 2:  # the plan is made
                    requested_then()
            return super().trashed(date)

    world.collect(store=Late(world.root / "objects", world))
    assert world.trashed(day) == lies


def test_after_the_trash_it_is_refused(world: RetentionWorld) -> None:
    world.run("old")
    world.later(8)
    world.collect()
    world.later(9)
    world.collect()
    with pytest.raises(IntegrityError, match="is not in"):
        world.promote("old")


def test_an_open_run_keeps_what_only_its_objects_name(world: RetentionWorld) -> None:
    world.request("open")
    store = world.store()
    saved = store.ingest_bytes(b"saved while it ran")
    text = f'{{"files": [{{"path": "checkpoints/a.pt", "digest": "{saved.digest}"}}]}}'
    store.create("runs/open/retrain/1/progress/pod/1.json", text.encode())
    orphan = store.ingest_bytes(b"nobody's")
    world.later(100)
    world.collect()
    assert saved.digest in world.in_place()
    assert orphan.digest not in world.in_place()


def test_what_an_unrecorded_result_lists_is_kept(world: RetentionWorld) -> None:
    from launcher.storage.manifest import Entry, Manifest

    world.request("open")
    store = world.store()
    output = store.ingest_bytes(b"an output")
    manifest = store.ingest_bytes(
        Manifest((Entry("artifacts/x", output.digest, output.size_bytes),)).to_bytes()
    )
    text = f'{{"exit_code": 0, "manifest_digest": "{manifest.digest}"}}'
    store.create("runs/open/retrain/1/result.json", text.encode())
    world.later(100)
    world.collect()
    assert {output.digest, manifest.digest} <= world.in_place()


def test_a_young_blob_stays_whoever_it_is_for(world: RetentionWorld) -> None:
    world.run("a")
    world.later(30)
    young = world.store().ingest_bytes(b"just stored, named by nobody yet")
    path = world.root / "objects" / blob_key(young.digest)
    os.utime(path, (world.now(), world.now()))
    world.collect()
    assert young.digest in world.in_place()


# --- doubt, the wrong ledger, the wrong clock ---


def test_a_damaged_pointer_keeps_everything(world: RetentionWorld) -> None:
    world.run("old")
    world.promote("old")
    world.run("older")
    world.later(30)
    before = world.in_place()
    [key] = [o.key for o in world.store().list("pointers/") if o.key.endswith("00000001.json")]
    path = world.root / "objects" / key
    path.chmod(0o644)
    path.write_bytes(b"no generation")
    with pytest.raises(IntegrityError, match="is no generation"):
        world.collect()
    assert world.in_place() == before
    assert world.storage_events() == []


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_manifest_that_cannot_be_read_keeps_everything(world: RetentionWorld, how: str) -> None:
    world.run("live")
    world.promote("live")
    world.run("old")
    world.later(30)
    manifest = next(iter(world.seen().needed.manifests))
    path = world.root / "objects" / blob_key(manifest)
    path.unlink()
    if how == "damaged":
        path.write_bytes(b"{}")
    before = world.in_place()
    with pytest.raises(IntegrityError, match="nothing was moved"):
        world.collect()
    assert world.in_place() == before


def test_the_trash_is_not_emptied_in_doubt(world: RetentionWorld) -> None:
    world.run("live")
    world.promote("live")
    world.run("old")
    world.later(8)
    world.collect()
    lies = world.trashed(world.today())
    day = world.today()
    world.later(20)
    manifest = next(iter(world.seen().needed.manifests))
    (world.root / "objects" / blob_key(manifest)).unlink()
    with pytest.raises(IntegrityError):
        world.collect()
    assert world.trashed(day) == lies


def test_a_ledger_of_another_store_is_refused(tmp_path: Path) -> None:
    ours, theirs = RetentionWorld(tmp_path / "ours"), RetentionWorld(tmp_path / "theirs")
    theirs.run("theirs")
    theirs.store().create("runs/theirs/retrain/1/result.json", b"{}")
    ours.run("ours")
    ours.later(30)
    before = theirs.in_place()
    with pytest.raises(ForeignLedgerError, match=r"runs \(theirs\)"):
        ours.collect(store=LaterFolder(tmp_path / "theirs" / "objects", ours))
    assert theirs.in_place() == before


def test_an_empty_ledger_beside_a_full_store_is_refused(tmp_path: Path) -> None:
    world = RetentionWorld(tmp_path)
    world.run("a")
    other = RetentionWorld(tmp_path, days=30)
    with pytest.raises(ForeignLedgerError):
        other.collect()


def test_a_store_that_is_behind_the_ledger_is_refused(world: RetentionWorld) -> None:
    world.run("a")
    world.promote("a")
    world.later(30)
    with pytest.raises(WrongStoreError):
        world.collect(store=LaterFolder(world.root / "elsewhere", world))


def test_a_ledger_in_the_bucket_is_not_passed_by(world: RetentionWorld) -> None:
    world.run("a")
    world.store().create("ledger/log/000000000001", b"another ledger")
    world.later(30)
    with pytest.raises(ForeignLedgerError, match="a ledger of its own"):
        world.collect()


def test_a_store_in_another_time_is_refused(world: RetentionWorld) -> None:
    world.run("a")
    world.later(30)

    class Yesterday(LaterFolder):
        def clock(self) -> float:
            return world.now() - DAY_SECONDS

    with pytest.raises(ClockSkewError, match="86,400 s apart"):
        world.collect(store=Yesterday(world.root / "objects", world))
    assert world.storage_events() == []


def test_a_clock_before_the_newest_event_is_refused(world: RetentionWorld) -> None:
    world.later(2)
    world.run("a")
    world.later(-1)
    with pytest.raises(ClockSkewError, match="the newest event"):
        world.collect(NOW)


# --- what the store refuses, what comes in between ---


class Interfering(LaterFolder):
    """Does something once, right before a blob is moved, or right before the trash is emptied."""

    def __init__(self, world: RetentionWorld, *, moving: object = None, emptying: object = None):
        super().__init__(world.root / "objects", world)
        self._before = {"moving": moving, "emptying": emptying}

    def _now(self, what: str) -> None:
        act = self._before.pop(what, None)
        if callable(act):
            act()

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
        self._now("moving")
        return super().discard(blobs, date)

    def empty(self, date: str, digests: Sequence[str]) -> Mapping[str, str]:
        self._now("emptying")
        return super().empty(date, digests)


def test_a_promotion_that_comes_right_before_the_move_loses_nothing(world: RetentionWorld) -> None:
    blobs = world.run("old")
    world.run("other")
    world.later(8)
    done = world.collect(store=Interfering(world, moving=lambda: world.promote("old")))
    assert done.moved_back
    assert blobs <= world.in_place()


def test_a_promotion_that_comes_right_before_the_trash_is_emptied_has_its_checkpoint(
    world: RetentionWorld,
) -> None:
    blobs = world.run("old")
    world.run("other")
    world.later(8)
    world.collect()
    world.later(9)
    world.collect(store=Interfering(world, emptying=lambda: world.promote("old")))
    assert world.store().read_blob(world.student("old")) == b"student of old"
    assert blobs <= world.in_place(), "what made it too"


def test_another_collection_in_the_middle_loses_nothing(world: RetentionWorld) -> None:
    live = world.run("live")
    world.promote("live")
    gone = world.run("old") - live
    world.later(8)
    world.collect(store=Interfering(world, moving=world.collect))
    assert world.trashed(world.today()) == gone
    world.later(9)
    world.collect(store=Interfering(world, emptying=world.collect))
    assert not gone & world.anywhere()
    assert live <= world.in_place()


def test_a_damaged_copy_that_is_needed_stays_where_it_is(world: RetentionWorld) -> None:
    world.run("old")
    world.later(8)
    world.collect()
    day, student = world.today(), world.student("old")
    world.promote("old")
    (world.root / "objects" / blob_key(student)).unlink()
    path = world.root / "objects" / trash_key(day, student)
    path.unlink()
    path.write_bytes(b"other bytes")
    world.later(9)
    world.collect()
    assert world.trashed(day) == {student}
    with pytest.raises(IntegrityError):
        world.store().read_blob(student)


def test_a_refused_delete_is_named_and_loses_nothing(world: RetentionWorld) -> None:
    world.run("old")
    world.later(8)
    student = world.student("old")

    class Refusing(LaterFolder):
        def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
            kept = [blob for blob in blobs if blob.digest != student]
            return {**super().discard(kept, date), student: "AccessDenied"}

    done = world.collect(store=Refusing(world.root / "objects", world))
    assert done.refused == {student: "AccessDenied"}
    assert student not in {blob.digest for blob in done.moved}
    assert student in world.in_place()
    assert world.collect().moved


def test_a_missing_blob_is_missing(world: RetentionWorld) -> None:
    world.run("a")
    with pytest.raises(BlobMissingError):
        world.store().read_blob("sha256:" + "1" * 64)
