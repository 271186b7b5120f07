"""How an intent becomes a generation, and how what others began is finished. The protocol:

1. ``PromotionIntended`` is appended with the whole body of generation n+1.
2. The blob is verified and generation n+1 created, create-only. *This is the moment it is live.*
3. The target file is brought in step, and the end is appended: confirmed, or aborted where the number
   went to somebody else for good.

Rules:

1. Any process can end any open intent, because its body is in the ledger and creating it twice is creating
   it once. What the ledger says was intended is created, never a later wording of the same decision.
2. An intent that may not go live (damaged blob, a hold, a rollback under way) loses its number to a fence,
   so that a promoter who wakes up late loses too.
3. A number is decided in the store before the ledger says so. Generations that the ledger missed are
   imported, in order, once no intent is open.
4. Nothing is ever created past a gap: a store that ends before the ledger's account is the wrong one.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from launcher.errors import ConflictError, IntegrityError, UnavailableError
from launcher.followers import Followers, Ready, TargetBehindError
from launcher.journal import Journal
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import BlobDamagedError, BlobMissingError, ObjectExistsError, ObjectStore
from ledger import events as e
from ledger.pointers import PointerState

__all__ = ["RaceLostError", "Settling", "WrongStoreError", "verify_blob"]


class RaceLostError(ConflictError):
    """Somebody else's generation took the number that this decision was made for."""

    def __init__(self, name: str, winner: e.Generation) -> None:
        who = f"run {winner.run_id}" if winner.kind == "promotion" else f"a {winner.kind}"
        why = f": {winner.reason}" if winner.kind == "fence" and winner.reason else ""
        super().__init__(
            f"{name}: lost the race, g{winner.generation} is {who} by {winner.actor}{why}",
            f"launcher pointers {shlex.quote(name)}",
        )
        self.name, self.winner = name, winner


class WrongStoreError(IntegrityError):
    """A store that lacks generations which the ledger knows: another project's, or an old copy."""

    def __init__(self, name: str, where: str, known: int, there: int) -> None:
        super().__init__(
            f"{name}: the ledger knows g{known}, {where} ends at g{there}",
            "is LAUNCHER_STORE the right one? launcher audit",
        )
        self.name, self.where, self.known, self.there = name, where, known, there


def verify_blob(
    store: ObjectStore, digest: str | None, size_bytes: int | None, *, deep: bool = False
) -> None:
    """Raises IntegrityError unless the blob is there with the size that was recorded. ``deep`` hashes it.

    For whoever is about to rely on it: one that lies in the trash is moved back.
    """
    if digest is None:
        raise IntegrityError("it names no checkpoint")
    found = store.recover(digest)
    if deep and found is not None:
        found = store.verify_blob(digest)
    if found is None:
        raise BlobMissingError(digest, store.where)
    if size_bytes is not None and found.size_bytes != size_bytes:
        detail = f"it has {found.size_bytes} bytes of {size_bytes}"
        raise BlobDamagedError(digest, store.where, detail)


class Settling:
    """Pointers of one store, their account in one ledger, their files in one project."""

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
        self.journal, self.store, self.pointers = journal, store, Pointers(store)
        self.followers = Followers(root, project, self.pointers, keeps_files=keeps_files)
        self._new_id = new_id

    def settle(self, name: str, *, rolling_back: bool = False) -> PointerHistory:
        """End open intents and import what the ledger missed; files are left alone. Idempotent.

        ``rolling_back``: what is open is not finished, its number is taken by a fence.
        Raises IntegrityError (a gap, the wrong store), UnavailableError.
        """
        account = self.journal.pointer(name).generations
        self.pointers.recall(name, [account[number] for number in range(1, len(account) + 1)])
        while True:
            history = self._looked(name)
            for intent in list(self.journal.pointer(name).open.values()):
                self._end(intent, rolling_back=rolling_back)
                history = self.pointers.history(name)
            try:
                return self._import(history)
            except _StillOpenError:
                continue

    def move(self, intent: e.PromotionIntended) -> None:
        """Carry out a decision made on the newest generation; its ``backup`` is filled in here.

        Raises RaceLostError, IntegrityError (its blob), UnavailableError (nothing was intended, or it is
        ended by the next writing command), TargetBehindError (it is live and recorded, its file is behind).
        """
        body = intent.generation
        with self.followers.ready(body) as ready:
            said = self._intend(intent.model_copy(update={"backup": ready.backup}))
            if said is None:
                return
            winner, blocked, behind = self._end(said, ready=ready)
        if blocked is not None:
            raise blocked
        if winner.promotion_id != body.promotion_id:
            raise RaceLostError(body.name, winner)
        if behind is not None:
            raise behind

    # --- intents ---

    def _intend(self, intent: e.PromotionIntended) -> e.PromotionIntended | None:
        """The intent as the ledger has it; None where somebody ended this very decision already."""
        body = intent.generation

        def propose(state: PointerState) -> list[e.EventData]:
            if state.outcome(body.promotion_id) is not None:
                return []
            if state.latest >= body.generation or state.open:
                raise _NumberTakenError
            return [intent]

        try:
            return self.journal.record_pointer(body.name, propose).open.get(body.promotion_id)
        except _NumberTakenError:
            history = self.settle(body.name, rolling_back=body.kind == "rollback")
            winner = history.get(body.generation)
            if winner is None:
                raise self._vanished(body) from None
            raise RaceLostError(body.name, winner) from None

    def _end(
        self,
        intent: e.PromotionIntended,
        *,
        rolling_back: bool = False,
        ready: Ready | None = None,
    ) -> tuple[e.Generation, IntegrityError | None, TargetBehindError | None]:
        """Decide an intent's number in the store, then say so in the ledger.

        Returns who has the number, why it was not ours if its blob was not right, and whether the file
        is behind.
        """
        body = intent.generation
        blocked = None
        history = self.pointers.known(body.name)
        if ready is None or history.latest != body.generation - 1:
            history = self.pointers.history(body.name)
        # Else this was decided on the last look: if the number went since, the create says so.
        if history.get(body.generation) is None:
            try:
                reason = self._why_not(body, history, rolling_back=rolling_back)
            except IntegrityError as exc:
                reason, blocked = str(exc), exc
            self._take_number(body, reason)
        winner = self.pointers.known(body.name).get(body.generation)
        winner = winner or self.pointers.history(body.name).get(body.generation)
        if winner is None:
            raise self._vanished(body)
        backup, behind = self._follow(intent, ready)
        with suppress(UnavailableError):  # a convenience, that nothing of ours trusts
            self.pointers.write_view(body.name)
        end = _end_event(intent, winner, backup)
        self.journal.record_pointer(body.name, lambda s: [end, *_hold(s, winner)])
        lost = winner.promotion_id != body.promotion_id
        return winner, blocked if lost else None, behind

    def _why_not(
        self, body: e.Generation, history: PointerHistory, *, rolling_back: bool
    ) -> str | None:
        """Why ``body`` may not follow ``history``, which ends right before it; None if it may."""
        if rolling_back:
            return "a rollback took its place"
        released = self.journal.pointer(body.name).released if body.automatic else frozenset()
        if body.automatic and history.held_by(released) is not None:
            return "the pointer was held"
        verify_blob(self.store, body.digest, body.size_bytes)
        return None

    def _take_number(self, body: e.Generation, reason: str | None) -> None:
        """Create the body, or a fence in its place; or find the number taken, which decides it as well."""
        if reason is not None:
            history = self.pointers.history(body.name)
            if history.latest >= body.generation:
                return
            body = history.fence_body(
                project=history.live.project if history.live else body.project,
                promotion_id=self._new_id(),
                actor=self.journal.actor,
                reason=reason,
                time=self.journal.clock(),
            )
        with suppress(ObjectExistsError):
            self.pointers.create(body)

    def _follow(
        self, intent: e.PromotionIntended, ready: Ready | None
    ) -> tuple[str | None, TargetBehindError | None]:
        body = intent.generation
        given = ready if ready is not None else Ready(backup=intent.backup)
        try:
            return self.followers.bring_in_step(body.name, by=body, ready=given), None
        except TargetBehindError as exc:
            return None, exc

    # --- what the ledger missed ---

    def _import(self, history: PointerHistory) -> PointerHistory:
        name = history.name

        def propose(state: PointerState) -> list[e.EventData]:
            if state.open:
                raise _StillOpenError
            missed: list[e.EventData] = []
            for body in history.generations[state.latest :]:
                missed += [e.PromotionConfirmed(generation=body, imported=True)]
                missed += _hold(state, body)
            return missed

        if self.journal.record_pointer(name, propose).latest > history.latest:
            return self.pointers.history(name)
        return history

    def _looked(self, name: str) -> PointerHistory:
        """What is stored now. Raises WrongStoreError."""
        known, history = self.journal.pointer(name).latest, self.pointers.history(name)
        if history.latest < known:
            raise WrongStoreError(name, self.store.where, known, history.latest)
        return history

    def _vanished(self, body: e.Generation) -> IntegrityError:
        return IntegrityError(
            f"{body.name}: g{body.generation} vanished from {self.store.where}", "launcher audit"
        )


def _end_event(
    intent: e.PromotionIntended, winner: e.Generation, backup: str | None
) -> e.EventData:
    body = intent.generation
    if winner.promotion_id == body.promotion_id:
        return e.PromotionConfirmed(
            generation=winner,
            promoted_from=intent.promoted_from,
            backup=backup,
            imported=winner != body,
        )
    return e.PromotionAborted(
        promotion_id=body.promotion_id,
        run_id=body.run_id,
        winner=winner,
        reason=winner.reason or f"generation {winner.generation} was taken",
    )


def _hold(state: PointerState, body: e.Generation) -> list[e.EventData]:
    if body.kind != "rollback" or body.generation in state.generations:
        return []
    return [e.PointerHeld(generation=body.generation, reason=body.reason)]


class _NumberTakenError(Exception):
    """The next generation's number went to somebody else between the reading and the intent."""


class _StillOpenError(Exception):
    """Somebody intended something since the open intents were looked at."""
