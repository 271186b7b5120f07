"""Local run folders that the store can rebuild, removed.

Rules:

1. A folder goes only if everything in it is safe (``folder_survey``); else all of it stays, and the first reason is
   said.
2. The ledger hears of it first (``RunFolderRetired``): from then on nobody misses or writes its documents, and the
   store's garbage collection counts the run as young. Then what open runs need is looked at once more, since one
   may have begun meanwhile, and every blob is seen in its place, or brought back to it from the trash.
3. A file is removed only while it is the very file that was hashed. Whatever came since stays, and its folders.
   So a kill leaves files that are all safe; the next time goes on with them.
4. ``restore`` and a removal of the same folder wait for each other (``folder_lock``), and so do the documents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from launcher.agent.protocol import machine_id
from launcher.errors import UnavailableError
from launcher.folder_survey import Folder, change_since, identity_of, reason_to_keep
from launcher.storage.durable import sync_folder
from launcher.target import locked
from launcher.workspace import Workspace
from ledger import events as e

__all__ = ["folder_lock", "remove", "take_back"]

_THREADS: Final = 8


@contextmanager
def folder_lock(ws: Workspace, run_id: str) -> Iterator[None]:
    """Nobody else removes or restores the run's folder meanwhile. Raises UnavailableError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(ws.locks / f"{run_id}.folder.lock", 0))
        except UnavailableError as exc:
            raise UnavailableError(
                f"the folder of run {run_id} is held by a restore or a gc: {exc.message}",
                "run it again",
            ) from exc
        yield


def remove(ws: Workspace, folder: Folder, is_driven: Callable[[str], bool]) -> Folder:
    """Remove a folder that was found safe. Returns it, with the reason where it (or a part of it) stayed.

    Raises UnavailableError: another process has its lock, or the ledger or disk does not answer.
    """
    with folder_lock(ws, folder.run_id), ws.documents.holding(folder.run_id):
        try:
            why = change_since(ws, folder, is_driven)
            if why is None:
                _retire(ws, folder)
                why = reason_to_keep(ws, folder.run_id, is_driven) or _gone_by_now(ws, folder)
                if why is not None:
                    take_back(ws, folder.run_id, folder.path)
            if why is None:
                why = _unlink(folder)
        except OSError as exc:
            what = f"{exc.filename or folder.path}: {exc.strerror}"
            raise UnavailableError(what, "run it again") from exc
    return replace(folder, kept_because=why)


def _gone_by_now(ws: Workspace, folder: Folder) -> str | None:
    """Why the store cannot rebuild the folder any more; None where every blob is in its place."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for digest, blob in zip(
            folder.digests, pool.map(ws.store.recover, folder.digests), strict=True
        ):
            if blob is None:
                return f"blob {digest} is not in the store any more"
    return None


def _retire(ws: Workspace, folder: Folder) -> None:
    """Say that the folder is not kept any more, unless this machine said so before and was interrupted."""
    here = machine_id()
    while True:
        last = ws.documents.folders.last(folder.run_id)
        if (
            last is not None
            and isinstance(last.data, e.RunFolderRetired)
            and last.data.machine_id == here
        ):
            return
        ws.journal.record_storage(
            e.RunFolderRetired(
                run_id=folder.run_id,
                folder=str(folder.path),
                machine_id=here,
                files=folder.files,
                size_bytes=folder.size_bytes,
                follows=last.id if last is not None else None,
            )
        )


def take_back(ws: Workspace, run_id: str, path: Path) -> None:
    """Say that a retired folder is kept again."""
    last = ws.documents.folders.last(run_id)
    if last is not None and isinstance(last.data, e.RunFolderRetired):
        ws.journal.record_storage(
            e.RunFolderRestored(
                run_id=run_id, folder=str(path), machine_id=machine_id(), follows=last.id
            )
        )


def _unlink(folder: Folder) -> str | None:
    """Remove every file that is what it was, then the empty folders. Returns why something stayed."""
    for name, seen in folder.seen.items():
        place = folder.path / name
        with suppress(FileNotFoundError):
            if identity_of(place.lstat()) != seen:
                return f"{name} changed while it was removed; launcher restore brings the rest back"
            place.unlink()
    for where, _, _ in os.walk(folder.path, topdown=False):
        try:
            Path(where).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            if any(True for _ in os.scandir(where)):
                what = f"something came into {where} while it was removed"
                return f"{what}; launcher restore brings the rest back"
            raise
    with suppress(FileNotFoundError):
        sync_folder(folder.path.parent)
    return None
