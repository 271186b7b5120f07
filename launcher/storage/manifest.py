"""What a stage left: a sorted list of (path, digest, size_bytes), itself a blob.

Rules:

1. Paths are relative to the run's folder, POSIX, sorted by code point.
2. New or changed files are listed against the manifests of the stages before; files that those listed
   and that are gone are ``deleted``.
3. A symlink to a file or folder inside the run's folder counts as what it names. One that leaves it,
   dangles or leads to a folder around it, a device, a pipe, a socket, or a name that is not UTF-8 is
   refused: the attempt fails with cause ``outputs``. What is excluded is not looked at.
4. Nothing is ever opened as a checkpoint here: files are bytes, never unpickled.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from launcher.errors import LauncherError, UsageError
from launcher.storage.blobs import digest_file
from launcher.storage.port import BlobInfo
from ledger.canonical import canonical_json
from ledger.errors import LedgerError
from ledger.ids import check_digest

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
#: Storing a file waits for the disk or the network, not for us.
_THREADS: Final = 8


class OutputsRefusedError(LauncherError):
    """An output may not be collected; ``path`` is relative to the run's folder."""

    exit_code = 2

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"output {_shown(path)}: {why}")
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
        """The manifest that ``to_bytes`` wrote. Raises ValueError for anything that it would not write."""
        try:
            raw = json.loads(data)
            entries = tuple(Entry(f["path"], f["digest"], f["size_bytes"]) for f in raw["files"])
            manifest = cls(entries, tuple(raw["deleted"]))
            for entry in entries:
                check_digest(entry.digest)
            paths = [entry.path for entry in entries]
            whole = manifest.to_bytes() == data
        except (KeyError, TypeError, LedgerError) as exc:
            raise ValueError(f"no manifest: {exc}") from exc
        ascending = all(sorted(set(p)) == list(p) for p in (paths, manifest.deleted))
        if not (whole and ascending and all(map(_inside, (*paths, *manifest.deleted)))):
            raise ValueError(
                "no manifest: not canonical, or with paths that leave the run's folder"
            )
        return manifest


def _inside(path: str) -> bool:
    return bool(path) and not any(part in ("", ".", "..") for part in path.split("/"))


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
    """Ingest what is new or changed under ``run_dir``, several files at once: threads call ``ingest``.

    ``excludes`` are gitignore patterns; ``ignore`` names paths that are not a stage's own (documents,
    logs of other attempts), relative to ``run_dir``.
    Raises OutputsRefusedError, UsageError (a pattern that does not parse) and what ``ingest`` raises.
    """
    skip = _patterns(excludes)
    found = {p: f for p, f in _files(run_dir, skip) if p not in ignore}

    def entry(path: str) -> Entry | None:
        """What is to be listed of a file; None where it is what it was."""
        file, known = found[path], previous.get(path)
        if known is not None and _is(file, known):
            return None
        blob = ingest(file)
        if Path(os.path.realpath(run_dir / path)) != file:
            raise OutputsRefusedError(path, "it became a symlink while it was collected")
        fresh = Entry(path, blob.digest, blob.size_bytes)
        return None if fresh == known else fresh

    entries = [e for e in _each(entry, sorted(found)) if e is not None]
    gone = sorted(p for p in previous if p not in found and not skip.match_file(p))
    return Manifest(tuple(entries), tuple(gone))


def _each(work: Callable[[str], Entry | None], paths: Sequence[str]) -> Iterator[Entry | None]:
    """``work`` done to each path, in order; the first error ends it."""
    if len(paths) < _THREADS:
        yield from map(work, paths)
        return
    from concurrent.futures import ThreadPoolExecutor  # here, because a stage waits for this module

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield from pool.map(work, paths)
        finally:
            pool.shutdown(cancel_futures=True)


def _is(file: Path, known: Entry) -> bool:
    """Whether a file is still what an earlier stage left, so that its bytes are in the store."""
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return False
    return size == known.size_bytes and digest_file(file).digest == known.digest


def _patterns(lines: Sequence[str]) -> Any:
    import pathspec  # here, because a stage waits for this module

    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as exc:
        raise UsageError(f"no gitignore pattern: {exc}") from exc


def _files(run_dir: Path, skip: Any) -> Iterator[tuple[str, Path]]:
    """(path, the real file) of everything under ``run_dir`` that ``skip`` does not match."""
    top = os.path.realpath(run_dir)
    folders = [("", top, frozenset({top}))]
    while folders:
        prefix, folder, around = folders.pop()
        for name in _names(folder, prefix):
            path = prefix + name
            real = f"{folder}/{name}"
            mode = _mode(real, path, skip)
            if mode is None:
                continue
            if stat.S_ISLNK(mode):
                real, mode = _followed(real, path, top)
            if stat.S_ISDIR(mode):
                if real in around:
                    raise OutputsRefusedError(path, "a symlink to a folder around it")
                folders.append((path + "/", real, around | {real}))
            elif stat.S_ISREG(mode):
                yield _utf8(path), Path(real)
            else:
                raise OutputsRefusedError(path, "neither a file nor a folder")


def _names(folder: str, prefix: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise OutputsRefusedError(prefix, f"cannot be read: {exc.strerror}") from exc


def _mode(real: str, path: str, skip: Any) -> int | None:
    """The type of what lies there, links not followed; None where it is excluded, or gone by now."""
    try:
        mode = os.lstat(real).st_mode
    except FileNotFoundError:
        return None
    excluded = skip.match_file(path + "/" if stat.S_ISDIR(mode) else path)
    return None if excluded else mode


def _followed(link: str, path: str, top: str) -> tuple[str, int]:
    """Where a symlink leads, and of which type that is."""
    real = os.path.realpath(link)
    if os.path.commonpath([top, real]) != top:
        raise OutputsRefusedError(path, f"a symlink that leaves the run's folder ({_shown(real)})")
    try:
        mode = Path(real).stat().st_mode
    except OSError:
        raise OutputsRefusedError(path, "a symlink that leads nowhere") from None
    return real, mode


def _utf8(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise OutputsRefusedError(path, "its name is not UTF-8") from None
    return path


def _shown(path: str) -> str:
    """A path for one line of a screen: bytes that are no text, and control characters, escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def select_student(
    paths: Iterable[str], run_dir: Path, pattern: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """The newest matching checkpoint among ``paths`` (relative to ``run_dir``), and the others that matched.

    A match lies under checkpoints/ and has a checkpoint's suffix; ``pattern`` narrows, in gitignore syntax,
    by its path under checkpoints/ or under the run's folder: ``best-*.pt`` in any folder, ``final/*.pt``,
    ``checkpoints/*.pt``. Newest by mtime_ns, ties by name, later wins. Hidden and half-written names never
    match. Raises UsageError for a pattern that does not parse.
    """
    matching = [p for p in paths if is_checkpoint(p)]
    if pattern:
        narrowed = _patterns([pattern])
        names = {p: (p, p.removeprefix("checkpoints/")) for p in matching}
        matching = [p for p in matching if any(map(narrowed.match_file, names[p]))]
    matching.sort(key=lambda p: (_modified_ns(run_dir / p), p))
    return (matching[-1], tuple(matching[:-1])) if matching else (None, ())


def is_checkpoint(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") for part in parts)
    name = parts[-1].lower()
    return (
        parts[0] == "checkpoints"
        and not hidden
        and name.endswith(CHECKPOINT_SUFFIXES)
        and not name.endswith(_UNFINISHED)
    )


def _modified_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return -1  # its bytes are stored, its time went with it
