"""Which local run folders the store can rebuild: each one looked at, and the first reason why one stays.

A folder is safe only if everything in it is: a file that hashes to what the store has of it, a document that the
ledger rebuilds, a log that is stored, a link to such a file in it. What killed writers of ours left is nothing.
It stays where the run is open or driven, or where somebody may still open a file in it. Reads only.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.errors import LauncherError, UnavailableError
from launcher.project import is_file_target
from launcher.run_contents import DOCUMENTS, Contents, Kept, contents_of, same_bytes
from launcher.run_folders import folder_of
from launcher.storage.bucket_url import is_bucket
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.projections.runs import fold_runs

__all__ = ["Folder", "Identity", "change_since", "identity_of", "reason_to_keep", "survey_folders"]

#: What killed writers leave: a document's copy (``documents.write_atomically``), a blob's (``fetch_blob``).
_ID: Final = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LEFT: Final = re.compile(
    rf"(metadata/)?\.(metadata\.json|relabel_tags\.json|promotion\.json|storage_alert\.txt)\.{_ID}\.tmp"
    rf"|(.*/)?\.tmp-{_ID}"
)

Identity = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A run's folder here. ``kept_because`` is the first reason why it stays; None: all of it is safe.

    ``seen`` is what each path in it was when it was found safe, ``digests`` the blobs that make it so.
    """

    run_id: str
    path: Path
    files: int
    size_bytes: int
    kept_because: str | None
    seen: Mapping[str, Identity] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()


def survey_folders(
    ws: Workspace,
    is_driven: Callable[[str], bool],
    *,
    ended_before: float | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Folder]:
    """Every run folder of this ledger that is here, in the order of the runs; reads only.

    ``ended_before``: epoch seconds; runs that ended later keep theirs. ``say`` hears which one is looked at.
    """
    runs = fold_runs(ws.ledger.read_all())
    needed = _needed(ws, runs)
    found = []
    for state in runs.values():
        if state.request is None or not os.path.lexists(folder_of(state.request)):
            continue
        if say is not None:
            say(state.run_id)
        found.append(_look(ws, state, needed, is_driven, ended_before))
    return found


def _look(
    ws: Workspace,
    state: RunState,
    needed: Mapping[str, str],
    is_driven: Callable[[str], bool],
    ended_before: float | None = None,
) -> Folder:
    """One folder. ``needed``: absolute paths that must stay, and why. Raises UnavailableError (the store)."""
    assert state.request is not None
    path = folder_of(state.request)
    reason = _reason(state, path, needed, is_driven, ended_before)
    if reason is not None:
        return Folder(state.run_id, path, 0, 0, reason)
    try:
        return _examined(ws, state, path)
    except UnavailableError:
        raise
    except LauncherError as exc:
        return Folder(state.run_id, path, 0, 0, exc.message)
    except OSError as exc:
        return Folder(state.run_id, path, 0, 0, f"{exc.filename or path}: {exc.strerror}")


def _needed(ws: Workspace, runs: Mapping[str, RunState]) -> dict[str, str]:
    """Absolute paths that somebody may open, by path, and who."""
    needed: dict[str, str] = {}
    for state in runs.values():
        request = state.request
        if state.status != "open" or request is None:
            continue
        paths = [one.path for one in request.given]
        paths += [p for p in (request.relabel_tag_file, request.config.path) if p]
        for path in paths:
            place = os.path.normpath(Path(request.project_root, path))
            needed[place] = f"run {state.run_id}, which is open, needs {path}"
    for name in ws.journal.pointer_names():
        if is_file_target(name):
            needed[os.path.normpath(ws.root / name)] = f"the target {name} lies in it"
        for intent in ws.journal.pointer(name).open.values():
            run_id = intent.generation.run_id
            half_done = runs.get(run_id or "")
            if half_done is not None and half_done.request is not None:
                needed[str(folder_of(half_done.request))] = f"a promotion of {name} is half done"
    for what, place in (("home", str(ws.home)), ("store", ws.store.where)):
        if not is_bucket(place):
            needed[os.path.normpath(place)] = f"the {what} lies in it"
    return needed


def _reason(
    state: RunState,
    path: Path,
    needed: Mapping[str, str],
    is_driven: Callable[[str], bool],
    ended_before: float | None,
) -> str | None:
    """Why a folder stays, whatever is in it."""
    if state.status == "open" or state.ended_at is None:
        return "the run is open"
    if is_driven(state.run_id):
        return "a launcher is at work on the run"
    if ended_before is not None and clock.parse_time(state.ended_at).timestamp() > ended_before:
        return f"the run ended only at {state.ended_at}"
    if path.is_symlink() or not path.is_dir():
        return "it is a symlink" if path.is_symlink() else "it is no folder"
    places = {os.path.normpath(path), os.path.realpath(path)}
    for place, why in needed.items():
        if any(
            Path(real).is_relative_to(own)
            for real in {place, os.path.realpath(place)}
            for own in places
        ):
            return why
    return None


def _examined(ws: Workspace, state: RunState, path: Path) -> Folder:
    contents = contents_of(state, ws.ledger, ws.store)
    papers = ws.documents.inside(state)
    blobs: dict[str, bool] = {}
    seen: dict[str, Identity] = {}
    total = 0
    for name, found in _walk(path):
        seen[name] = identity_of(found)
        why = _unsafe(ws, path, name, found, contents, papers, blobs)
        if why is not None:
            return Folder(state.run_id, path, 0, 0, f"{name} {why}")
        if identity_of((path / name).lstat()) != seen[name]:
            return Folder(state.run_id, path, 0, 0, f"{name} is being written")
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return Folder(state.run_id, path, len(seen), total, None, seen, frozenset(blobs))


def _unsafe(
    ws: Workspace,
    top: Path,
    name: str,
    found: os.stat_result,
    contents: Contents,
    papers: Mapping[str, bytes],
    blobs: dict[str, bool],
) -> str | None:
    """Why a file may not go; None where the store or the ledger can put it back."""
    file = top / name
    if stat.S_ISLNK(found.st_mode):
        file = Path(os.path.realpath(file))
        if not file.is_relative_to(os.path.realpath(top)):
            return "is a symlink that leaves it"
        if file.is_dir():
            return None  # what it leads to is looked at where it lies
    elif not stat.S_ISREG(found.st_mode):
        return "is neither a file nor a folder"
    if name in DOCUMENTS:
        same = name in papers and file.read_bytes() == papers[name]
        return None if same else "is not what the ledger says"
    if _LEFT.fullmatch(name):
        return None
    kept = contents.files.get(name)
    if kept is None:
        return "is in no stage's outputs"
    if not file.is_file() or not same_bytes(file, kept):
        return "is not what its stage left"
    if kept.digest not in blobs:
        blobs[kept.digest] = _is_stored(ws, kept, file.stat().st_size)
    return None if blobs[kept.digest] else "is not in the store any more"


def _is_stored(ws: Workspace, kept: Kept, size_bytes: int) -> bool:
    """Whether the store has the bytes: a bucket guards what it has by itself, a folder is read again."""
    blob = ws.store.stat_blob(kept.digest)
    if blob is None or blob.size_bytes != size_bytes:
        return False
    if not is_bucket(ws.store.where):
        ws.store.verify_blob(kept.digest)
    return True


def _walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path in it, POSIX; what it is) of everything under ``top`` that is no folder; links are not followed."""
    todo = [""]
    while todo:
        prefix, folders = todo.pop(), []
        with os.scandir(top / prefix) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{prefix}{entry.name}/")
                else:
                    # From the path: what scandir noted may be older.
                    yield prefix + entry.name, (top / prefix / entry.name).lstat()
        todo += reversed(folders)


def identity_of(found: os.stat_result) -> Identity:
    """What tells a file from any other, and from itself after a change."""
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def reason_to_keep(ws: Workspace, run_id: str, is_driven: Callable[[str], bool]) -> str | None:
    """Why a run's folder stays whatever is in it, as the ledger has it now; None where nothing says so."""
    return _reason(*_situation(ws, run_id), is_driven, None)


def _situation(ws: Workspace, run_id: str) -> tuple[RunState, Path, dict[str, str]]:
    """The run, its folder, and what is needed: as the ledger has it now."""
    runs = fold_runs(ws.ledger.read_all())
    state = runs[run_id]
    assert state.request is not None
    return state, folder_of(state.request), _needed(ws, runs)


def change_since(ws: Workspace, folder: Folder, is_driven: Callable[[str], bool]) -> str | None:
    """Why a folder that was safe at the last look is not now; its documents' lock is held. Raises OSError."""
    state, path, needed = _situation(ws, folder.run_id)
    why = _reason(state, path, needed, is_driven, None)
    if why is not None:
        return why
    papers = ws.documents.inside(state)
    now = {name: identity_of(found) for name, found in _walk(path)}
    for name in sorted(now):
        document = name in DOCUMENTS and (path / name).read_bytes() != papers.get(name)
        if document or folder.seen.get(name) != now[name]:
            return f"{name} has changed since it was looked at"
    return None
