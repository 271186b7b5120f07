"""A run's folder rebuilt from the store: every file verified, there whole or not at all.

Rules:

1. All is looked at before anything is written: a file that is there and differs ends it (unless forced), and then
   nothing was changed. Equal files are left alone, so that running it again goes on where it ended.
2. Nothing is written outside the folder, nor through a symlink in it (``run_contents.place_of``); a tag file that
   lies elsewhere in the project is brought back too, one outside of the project only named.
3. What the store does not keep does not come back: times are those of the stages' ends, modes the usual ones, a
   symlink is a copy of what it led to.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.documents import write_atomically
from launcher.errors import ConflictError, IntegrityError, UnavailableError
from launcher.places import make_folders
from launcher.run_contents import Contents, Kept, place_of, same_bytes
from launcher.storage.port import BlobDamagedError, BlobMissingError, ObjectStore, Progress

__all__ = ["Restored", "restore_folder"]

#: Fetching waits for the disk or the network, not for us.
_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Restored:
    """``written`` and ``equal`` count files; ``size_bytes`` those written."""

    folder: Path
    written: int
    equal: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    top: Path
    path: str
    kept: Kept

    @property
    def place(self) -> Path:
        return self.top.joinpath(*self.path.split("/"))


def restore_folder(
    contents: Contents,
    store: ObjectStore,
    folder: Path,
    *,
    tag_file: tuple[Path, str] | None = None,
    documents: Mapping[str, bytes] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Bring a run's files back into ``folder``. ``documents`` by path in it; ``tag_file``: (folder, path in it).

    ``progress`` hears how many bytes of how many are there, from any thread, one call at a time.
    Raises ConflictError (something else is there), IntegrityError, UnavailableError; run again, it goes on.
    """
    top = Path(os.path.realpath(folder))
    wanted = [_Wanted(top, path, kept) for path, kept in sorted(contents.files.items())]
    if tag_file is not None and contents.tag_file is not None:
        inside, name = tag_file
        wanted.append(_Wanted(Path(os.path.realpath(inside)), name, contents.tag_file[1]))
    try:
        todo = _missing(wanted, force=force)
        papers = _papers(top, documents or {}, force=force)
        top.mkdir(parents=True, exist_ok=True)
        make_folders(top)
        _fetch(todo, store, progress)
    except OSError as exc:
        raise UnavailableError(f"{exc.filename or folder}: {exc.strerror}") from exc
    for place, data in papers:
        write_atomically(place, data)
    written = sum(one.place.stat().st_size for one in todo)
    return Restored(top, len(todo), len(wanted) - len(todo), written)


def _missing(wanted: Sequence[_Wanted], *, force: bool) -> list[_Wanted]:
    """Those that are to be written. Raises ConflictError, naming the first that differs."""
    todo, differing = [], []
    for one in wanted:
        how = _compared(one)
        if how == "equal":
            continue
        todo.append(one)
        if how == "differs":
            differing.append(one.place)
    if differing and not force:
        raise _Differs(differing)
    return todo


class _Differs(ConflictError):
    """Files that are there and are not what the run left; the first is named."""

    def __init__(self, places: Sequence[Path]) -> None:
        more = f", nor are {len(places) - 1} more" if len(places) > 1 else ""
        super().__init__(
            f"{places[0]} is there and is not what the run left{more}",
            "nothing was changed; --force replaces it",
        )


def _compared(one: _Wanted) -> str:
    """``absent``, ``equal`` or ``differs``."""
    place = place_of(one.top, one.path)
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return "absent"
    if stat.S_ISDIR(mode):
        raise ConflictError(f"{place} is a folder", "a file of the run belongs there")
    if stat.S_ISLNK(mode):
        real = Path(os.path.realpath(place))
        if not (real.is_relative_to(one.top) and real.is_file()):
            return "differs"
        return "equal" if same_bytes(real, one.kept) else "differs"
    return "equal" if stat.S_ISREG(mode) and same_bytes(place, one.kept) else "differs"


def _papers(top: Path, documents: Mapping[str, bytes], *, force: bool) -> list[tuple[Path, bytes]]:
    todo, differing = [], []
    for path, data in documents.items():
        place = place_of(top, path)
        if os.path.lexists(place):
            if place.is_file() and not place.is_symlink() and place.read_bytes() == data:
                continue
            differing.append(place)
        todo.append((place, data))
    if differing and not force:
        raise _Differs(differing)
    return todo


def _fetch(todo: Sequence[_Wanted], store: ObjectStore, progress: Progress | None) -> None:
    """Several files at once; the first error ends it, and what is there by then stays."""
    total = sum(one.kept.size_bytes or 0 for one in todo)
    done, sum_done = [0] * len(todo), 0
    lock = threading.Lock()

    def fetch(number: int) -> None:
        one = todo[number]

        def hear(size: int, _of: int) -> None:
            nonlocal sum_done
            with lock:
                sum_done += size - done[number]
                done[number] = size
                if progress is not None:
                    progress(sum_done, max(total, sum_done))

        # Looked at again: it must not have become a symlink meanwhile.
        place = place_of(one.top, one.path)
        try:
            store.fetch_blob(one.kept.digest, place, hear)
        except (BlobMissingError, BlobDamagedError) as exc:
            raise IntegrityError(f"{one.path}: {exc.message}", "launcher audit") from exc
        if one.kept.time is not None:
            moment = clock.parse_time(one.kept.time).timestamp()
            os.utime(place, (moment, moment))

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(fetch, range(len(todo))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
