"""The port through which the ledger in a bucket meets the bucket: four verbs on create-only objects.

``ledger`` knows no bucket; whoever opens an ``ObjectsEventStore`` hands it one of these. An adapter makes
one attempt per call and never retries: a client that quietly repeats a create hears "taken" of its own
success, which is harmless here (a taken key is read back), but makes waiting unpredictable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ledger.errors import LedgerError, LedgerUnavailableError

__all__ = ["KeyTakenError", "LogObjects", "NoAnswerError"]


class KeyTakenError(LedgerError):
    """There is an object under this key, perhaps one's own of a moment ago; what is there stands."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is taken")
        self.key = key


class NoAnswerError(LedgerUnavailableError):
    """Nobody knows what became of a call: not applied, applied, or still on its way. Worth another try.

    A create that ended so may land a minute later. A refusal that will not change (no permission) is a
    plain LedgerUnavailableError, and is not tried again.
    """


class LogObjects(Protocol):
    """Objects that are created once and never change. Threads may share one.

    Every method may raise NoAnswerError and LedgerUnavailableError. A create that was answered is seen
    by every ``read`` and ``list`` that begins afterwards.
    """

    @property
    def where(self) -> str:
        """What a person would call this place: a path or URL, the same for everybody who means it."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Create ``key``, durable and whole when it returns. Raises KeyTakenError."""
        ...

    def read(self, key: str) -> bytes | None:
        """The whole object, None where there is none. Raises LedgerDamagedError where it is there and not whole."""
        ...

    def list(self, prefix: str, after: str) -> Iterator[str]:
        """Keys that begin with ``prefix`` and sort after ``after``, ascending."""
        ...
