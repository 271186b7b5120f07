"""What a stage left: a sorted list of (path, digest, size_bytes), itself a blob.

Rules:

1. Paths are relative to the run's folder, POSIX, sorted by code point.
2. New or changed files are listed against the manifests of the stages before; files that those listed
   and that are gone are ``deleted``.
3. A symlink to a file inside the run's folder counts as that file. One that leaves it, a device, a
   socket, or a name that is not UTF-8 is refused: the attempt fails with cause ``outputs``.
4. Nothing is ever opened as a checkpoint here: files are bytes, never unpickled.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from launcher.errors import LauncherError
from launcher.storage.port import BlobInfo
from ledger.canonical import canonical_json

__all__ = [
    "CHECKPOINT_SUFFIXES",
    "Entry",
    "Manifest",
    "OutputsRefusedError",
    "collect",
    "merged",
    "select_student",
]

CHECKPOINT_SUFFIXES: Final = (".pt", ".pth", ".safetensors", ".ckpt")
#: Half-written files, by the names that trainers give them.
_UNFINISHED: Final = (".tmp", ".part", ".partial", ".incomplete")


class OutputsRefusedError(LauncherError):
    """An output may not be collected; ``path`` is relative to the run's folder."""

    exit_code = 2

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"output {path}: {why}")
        self.path, self.why = path, why


@dataclass(frozen=True, slots=True)
class Entry:
    """One output. ``path`` relative to the run's folder, POSIX."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Entries ascending by path; ``deleted`` ascending."""

    entries: tuple[Entry, ...] = ()
    deleted: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON: {"files": [{"digest", "path", "size_bytes"}], "deleted": []}."""
        files = [
            {"path": e.path, "digest": e.digest, "size_bytes": e.size_bytes} for e in self.entries
        ]
        return canonical_json({"files": files, "deleted": list(self.deleted)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest that ``to_bytes`` wrote. Raises ValueError."""
        try:
            raw = json.loads(data)
            return cls(
                tuple(Entry(f["path"], f["digest"], f["size_bytes"]) for f in raw["files"]),
                tuple(raw["deleted"]),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"no manifest: {exc}") from exc


def merged(manifests: Iterable[Manifest]) -> dict[str, Entry]:
    """What lies in a run's folder after these stages, oldest first, by path."""
    state: dict[str, Entry] = {}
    for manifest in manifests:
        for path in manifest.deleted:
            state.pop(path, None)
        state |= {entry.path: entry for entry in manifest.entries}
    return state


def collect(
    run_dir: Path,
    previous: Mapping[str, Entry],
    ingest: Callable[[Path], BlobInfo],
    *,
    excludes: Sequence[str] = (),
    ignore: Collection[str] = (),
) -> Manifest:
    """Ingest what is new or changed under ``run_dir``. Raises OutputsRefusedError and what ``ingest`` raises.

    ``excludes`` are gitignore patterns; ``ignore`` names paths that are not a stage's own (documents,
    logs of other attempts), relative to ``run_dir``.
    """
    import pathspec  # here, because a stage waits for this module

    skip = pathspec.GitIgnoreSpec.from_lines(excludes)
    found: dict[str, Path] = {}
    for path, file in _files(run_dir):
        if path not in ignore and not skip.match_file(path):
            found[path] = file
    entries = []
    for path in sorted(found):
        blob = ingest(found[path])
        entry = Entry(path, blob.digest, blob.size_bytes)
        if previous.get(path) != entry:
            entries.append(entry)
    gone = sorted(p for p in previous if p not in found and not skip.match_file(p))
    return Manifest(tuple(entries), tuple(gone))


def _files(run_dir: Path) -> Iterable[tuple[str, Path]]:
    inside = os.path.realpath(run_dir)
    for where, folders, names in os.walk(run_dir):
        for name in [*names, *(f for f in folders if Path(where, f).is_symlink())]:
            file = Path(where, name)
            path = _printable(file.relative_to(run_dir).as_posix())
            if file.is_symlink():
                real = os.path.realpath(file)
                if os.path.commonpath([inside, real]) != inside:
                    raise OutputsRefusedError(
                        path, f"a symlink that leaves the run's folder ({real})"
                    )
                if not Path(real).is_file():
                    raise OutputsRefusedError(path, "a symlink that leads to no file")
                yield path, Path(real)
            elif file.is_file():
                yield path, file
            else:
                raise OutputsRefusedError(path, "neither a file nor a folder")


def _printable(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise OutputsRefusedError(shown, "its name is not UTF-8") from None
    return path


def select_student(
    paths: Iterable[str], run_dir: Path, pattern: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """The newest matching checkpoint among ``paths`` (relative to ``run_dir``), and the others that matched.

    A match lies under checkpoints/ and has a checkpoint's suffix; ``pattern`` narrows by its path under
    checkpoints/ or under the run's folder. Newest by mtime_ns, ties by name, later wins. Hidden and
    half-written names never match.
    """
    matching = [p for p in paths if _is_checkpoint(p) and _fits(p, pattern)]
    matching.sort(key=lambda p: ((run_dir / p).stat().st_mtime_ns, p))
    return (matching[-1], tuple(matching[:-1])) if matching else (None, ())


def _is_checkpoint(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts)
    name = parts[-1].lower()
    return (
        parts[0] == "checkpoints"
        and not hidden
        and name.endswith(CHECKPOINT_SUFFIXES)
        and not name.endswith(_UNFINISHED)
    )


def _fits(path: str, pattern: str | None) -> bool:
    if not pattern:
        return True
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(
        path.removeprefix("checkpoints/"), pattern
    )
