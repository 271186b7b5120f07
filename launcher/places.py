"""Where a run's files go, and whether they can go there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from launcher.errors import UsageError
from launcher.storage.bucket_url import is_bucket
from launcher.workspace import Workspace

__all__ = ["check_folder", "check_place", "is_as_made", "make_folders", "make_ready", "own_paths"]

_FOLDERS: Final = ("logs", "checkpoints", "artifacts", "metadata")


def own_paths(run_id: str, run_dir: Path) -> dict[str, str]:
    """Our own names that are known before a run starts, absolute."""
    return {
        "RUN_ID": run_id,
        "RUN_DIR": str(run_dir),
        "LOG_DIR": str(run_dir / "logs"),
        "CHECKPOINT_DIR": str(run_dir / "checkpoints"),
        "ARTIFACT_DIR": str(run_dir / "artifacts"),
        "METADATA_DIR": str(run_dir / "metadata"),
    }


def make_folders(run_dir: Path) -> None:
    """The four folders that every run has."""
    for name in _FOLDERS:
        (run_dir / name).mkdir(parents=True, exist_ok=True)


def make_ready(run_dir: Path) -> None:
    """Make the folders before the ledger knows of the run: one that has no place to be would be open for ever."""
    try:
        make_folders(run_dir)
    except OSError as exc:
        raise UsageError(f"{run_dir} cannot be made: {exc.strerror}", "--output-root") from exc


def is_as_made(run_dir: Path) -> bool:
    """Whether a run folder holds no more than ``make_folders`` makes: a submit that died before its run began."""
    return all(
        p.name in _FOLDERS and p.is_dir() and not any(p.iterdir()) for p in run_dir.iterdir()
    )


def check_folder(what: str, folder: Path) -> None:
    """Refuse a folder that cannot be made because a file is in its way. Raises UsageError."""
    above = _nearest(folder)
    if not above.is_dir():
        raise UsageError(f"{what} {folder} cannot be a folder: {above} is a file")


def check_place(ws: Workspace, what: str, path: str | None) -> None:
    """Refuse a place at which no file can be, or only the ledger's and the store's own. Raises UsageError."""
    if path is None:
        return
    place = Path(os.path.normpath(ws.root / path))
    if place.is_dir():
        raise UsageError(f"{what} {path} is a folder")
    above = _nearest(place.parent)
    if not above.is_dir():
        raise UsageError(f"{what} {path} cannot be written: {above} is no folder")
    store = [] if is_bucket(ws.store.where) else [Path(ws.store.where)]
    for own in (ws.home / "objects", ws.home / "locks", *store):
        if own in place.parents:
            raise UsageError(f"{what} {path} lies in {own}, which is the launcher's own")
    if place.parent == ws.home and place.name.startswith("ledger.db"):
        raise UsageError(f"{what} {path} is the ledger's own file")


def _nearest(place: Path) -> Path:
    """``place``, or the nearest above it that is there."""
    return next((p for p in (place, *place.parents) if os.path.lexists(p)), place)
