"""Several launchers, one pointer, any order: each may be stopped, woken, or killed at any append or create.

A launcher is a thread that runs until its next effect and waits there for its turn, so that one thread runs
at a time and every order can be replayed. Killed means that it never comes back from where it waited.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from launcher import clock
from launcher.errors import ConflictError, LauncherError
from launcher.standalone import StoreRollback
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import PointerHistory, Pointers
from ledger.errors import LedgerError
from ledger.stores.memory import MemoryEventStore
from tests.launcher.pointer_world import TARGET, World, student_of

RUNS = ["r0", "r1", "r2", "r3"]
#: r2 trained the very bytes that r1 trained.
CONTENT = {run: student_of("r1" if run == "r2" else run) for run in RUNS}


class Killed(BaseException):
    """SIGKILL, as far as one thread can know it."""


class Actor:
    """One launcher. ``step`` lets it go on to its next effect; it is over when it returned or died."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._dead, self.over = False, False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, args=(work,), daemon=True)
        ACTORS[self._thread] = self
        self._thread.start()
        self.step()

    def _live(self, work: Callable[[], object]) -> None:
        self._go.acquire()
        try:
            if not self._dead:
                work()
        except (LauncherError, LedgerError, AssertionError, Killed) as exc:
            self.error = exc
        finally:
            self.over = True
            self._waits.release()

    def gate(self) -> None:
        """Called by the actor before and after each effect."""
        if not self._dead:
            self._waits.release()
            self._go.acquire()
        if self._dead:
            raise Killed

    def step(self) -> None:
        if not self.over:
            self._go.release()
            assert self._waits.acquire(timeout=30), "the simulation hangs"
        if self.over:
            self._thread.join()
            ACTORS.pop(self._thread, None)
            if self.error is not None and not isinstance(self.error, ConflictError | Killed):
                raise self.error

    def kill(self) -> None:
        self._dead = True
        self.step()

    def finish(self) -> None:
        while not self.over:
            self.step()


ACTORS: dict[threading.Thread, Actor] = {}


def gate() -> None:
    """An effect's edge, if an actor makes it."""
    actor = ACTORS.get(threading.current_thread())
    if actor is not None:
        actor.gate()


class GatedLedger(MemoryEventStore):
    """Its appends can be stopped at and died at."""

    def append(self, *args: Any, **kwargs: Any) -> Any:
        gate()
        said = super().append(*args, **kwargs)
        gate()
        return said


class GatedStore(FilesystemStore):
    """Its creates can be stopped at and died at."""

    def create(self, key: str, data: bytes) -> None:
        gate()
        super().create(key, data)
        gate()


class Launchers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        self.world = World(root, ledger=GatedLedger(), _store=GatedStore(root / "objects"))
        for run_id in RUNS:
            self.world.run(run_id, CONTENT[run_id])
        self.actors: list[Actor] = []

    def teardown(self) -> None:
        for actor in self.actors:
            actor.kill()
        self._folder.cleanup()

    def _start(self, work: Callable[[], object], steps: int) -> None:
        actor = Actor(work)
        for _ in range(steps):
            actor.step()
        if not actor.over:
            self.actors.append(actor)

    # --- what launchers do ---

    @rule(run=st.sampled_from(RUNS), steps=st.lists(st.integers(0, 12), min_size=1, max_size=2))
    def run_ends(self, run: str, steps: list[int]) -> None:
        """A run's launcher, and maybe a second one that resumes it, take its one automatic decision."""
        state = self.world.run(run)
        for number in steps:
            self._start(
                lambda: self.world.promoter("cron").promote(state, TARGET, automatic=True), number
            )

    @rule(run=st.sampled_from(RUNS), steps=st.integers(0, 12), expect=st.booleans())
    def promote(self, run: str, steps: int, expect: bool) -> None:
        state = self.world.run(run)
        number = self.history().latest if expect else None
        self._start(
            lambda: self.world.promoter().promote(
                state, TARGET, automatic=False, expect_generation=number
            ),
            steps,
        )

    @rule(steps=st.integers(0, 12), to=st.none() | st.integers(1, 6))
    def roll_back(self, steps: int, to: int | None) -> None:
        def press() -> None:
            promoter = self.world.promoter()
            history = promoter.settle(TARGET, rolling_back=True)
            if history.live is None or (to is not None and to > history.latest):
                return
            chosen = history.rollback_target(str(to) if to else None)
            promoter.rollback(TARGET, chosen, reason="bad", base=history.latest)

        self._start(press, steps)

    @rule(steps=st.integers(0, 4))
    def roll_back_without_the_ledger(self, steps: int) -> None:
        def press() -> None:
            alone = StoreRollback(
                self.world.store, root=self.world.root, project=self.world.project, actor="eve"
            )
            history = alone.history(TARGET)
            alone.apply(
                TARGET,
                history.rollback_target(None),
                reason="bad",
                base=history.latest,
                promotion_id=clock.new_id(),
                time=clock.now(),
            )

        self._start(press, steps)

    @rule(steps=st.integers(0, 4))
    def release(self, steps: int) -> None:
        self._start(lambda: self.world.promoter().release(TARGET, reason=None), steps)

    # --- what becomes of them ---

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 99), steps=st.integers(1, 8))
    def goes_on(self, which: int, steps: int) -> None:
        actor = self.actors[which % len(self.actors)]
        for _ in range(steps):
            actor.step()
        self.actors = [a for a in self.actors if not a.over]

    @precondition(lambda self: self.actors)
    @rule(which=st.integers(0, 99))
    def dies(self, which: int) -> None:
        self.actors.pop(which % len(self.actors)).kill()

    @rule()
    def a_writing_command(self) -> None:
        """Settles everything, and doing it again does nothing."""
        self.world.promoter().settle(TARGET)
        account, history = self.world.promoter().journal.pointer(TARGET), self.history()
        assert account.open == {}
        assert list(account.generations.values()) == list(history.generations)
        size = self.world.ledger.head().size
        self.world.promoter().settle(TARGET)
        assert self.world.ledger.head().size == size
        live = history.live
        if live is not None and live.digest is not None:
            assert self.world.file().read_bytes() == self.world.store.read_blob(live.digest)

    # --- what is always so ---

    def history(self) -> PointerHistory:
        return Pointers(self.world.store).history(TARGET)

    @invariant()
    def live_resolves(self) -> None:
        live = self.history().live
        if live is not None and live.digest is not None:
            assert self.world.store.verify_blob(live.digest).size_bytes == live.size_bytes

    @invariant()
    def one_generation_an_id_and_one_automatic_promotion_a_run(self) -> None:
        history = self.history().generations
        assert max(Counter(g.promotion_id for g in history).values(), default=1) == 1
        mine = Counter(g.run_id for g in history if g.automatic)
        assert max(mine.values(), default=1) == 1

    @invariant()
    def nothing_is_live_after_it_was_given_up(self) -> None:
        account = self.world.promoter().journal.pointer(TARGET)
        there = {g.promotion_id for g in self.history().generations}
        assert not there & {refusal.promotion_id for _, refusal in account.refusals}

    @invariant()
    def no_automatic_promotion_after_a_hold_or_of_a_bad_student(self) -> None:
        generations = self.history().generations
        released = self.world.promoter().journal.pointer(TARGET).released
        for body in generations:
            if body.automatic and body.kind == "promotion":
                before = PointerHistory(TARGET, generations[: body.generation - 1])
                assert before.held_by(released) is None
                withdrawn = {generations[o - 1].digest for o in before.withdrawn()}
                assert body.digest not in withdrawn

    @invariant()
    def an_open_intent_is_for_the_next_number_or_one_just_taken(self) -> None:
        account, latest = self.world.promoter().journal.pointer(TARGET), self.history().latest
        for intent in account.open.values():
            assert intent.generation.generation <= latest + 1
        assert len(account.open) <= 1
        assert account.latest <= latest


def test_any_number_of_launchers_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # nothing here loses power
    run_state_machine_as_test(
        Launchers,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_simulation_reaches_every_kind_of_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation in which nothing is ever fenced, aborted or refused would prove nothing."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    machine = Launchers()
    try:
        machine.run_ends("r0", [12])
        machine.run_ends("r3", [12])
        machine.promote("r1", 2, False)  # asleep between its intent and its create
        machine.roll_back(12, None)
        machine.goes_on(0, 8)
        machine.run_ends("r2", [12])
        machine.a_writing_command()
        kinds = [g.kind for g in machine.history().generations]
        account = machine.world.promoter().journal.pointer(TARGET)
        assert kinds == ["promotion", "promotion", "fence", "rollback"]
        assert [r.type for _, r in account.refusals] == ["PromotionAborted", "PromotionRefused"]
        assert machine.actors == []
    finally:
        machine.teardown()
