"""Deciding how a pointer moves, and settling what others began."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import clock
from launcher.errors import ConflictError, IntegrityError, UnavailableError, UsageError
from launcher.followers import TargetBehindError
from launcher.journal import Journal
from launcher.promotion import Moved, RaceLostError
from launcher.settling import WrongStoreError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import NoRollbackTargetError
from launcher.storage.port import BlobDamagedError, BlobMissingError, blob_key
from ledger import events as e
from ledger.errors import LedgerUnavailableError
from ledger.ids import promotion_id
from ledger.stores.memory import MemoryEventStore
from tests.launcher.pointer_world import TARGET, World, add_run, student_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "my project")


def promote(world: World, run_id: str, name: str = TARGET, **kw: Any) -> Moved:
    """By hand, unless ``automatic``."""
    run = world.run(run_id)
    return world.promoter().promote(run, name, automatic=kw.pop("automatic", False), **kw)


def back(world: World, to: str | None = None, name: str = TARGET) -> Moved:
    promoter = world.promoter()
    history = promoter.settle(name, rolling_back=True)
    target = history.rollback_target(to)
    return promoter.rollback(name, target, reason="bad", base=history.latest)


def damage(world: World, content: bytes, damaged: bytes) -> None:
    """Change a blob's bytes behind everybody's back."""
    path = Path(world.store.where, blob_key(world.store.ingest_bytes(content).digest))
    path.chmod(0o644)
    path.write_bytes(damaged)


def unsettled(world: World, run_id: str, name: str = TARGET, **kw: Any) -> e.PromotionIntended:
    """An intent whose launcher died before it created anything."""
    history = world.promoter().settling.settle(name)
    run = world.run(run_id)
    assert run.student is not None
    body = history.promotion_body(
        project=world.project,
        digest=run.student.digest,
        size_bytes=run.student.size_bytes,
        run_id=run_id,
        promotion_id=promotion_id(run_id, name),
        automatic=True,
        actor="dead",
        reason=None,
        time=clock.now(),
    )
    intent = e.PromotionIntended(generation=body, promoted_from=run.student.path, **kw)
    world.promoter().journal.record_pointer(name, lambda _: [intent])
    return intent


# --- promotion ------------------------------------------------------------------------------------


def test_a_promotion_is_live_confirmed_and_in_the_file(world: World) -> None:
    moved = promote(world, "a")
    assert (moved.outcome, moved.backup) == ("moved", None)
    assert world.live() == world.file().read_bytes() == student_of("a")
    moved = promote(world, "b", reason="better")
    assert moved.generation is not None
    assert (moved.generation.reason, moved.backup) == ("better", f"{TARGET}.bak.b")
    assert world.backups() == {"b": student_of("a")}
    account = world.promoter().journal.pointer(TARGET)
    assert account.outcome(moved.generation.promotion_id) == "confirmed"
    view = world.store.read("pointers/checkpoints%2Fstable%2Fstudent_latest.pt.json")
    assert b'"generation":2' in view


def test_the_same_checkpoint_again_by_hand_is_nothing_new(world: World) -> None:
    promote(world, "a")
    world.file().unlink()
    moved = promote(world, "a")
    assert moved.outcome == "unchanged"
    assert world.kinds() == ["promotion"]
    assert world.file().read_bytes() == student_of("a")


def test_one_automatic_promotion_per_run_ever(world: World) -> None:
    first = promote(world, "a", automatic=True)
    promote(world, "b", automatic=True)
    again = promote(world, "a", automatic=True)
    assert again == first
    assert world.kinds() == ["promotion"] * 2
    assert world.live() == student_of("b")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "run r has no student checkpoint"),
        (b"", "is empty: runs/self_distill/r/checkpoints/student.pt"),
    ],
)
def test_no_student_or_an_empty_one_is_refused(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    world = World(tmp_path)
    run = add_run(Journal(world.ledger, "ana", clock.now), world.store, "r", content)
    moved = world.promoter().promote(run, TARGET, automatic=True)
    assert (moved.outcome, moved.cause) == ("refused", "no_checkpoint")
    assert said in (moved.reason or "")
    with pytest.raises(ConflictError, match=r"not promoted: .*run r"):
        world.promoter().promote(run, TARGET, automatic=False)
    assert world.kinds() == []
    # The first refusal stands, whatever happens afterwards.
    assert world.promoter().promote(run, TARGET, automatic=True) == moved


@pytest.mark.parametrize("name", [TARGET, "student"])
def test_a_truncated_blob_is_not_promoted(world: World, name: str) -> None:
    promote(world, "a", name)
    world.run("b")
    damage(world, student_of("b"), b"stu")
    for automatic in (False, True, True):
        with pytest.raises(IntegrityError, match="it has 3 bytes of 13") as caught:
            promote(world, "b", name, automatic=automatic)
        assert caught.value.exit_code == 4
    assert world.kinds(name) == ["promotion"]
    assert world.promoter().journal.pointer(name).open == {}


def test_a_missing_blob_is_not_promoted(world: World) -> None:
    world.run("b")
    Path(world.store.where, blob_key(world.store.ingest_bytes(student_of("b")).digest)).unlink()
    with pytest.raises(IntegrityError, match="is not in"):
        promote(world, "b")
    assert world.kinds() == []


def test_a_flipped_bit_is_seen_by_the_copy_and_by_deep(world: World) -> None:
    world.run("b")
    damage(world, student_of("b"), student_of("c"))
    with pytest.raises(IntegrityError, match="hash to"):
        promote(world, "b")
    with pytest.raises(IntegrityError, match="hash to"):
        promote(world, "b", "student", deep=True)
    with pytest.raises(BlobDamagedError):
        promote(world, "b", automatic=True)
    account = world.promoter().journal.pointer(TARGET)
    assert account.outcome(promotion_id("b", TARGET)) == "refused"
    assert world.kinds() == world.kinds("student") == []
    assert not world.file().exists()


def test_an_expected_generation_that_has_passed(world: World) -> None:
    promote(world, "a", expect_generation=0)
    with pytest.raises(RaceLostError, match="lost the race, g1 is run a by ana") as caught:
        promote(world, "b", expect_generation=0)
    assert (caught.value.winner.run_id, caught.value.exit_code) == ("a", 3)
    with pytest.raises(UsageError, match="is at g1, not g7"):
        promote(world, "b", expect_generation=7)
    assert promote(world, "b", expect_generation=1).outcome == "moved"


def test_an_automatic_decision_that_loses_its_number_is_lost_for_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoter = world.promoter("slow")
    run = world.run("a")
    prepared = promoter.settling.move

    def overtaken(intent: e.PromotionIntended) -> None:
        promote(world, "b")
        prepared(intent)

    monkeypatch.setattr(promoter.settling, "move", overtaken)
    with pytest.raises(RaceLostError, match="g1 is run b by ana"):
        promoter.promote(run, TARGET, automatic=True)
    moved = world.promoter().promote(run, TARGET, automatic=True)
    assert (moved.outcome, moved.cause) == ("refused", "race")
    assert "g1 is run b by ana" in (moved.reason or "")
    assert world.live() == student_of("b")


def test_two_launchers_of_one_run_promote_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the first one's intent: what the ledger has is created, not its own wording."""
    slow = world.promoter("slow")
    run = world.run("a")
    move = slow.settling.move

    def after_the_other_intended(intent: e.PromotionIntended) -> None:
        unsettled(world, "a")
        move(intent)

    monkeypatch.setattr(slow.settling, "move", after_the_other_intended)
    moved = slow.promote(run, TARGET, automatic=True)
    assert moved.generation is not None
    assert moved.generation.actor == "dead"
    account = world.promoter().journal.pointer(TARGET)
    assert [account.generations[1]] == list(world.promoter().history(TARGET).generations)


def test_two_launchers_of_one_run_of_which_one_refuses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoter = world.promoter()
    run = world.run("a")
    record = promoter._record_refusal

    def late(*args: Any, **kwargs: Any) -> None:
        unsettled(world, "a")
        record(*args, **kwargs)

    monkeypatch.setattr(promoter, "_record_refusal", late)
    monkeypatch.setattr("launcher.promotion.why_not", lambda *_, **__: ("held", "it was held"))
    assert promoter.promote(run, TARGET, automatic=True).outcome == "moved"
    assert world.live() == student_of("a")


# --- adoption -------------------------------------------------------------------------------------


def test_a_file_that_was_there_is_adopted_and_can_be_gone_back_to(world: World) -> None:
    world.file().parent.mkdir(parents=True)
    world.file().write_bytes(b"from before")
    moved = promote(world, "a", expect_generation=0)
    assert moved.backup == f"{TARGET}.bak.a"
    assert world.kinds() == ["adoption", "promotion"]
    back(world)
    assert world.file().read_bytes() == b"from before"
    assert world.live() == b"from before"


def test_nothing_is_adopted_for_a_promotion_that_is_refused(world: World) -> None:
    world.file().parent.mkdir(parents=True)
    world.file().write_bytes(b"from before")
    world.run("b")
    damage(world, student_of("b"), b"")
    with pytest.raises(IntegrityError):
        promote(world, "b")
    assert world.kinds() == []
    assert world.file().read_bytes() == b"from before"


def test_an_empty_file_is_not_adopted_but_kept(world: World) -> None:
    world.file().parent.mkdir(parents=True)
    world.file().touch()
    promote(world, "a")
    assert world.kinds() == ["promotion"]
    assert world.backups() == {"a": b""}


# --- rollback, hold, release ----------------------------------------------------------------------


def test_pressed_twice_undone_and_pressed_again(world: World) -> None:
    for run_id in ("a", "b", "c"):
        promote(world, run_id)
    back(world)
    assert world.live() == student_of("b")
    back(world)
    assert world.live() == student_of("a")
    with pytest.raises(NoRollbackTargetError) as caught:
        back(world)
    assert caught.value.exit_code == 3
    back(world, "3")  # the undo
    assert world.live() == world.file().read_bytes() == student_of("c")
    back(world)
    assert world.live() == student_of("a")  # b was withdrawn and not reinstated


def test_live_already_is_nothing_new_and_mends_the_file(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    world.file().write_bytes(b"scribbled")
    assert back(world, "b").outcome == "unchanged"
    assert world.file().read_bytes() == student_of("b")
    assert world.backups() == {"b": student_of("a"), "b.2": b"scribbled"}
    assert world.kinds() == ["promotion"] * 2


def test_a_rollback_holds_until_released_and_releasing_promotes_nothing(world: World) -> None:
    promote(world, "a", automatic=True)
    promote(world, "b", automatic=True)
    back(world)
    refused = promote(world, "c", automatic=True)
    assert (refused.outcome, refused.cause) == ("refused", "held")
    assert "held since ana rolled it back with g3 (bad)" in (refused.reason or "")
    holder = world.promoter().release(TARGET, reason="fixed")
    assert holder.generation == 3
    assert world.live() == student_of("a")
    assert promote(world, "c", automatic=True) == refused  # decided is decided
    assert promote(world, "d", automatic=True).outcome == "moved"
    with pytest.raises(ConflictError, match="is not held"):
        world.promoter().release(TARGET, reason=None)


def test_a_launcher_that_wakes_much_later_never_brings_the_bad_student_back(world: World) -> None:
    """Run b was promoted by hand, rolled back and released; its own launcher had died before its intent."""
    promote(world, "a", automatic=True)
    promote(world, "b")
    back(world)
    world.promoter().release(TARGET, reason=None)
    moved = promote(world, "b", automatic=True)
    assert (moved.outcome, moved.cause) == ("refused", "held")
    assert "was rolled back from this checkpoint (g2)" in (moved.reason or "")
    promote(world, "c", automatic=True)
    assert promote(world, "b").outcome == "moved"  # a person may


def test_a_release_that_comes_after_another_rollback_releases_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("a", "b", "c"):
        promote(world, run_id)
    back(world)
    promoter = world.promoter()
    record = promoter.journal.record_pointer

    def late(*args: Any) -> Any:
        monkeypatch.setattr(promoter.journal, "record_pointer", record)
        back(world)
        return record(*args)

    promoter.settle(TARGET)
    monkeypatch.setattr(promoter.settling, "settle", lambda name: promoter.history(name))
    monkeypatch.setattr(promoter.journal, "record_pointer", late)
    with pytest.raises(RaceLostError):
        promoter.release(TARGET, reason=None)
    holder = world.promoter().held_by(TARGET)
    assert holder is not None
    assert holder.generation == 5


def test_a_rollback_takes_the_place_of_an_intent_that_is_open(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    intent = unsettled(world, "c")
    moved = back(world)
    assert world.kinds() == ["promotion", "promotion", "fence", "rollback"]
    assert moved.generation is not None
    assert world.live() == world.file().read_bytes() == student_of("a")
    account = world.promoter().journal.pointer(TARGET)
    assert account.outcome(intent.generation.promotion_id) == "aborted"
    with pytest.raises(RaceLostError, match="a fence by ana: a rollback took its place"):
        promote(world, "c", automatic=True)


def test_live_already_still_stops_what_was_under_way(world: World) -> None:
    promote(world, "a")
    unsettled(world, "b")
    assert back(world, "1").outcome == "unchanged"
    world.promoter().settle(TARGET)
    assert world.live() == student_of("a")


def test_a_rollback_decides_again_when_only_a_fence_came_between(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(world, "a")
    promote(world, "b")
    promoter = world.promoter()
    history = promoter.settle(TARGET)
    move, times = promoter.settling.move, Counter[str]()

    def interrupted(intent: e.PromotionIntended) -> None:
        times["tried"] += 1
        if times["tried"] < 3:
            unsettled(world, f"c{times['tried']}")
        move(intent)

    monkeypatch.setattr(promoter.settling, "move", interrupted)
    moved = promoter.rollback(TARGET, history.generations[0], reason=None, base=2)
    assert moved.outcome == "moved"
    assert world.kinds() == ["promotion", "promotion", "fence", "fence", "rollback"]


def test_a_rollback_chosen_on_an_older_generation_loses(world: World) -> None:
    for run_id in ("a", "b"):
        promote(world, run_id)
    history = world.promoter().history(TARGET)
    promote(world, "c")
    unsettled(world, "d")
    with pytest.raises(RaceLostError, match="g3 is run c by ana"):
        world.promoter().rollback(TARGET, history.generations[0], reason=None, base=2)
    assert world.live() == student_of("c")


def test_a_rollback_to_a_damaged_checkpoint_is_refused(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    damage(world, student_of("a"), b"")
    with pytest.raises(IntegrityError, match="damaged"):
        back(world)
    assert world.kinds() == ["promotion"] * 2
    assert world.file().read_bytes() == student_of("b")


# --- another project ------------------------------------------------------------------------------


def test_another_projects_pointer_is_left_alone_and_so_is_the_file_here(world: World) -> None:
    promote(world, "a")
    elsewhere = World(world.root.parent / "other", project="other", _store=world.store)
    elsewhere.file().parent.mkdir(parents=True)
    elsewhere.file().write_bytes(b"mine")
    for automatic in (False, True):
        if automatic:
            moved = promote(elsewhere, "x", automatic=True)
            assert (moved.outcome, moved.cause) == ("refused", "project")
        else:
            with pytest.raises(ConflictError, match=r"belongs to project p, this is other"):
                promote(elsewhere, "x")
    elsewhere.promoter().settle(TARGET)
    assert elsewhere.file().read_bytes() == b"mine"
    assert world.kinds() == ["promotion"]
    moved = promote(elsewhere, "x", take_over=True)
    assert moved.backup == f"{TARGET}.bak.x"
    assert elsewhere.backups() == {"x": b"mine"}
    world.promoter().settle(TARGET)
    assert world.file().read_bytes() == student_of("a")


def test_a_rollback_from_another_project_does_not_take_the_pointer_over(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    elsewhere = World(world.root.parent / "other", project="other", _store=world.store)
    moved = back(elsewhere)
    assert moved.generation is not None
    assert moved.generation.project == "p"
    assert not elsewhere.file().parent.exists()
    assert promote(world, "c").outcome == "moved"


# --- settling -------------------------------------------------------------------------------------


def test_generations_made_elsewhere_are_imported_with_their_hold(world: World) -> None:
    other = World(world.root.parent / "other", _store=world.store)
    for run_id in ("a", "b"):
        promote(other, run_id)
    back(other)
    assert promote(world, "c", automatic=True).cause == "held"
    account = world.promoter().journal.pointer(TARGET)
    assert (account.latest, account.held) == (3, {3})
    assert all(c.imported for _, c in account.confirmations)


def test_an_intent_whose_number_was_taken_elsewhere_is_aborted(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    intent = unsettled(world, "c")
    other = World(world.root.parent / "other", _store=world.store)
    back(other)
    promote(other, "d")
    world.promoter().settle(TARGET)
    account = world.promoter().journal.pointer(TARGET)
    assert account.outcome(intent.generation.promotion_id) == "aborted"
    assert list(account.generations.values()) == list(world.promoter().history(TARGET).generations)
    assert account.held == {3}


def test_a_store_that_ends_before_the_ledger_is_the_wrong_one(world: World) -> None:
    promote(world, "a")
    unsettled(world, "b")
    wrong = World(world.root, ledger=world.ledger, _store=FilesystemStore(world.root / "wrong"))
    with pytest.raises(WrongStoreError, match=r"the ledger knows g1, .* ends at g0"):
        wrong.promoter().settle(TARGET)
    assert list(wrong.store.list("pointers/")) == []
    world.promoter().settle(TARGET)
    assert world.live() == student_of("b")


def test_settling_is_idempotent_and_writes_nothing_when_all_is_well(world: World) -> None:
    promote(world, "a")
    size = world.ledger.head().size
    before = {p: p.stat().st_mtime_ns for p in world.root.rglob("*")}
    world.promoter().settle(TARGET)
    assert world.ledger.head().size == size
    assert {p: p.stat().st_mtime_ns for p in world.root.rglob("*")} == before


# --- files that cannot be written -----------------------------------------------------------------


@pytest.fixture
def read_only(world: World) -> Iterator[World]:
    """Run a is live; then a file stands where the target's folder should be writable."""
    promote(world, "a")
    folder = world.file().parent
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    folder.mkdir()
    # Root ignores permission bits: a lock that cannot be opened does the same for everybody.
    (folder / f".{world.file().name}.lock").mkdir()
    yield world
    shutil.rmtree(folder)
    hidden.rename(folder)


def test_a_folder_that_cannot_be_written_refuses_before_anything_is_intended(
    read_only: World,
) -> None:
    size = read_only.ledger.head().size
    read_only.run("b")
    size = read_only.ledger.head().size
    for automatic in (False, True):
        with pytest.raises(UnavailableError, match="cannot lock") as caught:
            promote(read_only, "b", automatic=automatic)
        assert caught.value.exit_code == 5
        assert str(read_only.file().parent) in str(caught.value)
    assert read_only.ledger.head().size == size
    assert read_only.kinds() == ["promotion"]


def test_a_file_that_is_behind_is_said_and_mended_later(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    lock = world.file().with_name(f".{world.file().name}.lock")
    lock.unlink()
    lock.mkdir()
    unsettled(world, "c")
    with pytest.raises(TargetBehindError, match="the file is behind its pointer: cannot lock"):
        world.promoter().settle(TARGET)
    assert world.promoter().journal.pointer(TARGET).open == {}
    assert world.live() == student_of("c")
    assert world.file().read_bytes() == student_of("b")
    lock.rmdir()
    world.promoter().settle(TARGET)
    assert world.file().read_bytes() == student_of("c")


def test_a_file_that_falls_behind_after_the_swap_is_confirmed_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(world, "a")
    world.run("b")

    def full(source: Any, target: Any) -> None:
        if str(target) == str(world.file()):
            raise OSError(28, os.strerror(28), str(target))
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(TargetBehindError, match="No space left"):
            promote(world, "b", automatic=True)
    assert world.live() == student_of("b")
    assert world.promoter().journal.pointer(TARGET).open == {}
    assert world.file().read_bytes() == student_of("a")
    again = promote(world, "b", automatic=True)
    assert again.outcome == "moved"
    assert world.file().read_bytes() == student_of("b")
    assert sorted(world.backups()) == ["b"]


def test_a_live_checkpoint_that_is_damaged_stops_neither_settling_nor_the_way_out(
    world: World,
) -> None:
    promote(world, "a")
    promote(world, "b")
    damage(world, student_of("b"), student_of("x"))
    world.file().unlink()
    with pytest.raises(TargetBehindError, match="damaged"):
        world.promoter().settle(TARGET)
    promoter = world.promoter()
    history = promoter.history(TARGET)
    promoter.rollback(TARGET, history.rollback_target(None), reason=None, base=history.latest)
    assert world.file().read_bytes() == student_of("a")


def test_a_full_disk_while_the_copy_is_made_intends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(world, "a")
    world.run("b")
    size = world.ledger.head().size

    def full(_self: FilesystemStore, _digest: str, dest: Path) -> None:
        dest.write_bytes(b"half")
        raise UnavailableError(f"{dest}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "fetch_blob", full)
        for move in (lambda: promote(world, "b"), lambda: promote(world, "b", automatic=True)):
            with pytest.raises(UnavailableError, match="No space left"):
                move()
    assert world.ledger.head().size == size
    assert world.live() == world.file().read_bytes() == student_of("a")
    left = {p.name for p in world.file().parent.iterdir()}
    assert left == {world.file().name, f".{world.file().name}.lock"}
    assert promote(world, "b", automatic=True).outcome == "moved"


def test_a_ledger_that_fails_after_the_swap_is_made_good_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run("a")
    append, appends = MemoryEventStore.append, Counter[str]()

    def failing(self: MemoryEventStore, stream: str, *args: Any, **kwargs: Any) -> Any:
        appends[stream] += 1
        if appends[stream] == 2:
            raise LedgerUnavailableError("memory", "the disk is full")
        return append(self, stream, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryEventStore, "append", failing)
        with pytest.raises(LedgerUnavailableError):
            world.promoter().promote(run, TARGET, automatic=True)
    assert world.live() == student_of("a")
    moved = world.promoter().promote(run, TARGET, automatic=True)
    assert moved.outcome == "moved"
    assert world.kinds() == ["promotion"]


# --- what it costs --------------------------------------------------------------------------------


class CountingStore(FilesystemStore):
    """Counts operations by name."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if name in COUNTED:
            self.calls[name] += 1
        return super().__getattribute__(name)


READS = {"read", "exists", "list", "stat_blob", "verify_blob", "read_blob", "fetch_blob"}
COUNTED = READS | {"create", "replace", "ingest", "ingest_bytes"}


def swap_cost(folder: Path, size_bytes: int, generations: int) -> Counter[str]:
    """Store operations from a promotion's intent until its generation is live, and the create itself."""
    store = CountingStore(folder / "objects")
    world = World(folder, _store=store)
    for number in range(generations):
        promote(world, f"r{number}", "student")
    run = world.run("big", b"x" * size_bytes)
    promoter = world.promoter()
    intend, create = promoter.settling._intend, promoter.pointers.create
    at_intent, at_live = Counter[str](), Counter[str]()

    def intended(intent: e.PromotionIntended) -> e.PromotionIntended | None:
        said = intend(intent)
        at_intent.update(store.calls)
        return said

    def created(body: e.Generation) -> None:
        create(body)
        at_live.update(store.calls)

    promoter.settling._intend, promoter.pointers.create = intended, created  # type: ignore[method-assign]
    promoter.promote(run, "student", automatic=True)
    return at_live - at_intent


def test_the_swap_costs_one_create_and_four_reads_whatever_the_size(tmp_path: Path) -> None:
    small = swap_cost(tmp_path / "small", 1, generations=1)
    big = swap_cost(tmp_path / "big", 5_000_000, generations=12)
    assert small == big
    assert small["create"] == 1
    assert sum(n for call, n in small.items() if call in READS) <= 4
    assert set(small) <= {"create", "exists", "stat_blob"}  # no bytes of the checkpoint are read


def test_settling_costs_the_same_for_one_generation_and_for_many(tmp_path: Path) -> None:
    costs = []
    for number, generations in enumerate((1, 15)):
        store = CountingStore(tmp_path / str(number) / "objects")
        world = World(tmp_path / str(number), _store=store)
        for run in range(generations):
            promote(world, f"r{run}")
        store.calls.clear()
        world.promoter().settle(TARGET)
        costs.append(Counter(store.calls))
    assert costs[0] == costs[1]
    assert set(costs[0]) <= {"read", "exists"}
    assert costs[0].total() <= 5


def test_a_ledgers_account_is_believed_only_where_the_store_agrees(world: World) -> None:
    for run_id in ("a", "b"):
        promote(world, run_id)
    key = "pointers/checkpoints%2Fstable%2Fstudent_latest.pt/00000002.json"
    path = Path(world.store.where, key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"actor":"ana"', b'"actor":"eve"'))
    live = world.promoter().settle(TARGET).live
    assert live is not None
    assert live.actor == "eve"
    path.unlink()
    with pytest.raises(WrongStoreError):
        world.promoter().settle(TARGET)


def test_missing_blobs_are_named(world: World) -> None:
    promote(world, "a")
    promote(world, "b")
    digest = world.store.ingest_bytes(student_of("a")).digest
    Path(world.store.where, blob_key(digest)).unlink()
    with pytest.raises(BlobMissingError, match=digest):
        back(world)
