"""The events of what is stored, in the stream ``storage``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ledger.events._base import EventData, Frozen

__all__ = [
    "GarbageCollected",
    "GarbagePlanned",
    "ObsoleteCheckpoint",
    "RunFolderRestored",
    "RunFolderRetired",
    "StorageMeasured",
]


class ObsoleteCheckpoint(Frozen):
    """A file that nothing needs any more: its bytes are in the store, or it is a superseded backup."""

    path: str
    size_bytes: int = Field(ge=0)
    why: str


class StorageMeasured(EventData):
    """Bytes by class (students, outputs, logs, run folders, backups, …).

    ``free_bytes`` is None where a store has a quota only.
    """

    type: Literal["StorageMeasured"] = "StorageMeasured"
    store: str
    bytes_by_class: dict[str, int]
    free_bytes: int | None
    quota_bytes: int | None = None
    obsolete: tuple[ObsoleteCheckpoint, ...] = ()
    obsolete_count: int = 0
    obsolete_bytes: int = 0
    run_id: str | None = None
    alert_file: str | None = None


class GarbagePlanned(EventData):
    type: Literal["GarbagePlanned"] = "GarbagePlanned"
    plan_digest: str
    objects: int
    size_bytes: int


class GarbageCollected(EventData):
    type: Literal["GarbageCollected"] = "GarbageCollected"
    plan_digest: str
    objects: int
    size_bytes: int


class RunFolderRetired(EventData):
    """From here on a machine keeps no folder of an ended run: what was in it is in the store.

    Appended before the first file goes. ``folder`` is absolute; ``follows`` is the id of the event of this kind
    that the run had before, None for its first.
    """

    type: Literal["RunFolderRetired"] = "RunFolderRetired"
    run_id: str
    folder: str
    machine_id: str
    files: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    follows: str | None = None


class RunFolderRestored(EventData):
    """A retired folder is there again, or was not removed after all; ``follows`` as in RunFolderRetired."""

    type: Literal["RunFolderRestored"] = "RunFolderRestored"
    run_id: str
    folder: str
    machine_id: str
    follows: str | None
