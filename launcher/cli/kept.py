"""What was kept of a stage that failed or was cancelled, and how to have it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from launcher.cli.stages import plural
from launcher.cli.terminal import fact
from launcher.errors import LauncherError
from launcher.run_contents import left_by
from launcher.storage.manifest import Entry, is_checkpoint
from launcher.storage.port import ObjectStore
from ledger.decider import RunState
from ledger.projections.storage_alert import human_bytes

__all__ = ["kept_json", "kept_lines"]


def kept_lines(store: ObjectStore, state: RunState, name: str) -> list[str]:
    """``kept    3 checkpoints, 214 MB: launcher restore 7f3a``; nothing where nothing was."""
    entries = _kept(store, state)
    if not entries:
        return []
    size = human_bytes(sum(one.size_bytes for one in entries))
    checkpoints = sum(is_checkpoint(one.path) for one in entries)
    others = len(entries) - checkpoints
    parts = [plural(checkpoints, "checkpoint")] if checkpoints else []
    parts += [plural(others, "other file" if checkpoints else "file")] if others else []
    return fact("kept", f"{' and '.join(parts)}, {size}: launcher restore {name}")


def kept_json(store: ObjectStore, state: RunState) -> list[dict[str, Any]]:
    """Each file: ``path`` relative to the run's folder, ``digest``, ``size_bytes``."""
    return [asdict(one) for one in _kept(store, state)]


def _kept(store: ObjectStore, state: RunState) -> list[Entry]:
    """Of the stage at which the run ended, by path; [] where it cannot be read now."""
    last = state.current()
    if state.status not in ("failed", "cancelled") or last is None or last.status != "failed":
        return []
    try:
        return left_by(state, last, store)
    except LauncherError:
        return []
