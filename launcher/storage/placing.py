"""From a path that somebody else wrote down to a file: the only way."""

from __future__ import annotations

import stat
from pathlib import Path

from launcher.errors import ConflictError, IntegrityError

__all__ = ["place_of"]


def place_of(top: Path, path: str) -> Path:
    """Where ``path`` lies under the folder ``top``, which may be a link or absent itself.

    Raises IntegrityError for a path that is none or leaves it, ConflictError where a symlink or a file is in the
    way of one of its folders.
    """
    parts = path.split("/")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise IntegrityError(f"{path!r} is no path inside a run's folder")
    place = top
    for part in parts[:-1]:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            break
        if stat.S_ISLNK(mode):
            raise ConflictError(f"{place} is a symlink", "nothing is written through it")
        if not stat.S_ISDIR(mode):
            raise ConflictError(f"{place} is no folder", "it is in the way")
    return top.joinpath(*parts)
