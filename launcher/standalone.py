"""A rollback with nothing but the store: for the night on which the ledger is damaged or away.

The generation that it creates is imported by the ledger's next writing command, hold included, like any
other that was made elsewhere.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from launcher.errors import UnavailableError
from launcher.followers import Followers
from launcher.promotion import moved_since
from launcher.settings import Settings
from launcher.settling import RaceLostError, verify_blob
from launcher.storage import opening
from launcher.storage.address import Address
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import ObjectExistsError, ObjectStore
from launcher.target import TargetFile
from ledger.events import Generation

__all__ = ["StoreRollback", "open_address", "open_rollback", "open_store"]


def open_store(settings: Settings, root: Path) -> ObjectStore:
    """The store of the project at ``root``; opens no ledger."""
    return opening.open_store(settings.store_in(root))


def open_rollback(settings: Settings, root: Path) -> StoreRollback:
    """A StoreRollback of the project at ``root``. Raises UsageError."""
    store = open_store(settings, root)
    return StoreRollback(store, root=root, project=settings.project, actor=settings.actor)


def open_address(address: Address, *, root: Path, actor: str) -> StoreRollback:
    """A StoreRollback of the store that ``address`` names; no file follows it. Raises UsageError."""
    store = opening.open_store(address.store)
    return StoreRollback(store, root=root, project="", actor=actor, files=False)


class StoreRollback:
    """Rolls pointers back in one store, for one project root; ``files``: its target files follow."""

    def __init__(
        self, store: ObjectStore, *, root: Path, project: str, actor: str, files: bool = True
    ) -> None:
        self.store, self.actor = store, actor
        self.pointers = Pointers(store)
        self.followers = (Followers if files else _NoFiles)(root, project, self.pointers)

    def history(self, name: str) -> PointerHistory:
        """The store's generations of ``name``."""
        return self.pointers.history(name)

    def apply(
        self,
        name: str,
        to: Generation,
        *,
        reason: str | None,
        base: int,
        promotion_id: str,
        time: str,
        deep: bool = False,
    ) -> tuple[Generation, str | None]:
        """Create the rollback generation and bring the target file in step.

        Returns what is live now (``to``'s checkpoint, from before where it was live already) and the
        target's backup, if one was made. ``base`` is the generation on which ``to`` was chosen.
        Raises RaceLostError, IntegrityError, UnavailableError, TargetBehindError (it is live).
        """
        history = self.history(name)
        winner = moved_since(history, base, but="fence")
        if winner is not None and winner.digest != to.digest:
            raise RaceLostError(name, winner)
        live = history.live
        assert live is not None
        if live.digest == to.digest:
            return live, self.followers.bring_in_step(name)
        verify_blob(self.store, to.digest, to.size_bytes, deep=deep)
        body = history.rollback_body(
            to,
            project=live.project,
            promotion_id=promotion_id,
            actor=self.actor,
            reason=reason,
            time=time,
        )
        with self.followers.ready(body) as ready:
            try:
                self.pointers.create(body)
            except ObjectExistsError:
                taken = self.history(name).get(body.generation)
                if taken is None or taken.promotion_id != promotion_id:
                    self.followers.bring_in_step(name)
                    raise RaceLostError(name, taken or body) from None
            with suppress(UnavailableError):  # a convenience, that nothing of ours trusts
                self.pointers.write_view(name)
            return body, self.followers.bring_in_step(name, by=body, ready=ready)


class _NoFiles(Followers):
    """Where there is no project: what lies here under a pointer's name is somebody else's."""

    def file(self, name: str) -> TargetFile | None:
        return None
