"""A project's code as one blob: a tar, the same bytes for the same files wherever it is packed.

Regular files and symlinks only, in the order of their paths, without times and owners; a file may be run or not.
A tar is somebody else's word: nothing of it lands outside of the folder that it is for.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import IntegrityError, UnavailableError, UsageError
from launcher.storage.placing import place_of

__all__ = ["pack", "unpack"]


def pack(root: Path, paths: Iterable[str], out: Path) -> None:
    """Write the tar of ``paths``, relative to ``root``, to the file ``out``.

    Raises UsageError for what is neither a file nor a symlink, UnavailableError.
    """
    try:
        with tarfile.open(out, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
            for path in sorted(set(paths)):
                place = root / path
                mode = place.lstat().st_mode
                member = tarfile.TarInfo(path)
                if stat.S_ISLNK(mode):
                    member.type, member.mode = tarfile.SYMTYPE, 0o777
                    member.linkname = os.readlink(place)  # noqa: PTH115 - as it was written
                    tar.addfile(member)
                elif stat.S_ISREG(mode):
                    member.mode = 0o755 if mode & 0o100 else 0o644
                    with place.open("rb") as file:
                        member.size = os.fstat(file.fileno()).st_size
                        tar.addfile(member, file)
                else:
                    raise UsageError(f"{path} is neither a file nor a symlink")
    except OSError as exc:
        raise UnavailableError(f"{exc.filename or out}: {exc.strerror or exc}") from exc


def unpack(packed: Path, folder: Path) -> int:
    """Bring the files of the tar ``packed`` into ``folder``; returns how many. What is there under a name goes.

    Raises IntegrityError for a tar that is none, or of which something would land elsewhere; OSError.
    """
    count = 0
    try:
        with tarfile.open(packed, "r:*", encoding="utf-8") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not (member.isreg() or member.issym()):
                    raise IntegrityError(f"{member.name} in the code is no file")
                place = place_of(folder, member.name)
                if place.is_symlink() or place.is_file():
                    place.unlink()
                place.parent.mkdir(parents=True, exist_ok=True)
                _unpack_one(tar, member, place)
                count += 1
    except tarfile.TarError as exc:
        raise IntegrityError(f"the code is no tar that can be unpacked here: {exc}") from exc
    return count


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    """By hand: tarfile's own filters are younger than the Python of some systems that this runs on."""
    if member.issym():
        above = posixpath.dirname(member.name)
        target = posixpath.normpath(posixpath.join(above, member.linkname))
        if member.linkname.startswith("/") or target.split("/")[0] == "..":
            raise IntegrityError(f"{member.name} in the code leads out of it")
        place.symlink_to(member.linkname)
        return
    source = tar.extractfile(member)
    assert source is not None
    with source, place.open("xb") as out:
        shutil.copyfileobj(source, out, 1024 * 1024)
    place.chmod(0o755 if member.mode & 0o100 else 0o644)
