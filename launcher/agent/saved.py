"""What was kept of an attempt that left no outputs: it was closed, or killed without a word.

``collected.json`` says it of one that was closed while somebody beside it lived; of a pod that was killed whole there
is what its collector had saved by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from launcher.agent.pod_progress import newest_progress
from launcher.errors import IntegrityError
from launcher.storage.manifest import Entry
from launcher.storage.port import ObjectNotFoundError, ObjectStore
from ledger.errors import LedgerError
from ledger.ids import check_digest

__all__ = ["SavedOfAttempt", "saved_of"]


@dataclass(frozen=True, slots=True)
class SavedOfAttempt:
    """``checkpoints`` by path, relative to the run's folder; ``running_seconds`` where somebody measured them."""

    checkpoints: tuple[Entry, ...] = ()
    log_digest: str | None = None
    running_seconds: float | None = None


_NOTHING: Final = SavedOfAttempt()


def saved_of(store: ObjectStore, run_id: str, stage: str, attempt: int) -> SavedOfAttempt:
    """Of one attempt; empty where nothing was kept, or what says so is damaged. Raises UnavailableError."""
    prefix = f"runs/{run_id}/{stage}/{attempt}"
    closed = _collected(store, f"{prefix}/collected.json")
    if closed.checkpoints and closed.log_digest:
        return closed
    try:
        progress = newest_progress(store, f"{prefix}/progress")
    except IntegrityError:
        return closed
    if progress is None:
        return closed
    files = tuple(Entry(one.path, one.digest, one.size_bytes) for one in progress.checkpoints)
    return SavedOfAttempt(
        closed.checkpoints or files,
        closed.log_digest or progress.log_digest,
        closed.running_seconds,
    )


def _collected(store: ObjectStore, key: str) -> SavedOfAttempt:
    try:
        raw = json.loads(store.read(key))
    except (ObjectNotFoundError, ValueError):
        return _NOTHING
    if not isinstance(raw, dict):
        return _NOTHING
    return SavedOfAttempt(_checkpoints(raw), _log(raw), _seconds(raw))


def _checkpoints(raw: Mapping[str, Any]) -> tuple[Entry, ...]:
    try:
        return tuple(
            Entry(str(one["path"]), check_digest(one["digest"]), int(one["size_bytes"]))
            for one in raw.get("checkpoints", ())
        )
    except (KeyError, TypeError, ValueError, LedgerError):
        return ()


def _log(raw: Mapping[str, Any]) -> str | None:
    digest = raw.get("log_digest")
    try:
        return check_digest(digest) if isinstance(digest, str) else None
    except LedgerError:
        return None


def _seconds(raw: Mapping[str, Any]) -> float | None:
    found = raw.get("seconds")
    running = found.get("running") if isinstance(found, dict) else None
    return float(running) if isinstance(running, int | float) else None
