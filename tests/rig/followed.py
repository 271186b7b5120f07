"""A store with a pointer that moves, and followers of it, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launcher import clock
from launcher.storage.opening import open_store
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectStore

__all__ = ["NAME", "Followed", "student"]

NAME = "student"


def student(run_id: str) -> bytes:
    """The bytes of a run's checkpoint."""
    return f"weights of {run_id} ".encode() * 1000


@dataclass
class Followed:
    """``place`` is a folder or a bucket's URL; what is done here goes straight to it."""

    place: str
    folder: Path
    store: ObjectStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = open_store(self.place)

    @property
    def address(self) -> str:
        return f"{self.place}#{NAME}"

    def promote(self, run_id: str) -> int:
        """Make ``run_id``'s checkpoint live; its generation."""
        pointers = Pointers(self.store)
        blob = self.store.ingest_bytes(student(run_id))
        body = pointers.history(NAME).promotion_body(
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            run_id=run_id,
            automatic=False,
            **_said(),
        )
        pointers.create(body)
        return body.generation

    def rollback(self) -> int:
        """Go back to the checkpoint before."""
        pointers = Pointers(self.store)
        history = pointers.history(NAME)
        body = history.rollback_body(history.rollback_target(None), **_said())
        pointers.create(body)
        return body.generation

    def fence(self) -> int:
        """Take a number and change nothing."""
        pointers = Pointers(self.store)
        body = pointers.history(NAME).fence_body(**_said())
        pointers.create(body)
        return body.generation


def _said() -> dict[str, object]:
    return {
        "project": "p",
        "promotion_id": clock.new_id(),
        "actor": "ana",
        "reason": None,
        "time": clock.now(),
    }
