"""Promotion, rollback, release: deciding how a pointer is to move. ``settling`` carries it out.

Rules:

1. Every decision is made on the newest generation, after what others began is settled, and names the
   number that follows it. If that number goes to somebody else, the decision is lost, not made again.
2. An automatic decision is made once per run and pointer, ever: promoted, aborted or refused, it stands.
3. While a rollback holds the pointer nothing is promoted automatically, and a checkpoint that was rolled
   back from never comes back by itself, hold or not.
4. A rollback takes the place of what is under way: an open intent's number goes to a fence.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.journal import Journal
from launcher.refusal import Refusal, why_not
from launcher.retention.lineage import bring_back
from launcher.retention.reach import DAY_SECONDS
from launcher.settling import RaceLostError, Settling, verify_blob
from launcher.storage.pointer import PointerHistory
from launcher.storage.port import BlobDamagedError, BlobMissingError, ObjectStore
from ledger import events as e
from ledger.decider import RunState
from ledger.ids import event_id, pointer_stream, promotion_id
from ledger.pointers import PointerState

__all__ = ["Moved", "Promoter", "RaceLostError", "moved_since"]

#: A rollback fences what is under way and decides again; each turn ends somebody else's promotion.
_ROLLBACK_TURNS: Final = 20


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of a decision. ``generation`` was made by it on ``moved`` and is live on ``unchanged``."""

    outcome: Literal["moved", "unchanged", "refused"]
    name: str
    generation: e.Generation | None = None
    backup: str | None = None
    cause: str | None = None
    reason: str | None = None


def moved_since(history: PointerHistory, base: int, *, but: str) -> e.Generation | None:
    """The first generation after ``base`` that is not of the kind ``but``, or None."""
    return next((g for g in history.generations[base:] if g.kind != but), None)


class Promoter:
    """Moves pointers of one project. ``root`` is the project root, ``new_id`` gives random ids.

    Without ``keeps_files`` the target files are elsewhere: whoever has them brings them in step.
    """

    def __init__(
        self,
        journal: Journal,
        store: ObjectStore,
        *,
        root: Path,
        project: str,
        new_id: Callable[[], str],
        keeps_files: bool = True,
    ) -> None:
        self.journal, self.store, self.root, self.project = journal, store, root, project
        self.settling = Settling(
            journal, store, root=root, project=project, new_id=new_id, keeps_files=keeps_files
        )
        self.pointers, self.followers = self.settling.pointers, self.settling.followers
        self._new_id = new_id

    def history(self, name: str) -> PointerHistory:
        """The store's generations of ``name``. Raises IntegrityError for a gap or an unreadable one."""
        return self.pointers.history(name)

    def held_by(self, name: str) -> e.Generation | None:
        """The rollback that holds ``name`` against automatic promotions, or None."""
        return self.history(name).held_by(self.journal.pointer(name).released)

    def settle(self, name: str, *, rolling_back: bool = False) -> PointerHistory:
        """Finish what others began, import what the ledger missed, repair the file. Idempotent.

        Raises IntegrityError, UnavailableError; TargetBehindError when all is settled but the file.
        """
        history = self.settling.settle(name, rolling_back=rolling_back)
        self.followers.bring_in_step(name)
        return history

    # --- promotion ---

    def promote(
        self,
        run: RunState,
        name: str,
        *,
        automatic: bool,
        reason: str | None = None,
        take_over: bool = False,
        expect_generation: int | None = None,
        deep: bool = False,
        plan: e.PromotionPlan | None = None,
    ) -> Moved:
        """Make a run's student live under ``name``.

        A refusal is recorded; an automatic one is returned, but for a checkpoint that is not right; by
        hand it is raised. Raises RaceLostError, ConflictError, UsageError, IntegrityError,
        TargetBehindError.
        """
        history = self.settling.settle(name)
        decision = promotion_id(run.run_id, name) if automatic else self._new_id()
        if self.journal.pointer(name).outcome(decision) is not None:
            self.followers.bring_in_step(name)
            return self._decided(name, decision)
        if expect_generation is not None and history.latest != expect_generation:
            raise self._unexpected(history, expect_generation)
        if not automatic and self._ended_long_ago(run):
            bring_back(self.store, self.journal.store.read_stream(run.stream))
        refusal = why_not(
            run,
            history,
            released=self.journal.pointer(name).released,
            project=self.project,
            automatic=automatic,
            take_over=take_over,
        ) or self._why_damaged(run, deep=deep)
        if refusal is not None:
            return self._refuse(run, name, decision, refusal, automatic=automatic)
        student, live = run.student, history.live
        assert student is not None
        if not automatic and live is not None and live.digest == student.digest:
            self.followers.bring_in_step(name)
            return Moved("unchanged", name, live)
        try:
            base = self._adopt(name, history)
            if expect_generation is not None:
                winner = moved_since(base, expect_generation, but="adoption")
                if winner is not None:
                    raise RaceLostError(name, winner)
            body = base.promotion_body(
                project=self.project,
                digest=student.digest,
                size_bytes=student.size_bytes,
                run_id=run.run_id,
                promotion_id=decision,
                automatic=automatic,
                actor=self.journal.actor,
                reason=reason,
                time=self.journal.clock(),
            )
            self.settling.move(_intent(body, student.path, plan))
        except RaceLostError as lost:
            if automatic:
                self._record_refusal(run, name, decision, ("race", lost.message), automatic=True)
            raise
        except (BlobDamagedError, BlobMissingError) as exc:
            if automatic:
                self._record_refusal(
                    run, name, decision, ("verification", str(exc)), automatic=True
                )
            raise
        return self._decided(name, decision)

    def _ended_long_ago(self, run: RunState) -> bool:
        """Whether what made its checkpoint may lie in a trash that is about to be emptied."""
        if run.ended_at is None:
            return False
        ended, now = map(datetime.fromisoformat, (run.ended_at, self.journal.clock()))
        return (now - ended).total_seconds() >= DAY_SECONDS

    def _unexpected(self, history: PointerHistory, expected: int) -> ConflictError | UsageError:
        winner = history.get(expected + 1)
        if winner is None:
            return UsageError(f"{history.name} is at g{history.latest}, not g{expected}")
        return RaceLostError(history.name, winner)

    def make_ready(self, name: str) -> None:
        """Make ready here for a promotion that is made elsewhere: what is there before the first one becomes a
        generation, and the file that is to follow has its folder.

        Raises RaceLostError, IntegrityError, UnavailableError.
        """
        self._adopt(name, self.settling.settle(name))
        self.followers.make_room(name)

    def _adopt(self, name: str, history: PointerHistory) -> PointerHistory:
        """A file that was there before the first promotion becomes a generation; returns the newest history."""
        file = self.followers.file(name)
        if file is None or history.effective is not None:
            return history
        if not file.path.is_file() or file.path.stat().st_size == 0:
            return history
        blob = self.store.ingest(file.path)
        body = history.adoption_body(
            project=self.project,
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            promotion_id=event_id(pointer_stream(name), "adoption", blob.digest),
            actor=self.journal.actor,
            reason="it was there before the first promotion",
            time=self.journal.clock(),
        )
        self.settling.move(e.PromotionIntended(generation=body))
        return self.settling.settle(name)

    def _why_damaged(self, run: RunState, *, deep: bool) -> Refusal | None:
        assert run.student is not None
        try:
            verify_blob(self.store, run.student.digest, run.student.size_bytes, deep=deep)
        except IntegrityError as exc:
            return ("verification", str(exc))
        return None

    def _refuse(
        self,
        run: RunState,
        name: str,
        decision: str,
        refusal: Refusal,
        *,
        automatic: bool,
    ) -> Moved:
        self._record_refusal(run, name, decision, refusal, automatic=automatic)
        cause, reason = refusal
        if automatic:
            return self._decided(name, decision)
        error = IntegrityError if cause == "verification" else ConflictError
        raise error(f"not promoted: {reason}")

    def _record_refusal(
        self,
        run: RunState,
        name: str,
        decision: str,
        refusal: Refusal,
        *,
        automatic: bool,
    ) -> None:
        event = e.PromotionRefused(
            promotion_id=decision,
            kind="promotion",
            run_id=run.run_id,
            automatic=automatic,
            cause=refusal[0],
            reason=refusal[1],
        )

        def propose(state: PointerState) -> list[e.EventData]:
            return [] if state.outcome(decision) is not None else [event]

        self.journal.record_pointer(name, propose)

    def _decided(self, name: str, decision: str) -> Moved:
        """What came of a decision that was made. Raises RaceLostError, IntegrityError where that was the end."""
        while self.journal.pointer(name).outcome(decision) == "open":
            self.settling.settle(name)
        state = self.journal.pointer(name)
        for _, confirmed in state.confirmations:
            if confirmed.generation.promotion_id == decision:
                return Moved("moved", name, confirmed.generation, confirmed.backup)
        for _, refusal in state.refusals:
            if refusal.promotion_id != decision:
                continue
            if isinstance(refusal, e.PromotionAborted):
                raise RaceLostError(name, refusal.winner)
            if refusal.cause == "verification":
                raise IntegrityError(f"not promoted: {refusal.reason}")
            return Moved("refused", name, cause=refusal.cause, reason=refusal.reason)
        raise AssertionError(f"{decision} is not decided")

    # --- rollback and release ---

    def rollback(
        self, name: str, to: e.Generation, *, reason: str | None, base: int, deep: bool = False
    ) -> Moved:
        """A new generation that names an old one's checkpoint; holds ``name`` until it is released.

        ``to`` is what ``PointerHistory.rollback_target`` chose, ``base`` the generation it was chosen
        on. The pointer stays its project's. Raises RaceLostError, IntegrityError, TargetBehindError.
        """
        for turn in range(1, _ROLLBACK_TURNS + 1):
            history = self.settling.settle(name, rolling_back=True)
            winner = moved_since(history, base, but="fence")
            if winner is not None:
                raise RaceLostError(name, winner)
            live = history.live
            assert live is not None
            if live.digest == to.digest:
                self.followers.bring_in_step(name)
                return Moved("unchanged", name, live)
            verify_blob(self.store, to.digest, to.size_bytes, deep=deep)
            body = history.rollback_body(
                to,
                project=live.project,
                promotion_id=self._new_id(),
                actor=self.journal.actor,
                reason=reason,
                time=self.journal.clock(),
            )
            try:
                self.settling.move(e.PromotionIntended(generation=body))
            except RaceLostError as lost:
                if lost.winner.kind != "fence" or turn == _ROLLBACK_TURNS:
                    raise
            else:
                return self._decided(name, body.promotion_id)
        raise AssertionError("unreachable")

    def release(self, name: str, *, reason: str | None) -> e.Generation:
        """End the hold on ``name``; promotes nothing. Raises ConflictError if it is not held."""
        history = self.settling.settle(name)
        holder = history.held_by(self.journal.pointer(name).released)
        if holder is None:
            raise ConflictError(f"{name} is not held", f"launcher pointers {shlex.quote(name)}")
        number = holder.generation

        def propose(state: PointerState) -> list[e.EventData]:
            newer = [g for n, g in state.generations.items() if n > number and g.kind != "fence"]
            if newer:
                raise RaceLostError(name, newer[-1])
            return [e.PointerReleased(generation=number, reason=reason)]

        self.journal.record_pointer(name, propose)
        return holder


def _intent(
    body: e.Generation, promoted_from: str, plan: e.PromotionPlan | None
) -> e.PromotionIntended:
    return e.PromotionIntended(
        generation=body,
        promoted_from=promoted_from,
        record=plan.record if plan else None,
        alert_file=plan.alert_file if plan else None,
    )
