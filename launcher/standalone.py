"""A rollback with nothing but the store: for the night on which the ledger is damaged or away.

The generation that it creates is imported by the ledger's next writing command, like any other that was
made elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from launcher.errors import IntegrityError
from launcher.project import is_file_target
from launcher.promotion import RaceLostError
from launcher.settings import Settings
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import ObjectExistsError, ObjectStore
from launcher.target import TargetFile
from ledger.events import Generation

__all__ = ["StoreRollback", "open_store"]


def open_store(home: str | None) -> tuple[ObjectStore, Settings, Path]:
    """The store, settings and project root of the working folder; opens no ledger."""
    root = Path.cwd()
    settings = Settings.from_environment(os.environ, root, {"home": home} if home else {})
    base = settings.home if settings.home.is_absolute() else root / settings.home
    store = FilesystemStore(Path(settings.store) if settings.store else base / "objects")
    return store, settings, root


class StoreRollback:
    """Rolls pointers back in one store, for one project root."""

    def __init__(self, store: ObjectStore, *, root: Path, project: str, actor: str) -> None:
        self.store, self.root, self.project, self.actor = store, root, project, actor
        self.pointers = Pointers(store)

    def history(self, name: str) -> PointerHistory:
        """The store's generations of ``name``."""
        return self.pointers.history(name)

    def apply(
        self, name: str, to: Generation, *, reason: str | None, promotion_id: str, time: str
    ) -> Generation:
        """Create the rollback generation and bring the target file in step.

        Raises RaceLostError, IntegrityError.
        """
        if to.digest is None or self.store.stat_blob(to.digest) is None:
            raise IntegrityError(f"blob {to.digest} is not in {self.store.where}")
        body = self.history(name).rollback_body(
            to,
            project=self.project,
            promotion_id=promotion_id,
            actor=self.actor,
            reason=reason,
            time=time,
        )
        target = TargetFile(self.root / name, self.store) if is_file_target(name) else None
        prepared = (to.digest, target.prepare(to.digest)) if target else None
        try:
            self.pointers.create(body)
        except ObjectExistsError:
            winner = self.history(name).get(body.generation)
            if winner is None or winner.promotion_id != promotion_id:
                raise RaceLostError(name, winner or body) from None
        finally:
            if target is not None:
                label = body.run_id or f"g{body.generation}"
                target.sync(lambda: self.history(name).live, label, prepared=prepared)
        self.pointers.write_view(name)
        return body
