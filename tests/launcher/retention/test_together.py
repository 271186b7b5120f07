"""Promotions, rollbacks, uploads and whole collections between any two steps of a collection: nothing is lost.

Each step of a collection is a call of the store; right before one, something else is done, or the collection is
killed. Days pass between them. What is stored gets no younger, so nothing is kept only because it is new.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.errors import LauncherError
from launcher.retention.reach import Policy
from launcher.storage.pointer import NoRollbackTargetError
from launcher.storage.port import BlobInfo, ObjectInfo
from tests.launcher.retention.world import POINTER, WEEK, LaterFolder, RetentionWorld

RUNS = 4
#: Where thousands of fsyncs cost nothing; None where there is no such place.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Killed(Exception):
    """This collection was ended here."""


class Interrupted(LaterFolder):
    """Before each of its calls, something else may happen."""

    def __init__(self, world: RetentionWorld, before: Callable[[], None]) -> None:
        super().__init__(world.root / "objects", world)
        self._interrupt = before

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._interrupt()
        return super().list(prefix, after)

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        self._interrupt()
        return super().ingest_bytes(data)

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
        for blob in blobs:
            self._interrupt()
            super().discard([blob], date)
        return {}

    def recover(self, digest: str) -> BlobInfo | None:
        self._interrupt()
        return super().recover(digest)

    def empty(self, date: str, digests: Sequence[str]) -> Mapping[str, str]:
        for digest in digests:
            self._interrupt()
            super().empty(date, [digest])
        self._interrupt()
        return super().empty(date, [])


class Story:
    """What happened so far, and what must still be there because of it."""

    def __init__(self, world: RetentionWorld, draw: Callable[[int], int]) -> None:
        self.world, self.draw = world, draw
        self.uploading: dict[str, set[str]] = {}
        self.promoted: dict[str, set[str]] = {}
        self.count = 0
        self.depth = 0

    def happen(self) -> None:
        """One of the things that others do."""
        act = self.draw(6)
        if act <= 2:
            self.promote()
        elif act == 3:
            self.begin()
        elif act == 4 and self.uploading:
            self.commit(sorted(self.uploading)[0])
        elif act == 5:
            self.rollback()
        elif self.depth < 2:
            self.collect()

    def begin(self) -> None:
        """A run starts; what its stage leaves is stored, and skipped where it is there, and not yet named."""
        if self.count < RUNS:
            run_id = f"r{self.count}"
            self.count += 1
            self.world.request(run_id)
            self.uploading[run_id] = self.world.upload(run_id, shared="the same for all")

    def commit(self, run_id: str) -> None:
        del self.uploading[run_id]
        # No upload again: the supervisor saw all of it in the store before.
        self.world.finish(run_id, shared="the same for all", stored=True)

    def promote(self) -> None:
        done = [r for r in self.world.ws().journal.run_ids() if r not in self.uploading]
        if not done:
            return
        run_id = done[self.draw(len(done) - 1)]
        there = self.world.lineage(run_id) & self.world.anywhere()
        try:
            self.world.promote(run_id)
        except LauncherError:
            # What an earlier collection took cannot be promoted any more.
            assert self.world.student(run_id) not in there
        else:
            self.promoted.setdefault(run_id, there)

    def rollback(self) -> None:
        try:
            self.world.rollback()
        except (NoRollbackTargetError, AssertionError):
            return

    def collect(self) -> None:
        self.depth += 1
        kill, busy = self.draw(60), self.draw(40)
        steps = 0

        def before() -> None:
            nonlocal steps
            steps += 1
            if steps == kill:
                raise Killed
            if steps == busy or self.draw(9) == 0:
                self.happen()

        try:
            self.world.collect(WEEK, store=Interrupted(self.world, before))
        except Killed:
            pass
        finally:
            self.depth -= 1

    def check(self) -> None:
        """All that is needed is somewhere, whole."""
        store = self.world.store()
        history = self.world.ws().promoter.history(POINTER)
        wanted = {g.digest for g in history.generations if g.digest}
        wanted = wanted.union(*self.uploading.values(), *self.promoted.values())
        for run_id, state in (
            (r, self.world.ws().journal.run(r)) for r in self.world.ws().journal.run_ids()
        ):
            ended = self.world.seconds_since(state.ended_at)
            if ended is None or ended < WEEK.grace_seconds:
                wanted |= self.world.lineage(run_id)
        missing = {digest for digest in wanted if store.stat_blob(digest) is None}
        assert not missing, sorted(missing)
        for digest in wanted:
            store.verify_blob(digest)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_nothing_that_is_needed_is_ever_lost(data: st.DataObject) -> None:
    def draw(most: int) -> int:
        return data.draw(st.integers(0, most))

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        world = RetentionWorld(Path(folder))
        story = Story(world, draw)
        story.begin()
        story.commit("r0")
        if draw(1):
            story.begin()  # and it skips what r0 stored
        for days in (9.0, 9.0, 17.0, 9.0):
            if draw(2) == 0:
                story.happen()
            world.later(days if draw(3) else 1.0)
            story.collect()
            story.check()
        for run_id in list(story.uploading):
            story.commit(run_id)
        world.collect()
        story.check()
        needed = world.seen().digests & world.anywhere()
        assert needed <= world.in_place(), "after a collection that nobody disturbs"


def test_a_policy_without_a_grace_keeps_the_trash_for_a_day() -> None:
    assert Policy(0.0).trash_seconds == 86400.0
