"""Promotion, rollback, release: how a pointer moves. The protocol, step by step:

1. ``settle`` what others began: generations that the ledger does not know are imported, open intents
   are finished or their number is taken by a fence, the target file is brought in step.
2. Append ``PromotionIntended`` with the whole body of generation n+1.
3. Verify the blob; create generation n+1, create-only. *This is the moment it is live.*
4. Bring the target file in step; append ``PromotionConfirmed``.

Whoever finds generation n+1 taken reads it: our promotion id means that we made it, anything else that
the race is lost for good (``PromotionAborted``, exit 3, saying who won). Any process can finish or abort
any open intent, because its body is in the ledger and creating it twice is creating it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.errors import ConflictError, IntegrityError, UsageError
from launcher.journal import Journal
from launcher.project import is_file_target
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import ObjectExistsError, ObjectStore
from launcher.target import TargetFile
from ledger import events as e
from ledger.decider import RunState
from ledger.ids import event_id, pointer_stream, promotion_id
from ledger.pointers import PointerState

__all__ = ["Moved", "Promoter", "RaceLostError"]


class RaceLostError(ConflictError):
    """Somebody else's generation took the number that this decision was made for."""

    def __init__(self, name: str, winner: e.Generation) -> None:
        who = f"run {winner.run_id}" if winner.run_id else winner.kind
        super().__init__(
            f"{name}: lost the race, g{winner.generation} is {who} by {winner.actor}",
            f"launcher pointers {name}",
        )
        self.name, self.winner = name, winner


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of a decision. ``generation`` is live on ``moved`` and ``unchanged``."""

    outcome: Literal["moved", "unchanged", "refused"]
    name: str
    generation: e.Generation | None = None
    backup: str | None = None
    cause: str | None = None
    reason: str | None = None


class Promoter:
    """Moves pointers of one project. ``root`` is the project root, ``new_id`` gives random ids."""

    def __init__(
        self,
        journal: Journal,
        store: ObjectStore,
        *,
        root: Path,
        project: str,
        new_id: Callable[[], str],
    ) -> None:
        self.journal, self.store, self.pointers = journal, store, Pointers(store)
        self.root, self.project, self._new_id = root, project, new_id

    # --- reading ---

    def history(self, name: str) -> PointerHistory:
        """The store's generations of ``name``. Raises IntegrityError for a gap or an unreadable one."""
        return self.pointers.history(name)

    def held_by(self, name: str) -> e.Generation | None:
        """The rollback that holds ``name`` against automatic promotions, or None."""
        return self.history(name).held_by(self.journal.pointer(name).released)

    # --- settling ---

    def settle(self, name: str, *, rolling_back: bool = False) -> PointerHistory:
        """Finish what others began, import what the ledger missed, repair the file. Idempotent."""
        for intent in list(self.journal.pointer(name).open.values()):
            self._settle_intent(intent, rolling_back=rolling_back)
        history = self._import(name)
        self._sync(name, history)
        return history

    def _settle_intent(self, intent: e.PromotionIntended, *, rolling_back: bool) -> None:
        body = intent.generation
        history = self.history(body.name)
        if history.get(body.generation) is None:
            reason = self._why_not(body, history, rolling_back=rolling_back)
            self._create(body if reason is None else self._fence(history, reason))
        self._record_end(intent)

    def _why_not(
        self, body: e.Generation, history: PointerHistory, *, rolling_back: bool
    ) -> str | None:
        if rolling_back:
            return "a rollback took its place"
        released = self.journal.pointer(body.name).released
        if body.automatic and history.held_by(released) is not None:
            return "the pointer was held"
        try:
            self._verify(body.digest)
        except IntegrityError as exc:
            return str(exc)
        return None

    def _fence(self, history: PointerHistory, reason: str) -> e.Generation:
        return history.fence_body(
            project=self.project,
            promotion_id=self._new_id(),
            actor=self.journal.actor,
            reason=reason,
            time=self.journal.clock(),
        )

    def _create(self, body: e.Generation) -> None:
        """Create a generation, or find it taken: either way its number is decided afterwards."""
        try:
            self.pointers.create(body)
        except ObjectExistsError:
            return

    def _record_end(
        self, intent: e.PromotionIntended, prepared: tuple[str, Path] | None = None
    ) -> e.Generation:
        """Record how an intent whose number is taken ended, once the target file is in step.

        Returns the generation that has the number.
        """
        body = intent.generation
        winner = self.history(body.name).get(body.generation)
        if winner is None:
            raise IntegrityError(f"{body.name}: generation {body.generation} vanished")
        backup = self._sync(body.name, None, prepared, intent.backup, body.run_id)
        self.pointers.write_view(body.name)
        end: e.EventData
        if winner.promotion_id == body.promotion_id:
            end = e.PromotionConfirmed(
                generation=body, promoted_from=intent.promoted_from, backup=backup
            )
        else:
            end = e.PromotionAborted(
                promotion_id=body.promotion_id,
                run_id=body.run_id,
                winner=winner,
                reason=winner.reason or f"generation {winner.generation} was taken",
            )
        self.journal.record_pointer(body.name, lambda s: [end, *self._hold(s, winner)])
        return winner

    def _hold(self, state: PointerState, winner: e.Generation) -> list[e.EventData]:
        if winner.kind != "rollback" or winner.generation in state.generations:
            return []
        return [e.PointerHeld(generation=winner.generation, reason=winner.reason)]

    def _import(self, name: str) -> PointerHistory:
        history = self.history(name)
        for body in history.generations:
            if body.generation <= self.journal.pointer(name).latest:
                continue
            self.journal.record_pointer(name, lambda s, b=body: self._imported(s, b))  # type: ignore[misc]
        known = self.journal.pointer(name).latest
        if history.latest < known:
            raise IntegrityError(
                f"{name}: the ledger knows g{known}, {self.store.where} ends at g{history.latest}",
                "is this the right store? launcher audit",
            )
        return history

    def _imported(self, state: PointerState, body: e.Generation) -> list[e.EventData]:
        if body.generation <= state.latest:
            return []
        return [
            e.PromotionConfirmed(generation=body, imported=True),
            *self._hold(state, body),
        ]

    # --- the target file ---

    def target_file(self, name: str) -> TargetFile | None:
        """The file that follows ``name``, or None for a pointer without one."""
        return TargetFile(self.root / name, self.store) if is_file_target(name) else None

    def _sync(
        self,
        name: str,
        history: PointerHistory | None,
        prepared: tuple[str, Path] | None = None,
        planned_backup: str | None = None,
        run_id: str | None = None,
    ) -> str | None:
        target = self.target_file(name)
        live = (history or self.history(name)).live
        if target is None or live is None:
            return None
        backup = target.sync(
            lambda: self.history(name).live,
            run_id or live.run_id or f"g{live.generation}",
            prepared=prepared,
            planned_backup=self.root / planned_backup if planned_backup else None,
        )
        return self._shown(backup) if backup else None

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def _adopt(self, name: str, history: PointerHistory) -> PointerHistory:
        """A file that was there before the first promotion becomes generation 1."""
        target = self.target_file(name)
        if target is None or history.live is not None or not target.path.is_file():
            return history
        blob = self.store.ingest(target.path)
        body = history.adoption_body(
            project=self.project,
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            promotion_id=event_id(pointer_stream(name), "adoption", blob.digest),
            actor=self.journal.actor,
            reason="it was there before the first promotion",
            time=self.journal.clock(),
        )
        self._move(e.PromotionIntended(generation=body))
        return self.history(name)

    # --- moving ---

    def _verify(self, digest: str | None, *, deep: bool = False) -> None:
        if digest is None:
            raise IntegrityError("it names no checkpoint")
        if deep:
            self.store.verify_blob(digest)
        elif self.store.stat_blob(digest) is None:
            raise IntegrityError(f"blob {digest} is not in {self.store.where}")

    def _move(self, intent: e.PromotionIntended) -> Moved:
        """Steps 2 to 4 for a body decided on the newest generation that the caller read."""
        body = intent.generation
        target = self.target_file(body.name)
        prepared = None
        if target is not None and body.digest is not None and target.digest() != body.digest:
            prepared = (body.digest, target.prepare(body.digest))
            planned = target.plan_backup(body.run_id or f"g{body.generation}")
            intent = intent.model_copy(update={"backup": self._shown(planned) if planned else None})
        try:
            self._intend(intent)
            try:
                self._verify(body.digest)
            except IntegrityError:
                self._settle_intent(intent, rolling_back=False)
                raise
            self._create(body)
            winner = self._record_end(intent, prepared)
            if winner.promotion_id != body.promotion_id:
                raise RaceLostError(body.name, winner)
            return self._decided(body.name, body.promotion_id)
        finally:
            if prepared is not None:
                prepared[1].unlink(missing_ok=True)

    def _intend(self, intent: e.PromotionIntended) -> None:
        body = intent.generation

        def propose(state: PointerState) -> list[e.EventData]:
            if state.latest >= body.generation or (
                state.open and body.promotion_id not in state.open
            ):
                raise _NumberTaken
            return [] if body.promotion_id in state.open else [intent]

        try:
            self.journal.record_pointer(body.name, propose)
        except _NumberTaken:
            winner = self.settle(body.name).get(body.generation)
            if winner is None:
                raise IntegrityError(
                    f"{body.name}: generation {body.generation} vanished"
                ) from None
            raise RaceLostError(body.name, winner) from None

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

        A refusal is recorded and returned (an automatic decision is taken once, ever); by hand it is
        raised. Raises RaceLostError, ConflictError, UsageError, IntegrityError.
        """
        history = self._adopt(name, self.settle(name))
        decision = promotion_id(run.run_id, name) if automatic else self._new_id()
        done = self.journal.pointer(name).outcome(decision)
        if done is not None:
            return self._decided(name, decision)
        if expect_generation is not None and history.latest != expect_generation:
            winner = history.get(expect_generation + 1)
            if winner is None:
                raise UsageError(f"{name} is at g{history.latest}, not g{expect_generation}")
            raise RaceLostError(name, winner)
        refusal = self._refusal(run, name, history, automatic=automatic, take_over=take_over)
        if refusal is None and run.student is not None:
            try:
                self._verify(run.student.digest, deep=deep)
            except IntegrityError as exc:
                refusal = ("verification", str(exc))
        if refusal is not None:
            return self._refuse(run, name, decision, refusal, automatic=automatic)
        assert run.student is not None
        live = history.live
        if not automatic and live is not None and live.digest == run.student.digest:
            return Moved("unchanged", name, live)
        body = history.promotion_body(
            project=self.project,
            digest=run.student.digest,
            size_bytes=run.student.size_bytes,
            run_id=run.run_id,
            promotion_id=decision,
            automatic=automatic,
            actor=self.journal.actor,
            reason=reason,
            time=self.journal.clock(),
        )
        return self._move(
            e.PromotionIntended(
                generation=body,
                promoted_from=run.student.path,
                record=plan.record if plan else None,
                alert_file=plan.alert_file if plan else None,
            )
        )

    def _refusal(
        self,
        run: RunState,
        name: str,
        history: PointerHistory,
        *,
        automatic: bool,
        take_over: bool,
    ) -> tuple[Any, str] | None:
        if run.student is None:
            return ("no_checkpoint", f"run {run.run_id} has no student checkpoint")
        holder = history.held_by(self.journal.pointer(name).released)
        if automatic and holder is not None:
            why = f": {holder.reason}" if holder.reason else ""
            return (
                "held",
                f"{name} is held since g{holder.generation} was rolled back to by "
                f"{holder.actor}{why}; when fixed: launcher release {name}",
            )
        live = history.live
        if live is not None and live.project != self.project and not take_over:
            return (
                "project",
                f"{name} belongs to project {live.project}, this is {self.project}; "
                "--take-over takes it",
            )
        return None

    def _refuse(
        self,
        run: RunState,
        name: str,
        decision: str,
        refusal: tuple[Any, str],
        *,
        automatic: bool,
    ) -> Moved:
        cause, reason = refusal
        event = e.PromotionRefused(
            promotion_id=decision,
            kind="promotion",
            run_id=run.run_id,
            automatic=automatic,
            cause=cause,
            reason=reason,
        )
        self.journal.record_pointer(name, lambda _s: [event])
        if not automatic:
            error = IntegrityError if cause == "verification" else ConflictError
            raise error(f"not promoted: {reason}")
        return Moved("refused", name, cause=cause, reason=reason)

    def _decided(self, name: str, decision: str) -> Moved:
        """What came of a decision that was taken before."""
        state = self.journal.pointer(name)
        for _, confirmed in state.confirmations:
            if confirmed.generation.promotion_id == decision:
                return Moved("moved", name, confirmed.generation, confirmed.backup)
        for _, refusal in state.refusals:
            if refusal.promotion_id == decision:
                if isinstance(refusal, e.PromotionAborted):
                    raise RaceLostError(name, refusal.winner)
                return Moved("refused", name, cause=refusal.cause, reason=refusal.reason)
        raise AssertionError(f"{decision} is not decided")

    def rollback(self, name: str, to: e.Generation, *, reason: str | None, base: int) -> Moved:
        """A new generation that names an old one's checkpoint; holds ``name`` until it is released.

        ``to`` is what ``PointerHistory.rollback_target`` chose, ``base`` the generation it was chosen
        on. Raises RaceLostError, IntegrityError.
        """
        history = self.settle(name, rolling_back=True)
        live = history.live
        if history.latest != base and (live is None or live.kind != "fence"):
            winner = history.get(base + 1)
            assert winner is not None
            raise RaceLostError(name, winner)
        if live is not None and live.digest == to.digest:
            return Moved("unchanged", name, live)
        self._verify(to.digest)
        body = history.rollback_body(
            to,
            project=self.project,
            promotion_id=self._new_id(),
            actor=self.journal.actor,
            reason=reason,
            time=self.journal.clock(),
        )
        return self._move(e.PromotionIntended(generation=body))

    def release(self, name: str, *, reason: str | None) -> e.Generation:
        """End the hold on ``name``; promotes nothing. Raises ConflictError if it is not held."""
        history = self.settle(name)
        holder = history.held_by(self.journal.pointer(name).released)
        if holder is None:
            raise ConflictError(f"{name} is not held")
        released = e.PointerReleased(generation=holder.generation, reason=reason)
        self.journal.record_pointer(name, lambda _s: [released])
        return holder


class _NumberTaken(Exception):
    """The next generation's number went to somebody else between the reading and the intent."""
