"""The store in a folder.

Create-only: write beside under a hidden name, fsync, ``link`` to the final name (which fails if it is
taken), fsync the folder. A reader sees the whole object or none; of many creators one wins. What a killed
writer leaves is a hidden file that no listing shows (``stale_temporaries``).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from launcher.clock import new_id
from launcher.errors import UnavailableError, UsageError
from launcher.storage.blobs import StillWrittenError, copy_and_hash, digest_bytes, open_source
from launcher.storage.durable import clone, make_folder, sync_file, sync_folder, take_name
from launcher.storage.folder_trash import FolderTrash
from launcher.storage.port import (
    TEMPORARY_PREFIX,
    BlobDamagedError,
    BlobInfo,
    BlobMissingError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    Progress,
    blob_key,
    check_key,
    trash_prefix,
)
from ledger.ids import check_digest

__all__ = ["CreateOnlyUnsupportedError", "FilesystemStore"]

#: Ingested bytes have no name until they are hashed; this key only says in which folder they wait.
_INCOMING: Final = "blobs/sha256/incoming"
_HINTS: Final = {
    errno.ENOSPC: "free some space: launcher storage",
    errno.EDQUOT: "free some space: launcher storage",
    errno.EROFS: "it is mounted read-only",
}


class CreateOnlyUnsupportedError(UsageError):
    """The folder's file system can neither link nor rename without replacing: two promoters could win."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} lies on a file system that cannot create a name only once",
            "keep the store on a local disk or NFS",
        )
        self.where = where


class FilesystemStore:
    """An ObjectStore under ``root``, which is made by the first write. Threads may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: set[Path] = set()
        self._trash = FolderTrash(root, self._make)

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.root)

    # --- objects ---

    def create(self, key: str, data: bytes) -> None:
        """See the port. Raises CreateOnlyUnsupportedError too."""
        with self._translated(key), self._beside(key) as (temporary, file):
            file.write(data)
            self._publish(temporary, file, key)

    def replace(self, key: str, data: bytes) -> None:
        """See the port."""
        with self._translated(key), self._beside(key) as (temporary, file):
            file.write(data)
            file.flush()
            sync_file(file.fileno())
            os.replace(temporary, self._path(key))
            sync_folder(temporary.parent)

    def read(self, key: str) -> bytes:
        """See the port."""
        path = self._path(key)
        with self._translated(key):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectNotFoundError(key) from None

    def exists(self, key: str) -> bool:
        """See the port."""
        found = self._stat(self._path(key), key)
        return found is not None and stat.S_ISREG(found.st_mode)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See the port. What is created or goes away meanwhile may be listed or not."""
        folder, _, _ = prefix.rpartition("/")
        start = self._path(folder) if folder else self.root
        found = []
        for path in self._walk(start):
            key = path.relative_to(self.root).as_posix()
            if (
                key.startswith(prefix)
                and key > after
                and not path.name.startswith(TEMPORARY_PREFIX)
            ):
                known = self._stat(path, key)
                if known is not None:
                    found.append(ObjectInfo(key, known.st_size, known.st_mtime))
        return iter(sorted(found, key=lambda info: info.key))

    def stale_temporaries(self) -> Iterator[ObjectInfo]:
        """Hidden files of writers that were killed, or are at work now; ``modified`` tells them apart."""
        for path in self._walk(self.root):
            if path.name.startswith(TEMPORARY_PREFIX):
                known = self._stat(path, path.name)
                if known is not None:
                    key = path.relative_to(self.root).as_posix()
                    yield ObjectInfo(key, known.st_size, known.st_mtime)

    def remove_temporaries(self, keys: Iterable[str]) -> int:
        """Remove hidden files that ``stale_temporaries`` named; returns how many went."""
        gone = 0
        for key in keys:
            path = self.root / key
            if path.name.startswith(TEMPORARY_PREFIX):
                with self._translated(key), suppress(FileNotFoundError):
                    path.unlink()
                    gone += 1
        return gone

    # --- blobs ---

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        """See the port. Raises StillWrittenError, BlobDamagedError (a truncated one is there) too."""
        for _ in range(2):
            with open_source(source) as (reader, unchanged):
                what = f"{self.where}, storing {source}"
                with self._translated(what), self._beside(_INCOMING) as (temporary, file):
                    blob = _copy(reader, file)
                    if unchanged(blob):
                        self._publish_blob(temporary, file, blob)
                        _whole(blob, progress)
                        return blob
        raise StillWrittenError(source)

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        """See the port."""
        blob = digest_bytes(data)
        if not self._has(blob):
            with (
                self._translated(blob.digest),
                self._beside(_INCOMING) as (temporary, file),
            ):
                file.write(data)
                self._publish_blob(temporary, file, blob)
        return blob

    def stat_blob(self, digest: str) -> BlobInfo | None:
        """See the port."""
        with self._translated(digest):
            for place in self._trash.places(digest):
                found = self._stat(place, digest)
                if found is not None:
                    return BlobInfo(digest, found.st_size)
        return None

    def verify_blob(self, digest: str) -> BlobInfo:
        """See the port."""
        with self._open_blob(digest) as file:
            return self._checked(digest, copy_and_hash(file))

    def read_blob(self, digest: str, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        """See the port."""
        known = self.stat_blob(digest)
        if known is None:
            raise BlobMissingError(digest, self.where)
        if known.size_bytes > limit_bytes:
            raise UsageError(f"blob {digest} has {known.size_bytes} bytes, more than {limit_bytes}")
        parts: list[bytes] = []
        with self._open_blob(digest) as file:
            self._checked(digest, copy_and_hash(file, parts.append))
        return b"".join(parts)

    def fetch_blob(self, digest: str, dest: Path, progress: Progress | None = None) -> BlobInfo:
        """See the port. Raises UsageError where ``dest`` is a folder."""
        if dest.is_dir():
            raise UsageError(f"{dest} is a folder")
        temporary = dest.with_name(f"{TEMPORARY_PREFIX}{new_id()}")
        with self._open_blob(digest) as file, self._translated(str(dest)):
            make_folder(dest.parent)
            try:
                with temporary.open("x+b") as out:
                    blob = self._checked(digest, _copy(file, out))
                    out.flush()
                    sync_file(out.fileno())
                os.replace(temporary, dest)
                sync_folder(dest.parent)
            finally:
                temporary.unlink(missing_ok=True)
        _whole(blob, progress)
        return blob

    # --- the trash ---

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
        """See the port. None is left: a folder that may not be changed is an UnavailableError."""
        with self._translated(trash_prefix(date)):
            self._trash.discard([blob.digest for blob in blobs], date)
        return {}

    def recover(self, digest: str) -> BlobInfo | None:
        """See the port."""
        if self._in_place(digest) is None:
            with self._translated(digest):
                damaged = self._trash.put_back(digest)
            if damaged:
                raise BlobDamagedError(digest, self.where, damaged)
        return self._in_place(digest)

    def trash_dates(self) -> Sequence[str]:
        """See the port."""
        with self._translated("trash"):
            return self._trash.dates()

    def trashed(self, date: str) -> Iterator[ObjectInfo]:
        """See the port."""
        prefix = trash_prefix(date)
        for info in self.list(prefix + "blobs/"):
            yield ObjectInfo(info.key.removeprefix(prefix), info.size_bytes, info.modified)

    def empty(self, date: str, digests: Sequence[str]) -> Mapping[str, str]:
        """See the port."""
        with self._translated(trash_prefix(date)):
            self._trash.empty(date, digests)
        return {}

    def clock(self) -> float:
        """See the port: what the disk stamps on a file."""
        with self._translated("a file"), self._beside(_INCOMING) as (temporary, _):
            os.utime(temporary)
            return temporary.stat().st_mtime

    def free_bytes(self) -> int | None:
        """See the port: what an unprivileged user may still write."""
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        with self._translated(self.where):
            return shutil.disk_usage(place).free

    # --- inside ---

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _stat(self, path: Path, what: str) -> os.stat_result | None:
        with self._translated(what):
            try:
                return path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _walk(self, start: Path) -> Iterator[Path]:
        """Every file under ``start``. A folder that cannot be read is no empty folder."""

        def unreadable(exc: OSError) -> None:
            if not isinstance(exc, FileNotFoundError | NotADirectoryError):
                raise exc

        with self._translated(str(start)):
            for where, _, names in os.walk(start, onerror=unreadable):
                yield from (Path(where, name) for name in names)

    @contextmanager
    def _beside(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        """A temporary file, open for writing and reading, in the folder of ``key``; gone afterwards."""
        folder = self._path(key).parent
        self._make(folder)
        temporary = folder / f"{TEMPORARY_PREFIX}{new_id()}"
        try:
            with temporary.open("x+b") as file:
                yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """Make ``folder``, durably: another process may have made it and not have fsynced it yet."""
        if folder == self.root:
            make_folder(folder)
        elif folder not in self._made or not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
            self._made.add(folder)

    def _publish(self, temporary: Path, file: BinaryIO, key: str) -> None:
        final = self._path(key)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        sync_file(file.fileno())
        self._make(final.parent)
        try:
            take_name(temporary, final)
        except FileExistsError:
            raise ObjectExistsError(key) from None
        except OSError as exc:
            if exc.errno != errno.ENOTSUP:
                raise
            raise CreateOnlyUnsupportedError(self.where) from exc

    def _publish_blob(self, temporary: Path, file: BinaryIO, blob: BlobInfo) -> None:
        if not self._has(blob):
            try:
                self._publish(temporary, file, blob_key(blob.digest))
            except ObjectExistsError:
                return

    def _in_place(self, digest: str) -> BlobInfo | None:
        found = self._stat(self._path(blob_key(check_digest(digest))), digest)
        return None if found is None else BlobInfo(digest, found.st_size)

    def _has(self, blob: BlobInfo) -> bool:
        """Whether ``blob`` is in its place, durably. Raises BlobDamagedError where its size is wrong."""
        known = self._in_place(blob.digest)
        if known is None:
            return False
        if known.size_bytes != blob.size_bytes:
            detail = f"it has {known.size_bytes} bytes of {blob.size_bytes}"
            raise BlobDamagedError(blob.digest, self.where, detail)
        with self._translated(blob.digest):
            sync_folder(
                self._path(blob_key(blob.digest)).parent
            )  # whoever made it may still be at it
        return True

    @contextmanager
    def _open_blob(self, digest: str) -> Iterator[BinaryIO]:
        with self._translated(digest):
            for place in self._trash.places(digest):
                with suppress(FileNotFoundError, NotADirectoryError):
                    file = place.open("rb")
                    break
            else:
                raise BlobMissingError(digest, self.where)
            with file:
                yield file

    def _checked(self, digest: str, found: BlobInfo) -> BlobInfo:
        if found.digest != digest:
            detail = f"its {found.size_bytes} bytes hash to {found.digest}"
            raise BlobDamagedError(digest, self.where, detail)
        return found

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            where = str(exc.filename or what)
            if TEMPORARY_PREFIX in where:
                where = what
            if not Path(where).is_absolute():
                where = f"{self.where}: {where}"
            hint = _HINTS.get(exc.errno or 0, "")
            raise UnavailableError(f"{where}: {exc.strerror or exc}", hint) from exc


def _whole(blob: BlobInfo, progress: Progress | None) -> None:
    """A copy on one machine is quick: only its end is told."""
    if progress is not None:
        progress(blob.size_bytes, blob.size_bytes)


def _copy(source: BinaryIO, target: BinaryIO) -> BlobInfo:
    """Copy ``source`` into the empty ``target``, sharing blocks where that can be; the hash is of ``target``."""
    if clone(source.fileno(), target.fileno()):
        return copy_and_hash(target)
    return copy_and_hash(source, target.write)
