"""What a collection keeps for those who serve it: a follower's checkpoint, with all that made it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import clock
from launcher.consumers import Consumer, consumer_key
from launcher.retention.reach import Policy
from launcher.storage.port import AccessRefusedError, ObjectInfo
from tests.launcher.retention.world import POINTER, WEEK, LaterFolder, RetentionWorld

#: The live one, and the one that a rollback would go to.
TWO = Policy(WEEK.grace_seconds, keep_generations=1)


@pytest.fixture
def world(tmp_path: Path) -> RetentionWorld:
    return RetentionWorld(tmp_path)


def promoted(world: RetentionWorld, runs: str) -> dict[str, set[str]]:
    """Each run, promoted in turn, and a month gone by; every blob that each names."""
    blobs = {run_id: world.run(run_id) for run_id in runs}
    for run_id in runs:
        world.promote(run_id)
    world.later(30)
    return blobs


def word(world: RetentionWorld, host: str, run_id: str, *, applied: str | None = None) -> Consumer:
    """``host`` says now that it is on ``run_id``'s, or that it is not, and on ``applied``'s still."""
    return Consumer(
        host=host,
        generation=1,
        digest=world.student(run_id),
        time=world.text(),
        state="failed" if applied else "applied",
        dest="/srv/student.pt",
        applied=1,
        applied_digest=world.student(applied or run_id),
    )


def say(world: RetentionWorld, host: str, data: Consumer | bytes, pointer: str = POINTER) -> str:
    key = consumer_key(world.store(), pointer, host)
    raw = data.to_bytes() if isinstance(data, Consumer) else data
    world.store().replace(key, raw)
    return key


def test_what_a_follower_is_on_stays_with_all_that_made_it(world: RetentionWorld) -> None:
    blobs = promoted(world, "abcde")
    say(world, "gpu-7", word(world, "gpu-7", "b"))
    world.collect(TWO)
    there = world.in_place()
    assert blobs["b"] | blobs["d"] | blobs["e"] <= there
    for gone in "ac":
        assert world.student(gone) not in there


def test_so_does_what_it_was_handed_and_what_it_has_still(world: RetentionWorld) -> None:
    blobs = promoted(world, "abcde")
    say(world, "gpu-7", word(world, "gpu-7", "b", applied="a"))
    world.collect(TWO)
    there = world.in_place()
    assert blobs["a"] | blobs["b"] <= there
    assert world.student("c") not in there


def test_what_it_is_on_goes_once_it_went_on(world: RetentionWorld) -> None:
    promoted(world, "abcde")
    say(world, "gpu-7", word(world, "gpu-7", "b"))
    world.collect(TWO)
    assert world.student("b") in world.in_place()
    say(world, "gpu-7", word(world, "gpu-7", "e"))
    world.collect(TWO)
    assert world.student("b") not in world.in_place()


def test_one_that_was_silent_for_a_quarter_keeps_nothing_and_its_word_stays(
    world: RetentionWorld,
) -> None:
    promoted(world, "abcde")
    key = say(world, "gpu-7", word(world, "gpu-7", "b"))
    world.store().replace(key, replace(word(world, "gpu-7", "b"), time=clock.now()).to_bytes())
    world.days = 89.5
    world.collect(TWO)
    assert world.student("b") in world.in_place()
    world.days = 90.5
    world.collect(TWO)
    assert world.student("b") not in world.in_place()
    assert world.student("b") in world.anywhere()
    world.days = 130.0
    assert world.collect(TWO).emptied
    assert [info.key for info in world.store().list("consumers/")] == [key]


def test_a_word_written_long_ago_in_an_object_of_today(world: RetentionWorld) -> None:
    """As after a copy of the whole store: what counts is when the follower spoke."""
    promoted(world, "abcde")
    say(world, "gpu-7", replace(word(world, "gpu-7", "b"), time="2020-01-01T00:00:00Z"))
    world.collect(TWO)
    assert world.student("b") not in world.in_place()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b"\xff", b"null", b'{"digest": "sha256:1"}'],
    ids=["empty", "torn", "list", "nothing", "binary", "null", "no-digest"],
)
def test_a_word_that_cannot_be_read_keeps_every_generation_of_its_pointer(
    world: RetentionWorld, data: bytes
) -> None:
    blobs = promoted(world, "abcde")
    never = world.run("never")
    world.later(30)
    say(world, "gpu-7", data)
    done = world.collect(TWO)
    assert set().union(*blobs.values()) <= world.in_place()
    moved = {blob.digest for blob in done.moved}
    assert moved
    assert moved <= never, "a doubt about one pointer keeps that pointer's, not the rest"


def test_a_word_of_another_pointer_that_cannot_be_read_keeps_nothing_of_this_one(
    world: RetentionWorld,
) -> None:
    promoted(world, "abcde")
    say(world, "gpu-7", b"{", pointer="other")
    world.collect(TWO)
    assert world.student("b") not in world.in_place()


def test_a_checkpoint_that_no_generation_names_stays_while_it_is_served(
    world: RetentionWorld,
) -> None:
    promoted(world, "abcde")
    world.run("never")
    world.later(30)
    say(world, "gpu-7", word(world, "gpu-7", "never"), pointer="gone")
    world.collect(TWO)
    assert world.student("never") in world.in_place()


def test_more_followers_than_a_screen_shows(world: RetentionWorld) -> None:
    """The last of them is on what none of the others is."""
    promoted(world, "abcde")
    others = word(world, "host", "e")
    for number in range(205):
        say(world, f"host-{number:03d}", replace(others, host=f"host-{number:03d}"))
    say(world, "zzz", word(world, "zzz", "b"))
    world.collect(TWO)
    assert world.student("b") in world.in_place()


class Refusing(LaterFolder):
    """Nobody may see who follows."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        if prefix.startswith("consumers/"):
            raise AccessRefusedError(f"{self.where} does not allow a listing of {prefix}")
        return super().list(prefix, after)


def test_where_followers_cannot_be_seen_every_generation_is_kept(world: RetentionWorld) -> None:
    blobs = promoted(world, "abcde")
    world.run("never")
    world.later(30)
    done = world.collect(TWO, Refusing(world.root / "objects", world))
    assert set().union(*blobs.values()) <= world.in_place()
    assert world.student("never") in {blob.digest for blob in done.moved}
