"""The store in a folder.

Create-only: write beside under a hidden name, fsync, ``link`` to the final name (which fails if it is
taken), fsync the folder. A reader sees the whole object or none; of many creators one wins.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from launcher.clock import new_id
from launcher.errors import UnavailableError, UsageError
from launcher.storage.blobs import copy_and_hash, digest_bytes
from launcher.storage.port import (
    BlobDamagedError,
    BlobInfo,
    BlobMissingError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    blob_key,
)
from ledger.ids import check_digest

__all__ = ["FilesystemStore", "sync_folder"]

_TEMPORARY = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FilesystemStore:
    """An ObjectStore under ``root``, which is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    # --- objects ---

    def create(self, key: str, data: bytes) -> None:
        with self._translated(key), self._beside(key) as (temporary, file):
            file.write(data)
            self._publish(temporary, file, key)

    def replace(self, key: str, data: bytes) -> None:
        with self._translated(key), self._beside(key) as (temporary, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, self._path(key))
            sync_folder(temporary.parent)

    def read(self, key: str) -> bytes:
        with self._translated(key):
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise ObjectNotFoundError(key) from None

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        start = self._path(folder) if folder else self.root
        found = []
        with self._translated(prefix):
            for where, _, names in os.walk(start):
                for name in names:
                    if name.startswith(_TEMPORARY):
                        continue
                    path = Path(where, name)
                    key = path.relative_to(self.root).as_posix()
                    if key.startswith(prefix) and key > after:
                        stat = path.stat()
                        found.append(ObjectInfo(key, stat.st_size, stat.st_mtime))
        return iter(sorted(found, key=lambda info: info.key))

    # --- blobs ---

    def ingest(self, source: Path) -> BlobInfo:
        if not source.is_file():
            raise UsageError(f"{source} is not a file")
        for _ in range(2):
            blob = self._ingest_once(source)
            if blob is not None:
                return blob
        raise UsageError(f"{source} is still being written", "wait until it is whole")

    def _ingest_once(self, source: Path) -> BlobInfo | None:
        """One pass over ``source``; None where it changed meanwhile and nothing was kept."""
        with self._translated(str(source)), source.open("rb") as reader:
            before = os.fstat(reader.fileno())
            with self._beside("blobs/sha256/incoming") as (temporary, file):
                blob = copy_and_hash(reader, file.write)
                after = source.stat()
                same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
                if not same or blob.size_bytes != after.st_size:
                    return None
                self._publish_blob(temporary, file, blob)
                return blob

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        blob = digest_bytes(data)
        if self.stat_blob(blob.digest) is None:
            with (
                self._translated(blob.digest),
                self._beside("blobs/sha256/incoming") as (temporary, file),
            ):
                file.write(data)
                self._publish_blob(temporary, file, blob)
        return blob

    def _publish_blob(self, temporary: Path, file: BinaryIO, blob: BlobInfo) -> None:
        known = self.stat_blob(blob.digest)
        if known is not None and known.size_bytes == blob.size_bytes:
            return
        try:
            self._publish(temporary, file, blob_key(blob.digest))
        except ObjectExistsError:
            return

    def stat_blob(self, digest: str) -> BlobInfo | None:
        path = self._path(blob_key(check_digest(digest)))
        with self._translated(digest):
            try:
                return BlobInfo(digest, path.stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def verify_blob(self, digest: str) -> BlobInfo:
        with self._open_blob(digest) as file:
            return self._checked(digest, copy_and_hash(file))

    def read_blob(self, digest: str, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        known = self.stat_blob(digest)
        if known is None:
            raise BlobMissingError(digest, self.where)
        if known.size_bytes > limit_bytes:
            raise UsageError(f"blob {digest} has {known.size_bytes} bytes, more than {limit_bytes}")
        parts: list[bytes] = []
        with self._open_blob(digest) as file:
            self._checked(digest, copy_and_hash(file, parts.append))
        return b"".join(parts)

    def fetch_blob(self, digest: str, dest: Path) -> BlobInfo:
        temporary = dest.with_name(f"{_TEMPORARY}{new_id()}")
        with self._open_blob(digest) as file, self._translated(str(dest)):
            dest.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as out:
                    blob = self._checked(digest, copy_and_hash(file, out.write))
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(temporary, dest)
                sync_folder(dest.parent)
            finally:
                temporary.unlink(missing_ok=True)
        return blob

    def free_bytes(self) -> int | None:
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        with self._translated(self.where):
            return shutil.disk_usage(place).free

    # --- inside ---

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or any(p in ("", ".", "..") for p in parts) or any(ord(c) < 32 for c in key):
            raise UsageError(f"{key!r} is no key")
        return self.root.joinpath(*parts)

    @contextmanager
    def _beside(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        """A temporary file, open for writing, in the folder of ``key``; gone afterwards."""
        folder = self._path(key).parent
        self._make(folder)
        temporary = folder / f"{_TEMPORARY}{new_id()}"
        try:
            with temporary.open("xb") as file:
                yield temporary, file
        finally:
            temporary.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)

    def _publish(self, temporary: Path, file: BinaryIO, key: str) -> None:
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        final = self._path(key)
        self._make(final.parent)
        try:
            os.link(temporary, final)
        except FileExistsError:
            raise ObjectExistsError(key) from None
        sync_folder(final.parent)

    @contextmanager
    def _open_blob(self, digest: str) -> Iterator[BinaryIO]:
        path = self._path(blob_key(check_digest(digest)))
        with self._translated(digest):
            try:
                file = path.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                raise BlobMissingError(digest, self.where) from None
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
            where = exc.filename or what
            raise UnavailableError(f"{self.where}: {where}: {exc.strerror or exc}") from exc
