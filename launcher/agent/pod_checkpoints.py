"""Which checkpoints of a running command are finished, as far as that can be seen from beside it.

Rules:

1. A checkpoint is looked at as bytes: never opened as one, never unpickled.
2. One that says where it ends (a zip, as torch writes it, or safetensors) is not finished before it ends there.
3. It is finished when it was renamed into place, or has not changed for the quiet time. A rename shows in the
   file's times where it comes after the last byte; where it does not, the quiet time decides.
4. When the command is gone, a file that says where it ends is finished if it ends there. One of which nobody
   can tell is finished only if it was quiet, or if the command ended by itself.
"""

from __future__ import annotations

import json
import os
import stat
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher.errors import UsageError
from launcher.storage.manifest import select_student

__all__ = ["Finished", "Watch", "structure"]

_HEADER_LIMIT_BYTES: Final = 2 * 1024 * 1024

Stood = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A checkpoint that may be saved. ``stood`` tells whether it is still the same."""

    path: str
    file: Path
    stood: Stood

    @property
    def modified_ns(self) -> int:
        return self.stood[3]


@dataclass
class Watch:
    """Looks at ``run_dir``'s checkpoints again and again; remembers since when each has been as it is."""

    run_dir: Path
    quiet_seconds: float
    now: Callable[[], float] = time.monotonic
    _since: dict[str, tuple[Stood, float]] = field(default_factory=dict)

    def look(self, *, gone: bool = False, ended_well: bool = False) -> list[Finished]:
        """Those that are finished, newest first. ``gone``: nothing of the command runs any more."""
        moment, finished, seen = self.now(), [], dict[str, tuple[Stood, float]]()
        for path in self._paths():
            file = self.run_dir / path
            stood = standing(file)
            if stood is None:
                continue
            known = self._since.get(path)
            since = known[1] if known and known[0] == stood else moment
            seen[path] = (stood, since)
            whole = structure(file) if stood[2] else False
            if whole is False:
                continue
            quiet = moment - since >= self.quiet_seconds
            renamed = whole is True and stood[4] > stood[3]
            if quiet or renamed or (gone and (whole or ended_well)):
                finished.append(Finished(path, file, stood))
        self._since = seen
        return sorted(finished, key=lambda one: (one.modified_ns, one.path), reverse=True)

    def _paths(self) -> list[str]:
        """Checkpoints by their names, in the run's folder itself and not behind a link."""
        top = os.path.realpath(self.run_dir)
        names = []
        for folder, _, files in os.walk(f"{top}/checkpoints"):
            for name in files:
                path = os.path.relpath(f"{folder}/{name}", top)
                if path.isprintable():
                    names.append(path)
        newest, others = select_student(names, self.run_dir, None)
        return [newest, *others] if newest else []


def standing(file: Path) -> Stood | None:
    """What tells one state of a regular file from another; None where there is none."""
    try:
        found = file.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def structure(file: Path) -> bool | None:
    """Whether the file ends where it says that it ends; None where it does not say. Raises UsageError, OSError."""
    try:
        if file.suffix.lower() == ".safetensors":
            return _safetensors(file)
        with file.open("rb") as opened:
            if opened.read(4) != b"PK\x03\x04":
                return None
        return zipfile.is_zipfile(file)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc


def _safetensors(file: Path) -> bool | None:
    """A header's length, the header, and the bytes that it speaks of."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or size < 8 + length:
            return False
        if length > _HEADER_LIMIT_BYTES:
            return None
        try:
            header = json.loads(opened.read(length))
            ends = [
                one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"
            ]
            return bool(size == 8 + length + max(ends, default=0))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            return False
