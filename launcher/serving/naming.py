"""What a checkpoint's file is called in a folder, where nothing but the store is there to ask."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from launcher.errors import IntegrityError, UsageError
from launcher.executors.port import StageResult
from launcher.storage.manifest import CHECKPOINT_SUFFIXES, Manifest
from launcher.storage.port import ObjectStore
from ledger.events import Generation

__all__ = ["name_in_folder"]

_RESULT: Final = "/result.json"


def name_in_folder(store: ObjectStore, body: Generation | None) -> str:
    """The pointer's last part, with the suffix that the run gave its checkpoint.

    Raises UsageError where the store does not say what kind of file it is: a model is loaded by its suffix.
    """
    name = PurePosixPath(body.name).name if body is not None else ""
    if name.lower().endswith(CHECKPOINT_SUFFIXES):
        return name
    suffix = _suffix(store, body) if body is not None else ""
    if not suffix:
        raise UsageError(
            "the store does not say what kind of file this is", "name the file: FOLDER/NAME.pt"
        )
    return name + suffix


def _suffix(store: ObjectStore, body: Generation) -> str:
    """As the run's manifests have it; empty where none names these bytes. What cannot be read says nothing."""
    if not body.run_id:
        return ""
    keys = [i.key for i in store.list(f"runs/{body.run_id}/") if i.key.endswith(_RESULT)]
    for key in keys:
        try:
            digest = StageResult.parse(store.read(key), key).manifest_digest
            entries = Manifest.from_bytes(store.read_blob(digest)).entries if digest else ()
        except (IntegrityError, ValueError):
            continue
        for entry in entries:
            suffix = PurePosixPath(entry.path).suffix
            if entry.digest == body.digest and suffix.lower() in CHECKPOINT_SUFFIXES:
                return suffix
    return ""
