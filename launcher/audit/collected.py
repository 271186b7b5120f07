"""What collections took: blobs that are gone by right. Reads only.

A blob is gone by right if a collection planned to take it after the last event that names it (in whatever
manifest), and neither is it live under a pointer, nor does an open run name it, nor a generation that the ledger
does not know yet. Order is by position in the ledger; no clock and no grace is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from launcher.errors import LauncherError
from launcher.storage.pointer import PointerHistory
from launcher.storage.port import ObjectStore
from ledger import events as e
from ledger.audit import LedgerAudit

__all__ = ["Taken"]

_PLAN_BYTES = 256 * 1024 * 1024


class Taken:
    """What the ledger's collections took. ``named`` is to be told of every blob that anything names."""

    def __init__(
        self, store: ObjectStore, ledger: LedgerAudit, histories: Iterable[PointerHistory]
    ) -> None:
        self._taken_at: dict[str, int] = {}
        self._named_at: dict[str, int] = {}
        self._open = {f"run/{run}" for run, state in ledger.runs.items() if state.status == "open"}
        self._needed = {n.digest for n in ledger.named if n.stream in self._open}
        for history in histories:
            account = ledger.pointers.get(history.name)
            known = account.latest if account else 0
            fresh = (*history.generations[known:], *history.generations[-1:])
            self._needed |= {body.digest for body in fresh if body.digest is not None}
        for record in ledger.kept:
            if isinstance(record.data, e.GarbagePlanned):
                for digest in _planned(store, record.data.plan_digest):
                    self._taken_at[digest] = record.position

    def named(self, digest: str, position: int, stream: str = "") -> None:
        """Something names ``digest``, at ``position`` of the ledger, in ``stream``."""
        self._named_at[digest] = max(self._named_at.get(digest, -1), position)
        if stream in self._open:
            self._needed.add(digest)

    def by_right(self, digest: str) -> bool:
        """Whether this blob may be gone."""
        taken = self._taken_at.get(digest, -1)
        return digest not in self._needed and taken > self._named_at.get(digest, -1)


def _planned(store: ObjectStore, plan: str) -> list[str]:
    """The blobs of a plan; none where it cannot be read, which is a problem of its own."""
    try:
        return [blob["digest"] for blob in json.loads(store.read_blob(plan, _PLAN_BYTES))["blobs"]]
    except (LauncherError, ValueError, KeyError, TypeError):
        return []
