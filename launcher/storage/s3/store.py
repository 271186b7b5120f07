"""The store in a bucket: an ObjectStore under ``s3://bucket/prefix``.

Its objects are ``BucketObjects``; here are the blobs. A blob is hashed before it gets its name, and on every
read; wrong bytes are asked for once again before they are called damage.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from launcher.clock import new_id
from launcher.errors import UnavailableError, UsageError
from launcher.storage.blobs import StillWrittenError, digest_bytes, open_source
from launcher.storage.durable import make_folder, sync_file, sync_folder
from launcher.storage.port import (
    TEMPORARY_PREFIX,
    BlobDamagedError,
    BlobInfo,
    BlobMissingError,
    ObjectInfo,
    Progress,
    blob_key,
    trash_prefix,
)
from launcher.storage.s3.client import Answer, Limits
from launcher.storage.s3.download import Downloads
from launcher.storage.s3.faults import AbsentError, BrokenBodyError, NoUploadError, TakenError
from launcher.storage.s3.objects import BucketObjects
from launcher.storage.s3.trash import BucketTrash
from launcher.storage.s3.upload import PART_BYTES, Hashed, SourceChangedError, Uploads, hash_source
from ledger.ids import check_digest

__all__ = ["S3Store"]

#: Up to here it costs no more to send a blob than to ask whether it is there.
_TINY_BYTES: Final = 16 * 1024


class S3Store(BucketObjects):
    """An ObjectStore in a bucket. Opening it does no I/O and imports no client. Threads may share it.

    ``extra``: arguments of boto3 for every object that is made, such as ``ServerSideEncryption`` and
    ``SSEKMSKeyId``; ``blob_extra``: for blobs only, such as ``StorageClass``. ``marks``: the folder in which
    stores that are known to be good are remembered; None: the user's cache.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        extra: Mapping[str, str] | None = None,
        blob_extra: Mapping[str, str] | None = None,
        marks: Path | None = None,
    ) -> None:
        super().__init__(url, limits=limits, extra=extra, marks=marks)
        self._downloads = Downloads(self._client)
        self._blob_extra = dict(blob_extra or {})
        for_blobs = {**self._extra, **self._blob_extra}
        self._uploads = Uploads(self._client, for_blobs)
        self._trash = BucketTrash(self._client, self._prefix, for_blobs)

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        """See the port. Raises StillWrittenError too."""
        self._probe.require()
        for _ in range(2):
            with open_source(source) as (file, unchanged):
                size = os.fstat(file.fileno()).st_size
                try:
                    if size <= PART_BYTES:
                        data = _read(file, source, PART_BYTES + 1)
                        blob = digest_bytes(data)
                        if len(data) <= PART_BYTES and unchanged(blob):
                            return self._stored(data, blob, progress)
                        continue
                    hashed = _hashed(file, source, size)
                    if unchanged(hashed.blob):
                        self._sent(file, hashed, partial(unchanged, hashed.blob), progress)
                        return hashed.blob
                except SourceChangedError:
                    continue
        raise StillWrittenError(source)

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        """See the port."""
        self._probe.require()
        return self._stored(data, digest_bytes(data), None)

    def stat_blob(self, digest: str) -> BlobInfo | None:
        """See the port."""
        for full in self._places(digest):
            size = self._size(full)
            if size is not None:
                return BlobInfo(digest, size)
        return None

    def verify_blob(self, digest: str) -> BlobInfo:
        """See the port."""
        return self._twice(digest, lambda: self._hashed_blob(digest, None, None))

    def read_blob(self, digest: str, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        """See the port."""
        check_digest(digest)
        kept = b""

        def attempt() -> BlobInfo:
            nonlocal kept
            answer = self._got(digest, limit_bytes)
            if answer.size_bytes > limit_bytes:
                said = f"blob {digest} has {answer.size_bytes} bytes, more than {limit_bytes}"
                raise UsageError(said)
            kept = answer.data
            return digest_bytes(kept)

        self._twice(digest, attempt)
        return kept

    def fetch_blob(self, digest: str, dest: Path, progress: Progress | None = None) -> BlobInfo:
        """See the port. Raises UsageError where ``dest`` is a folder."""
        if dest.is_dir():
            raise UsageError(f"{dest} is a folder")
        check_digest(digest)
        temporary = dest.with_name(f"{TEMPORARY_PREFIX}{new_id()}")

        def attempt() -> BlobInfo:
            with temporary.open("w+b", buffering=0) as out:
                blob = self._hashed_blob(
                    digest, lambda data, start: _write_all(out.fileno(), data, start), progress
                )
                sync_file(out.fileno())
                return blob

        try:
            make_folder(dest.parent)
            try:
                blob = self._twice(digest, attempt)
                os.replace(temporary, dest)
                sync_folder(dest.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as exc:
            raise UnavailableError(f"{dest}: {exc.strerror or exc}") from exc
        return blob

    def free_bytes(self) -> int | None:
        """None: a bucket has no such limit."""
        return None

    # --- the trash ---

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
        """See the port: what a policy or a lock refuses to delete is left. Raises AccessRefusedError too."""
        trash_prefix(date)
        self._probe.require()
        return self._trash.discard(blobs, date)

    def recover(self, digest: str) -> BlobInfo | None:
        """See the port."""
        known = self._in_place(digest)
        if known is not None:
            return known
        self._trash.put_back(digest, self._put_back, self._hash_of)
        return self._in_place(digest)

    def trash_dates(self) -> Sequence[str]:
        """See the port."""
        return self._trash.dates()

    def trashed(self, date: str) -> Iterator[ObjectInfo]:
        """See the port."""
        prefix = trash_prefix(date)
        for info in self.list(prefix + "blobs/"):
            yield ObjectInfo(info.key.removeprefix(prefix), info.size_bytes, info.modified)

    def empty(self, date: str, digests: Sequence[str]) -> Mapping[str, str]:
        """See the port."""
        return self._trash.empty(date, digests)

    def clock(self) -> float:
        """See the port."""
        return self._trash.clock()

    def keeps_versions(self) -> bool:
        """Whether what is deleted here stays as an older version. False where we may not ask."""
        return self._trash.keeps_versions()

    # --- what killed uploads leave ---

    def stale_uploads(self, older_than: float) -> Iterator[ObjectInfo]:
        """Unfinished multipart uploads begun before ``older_than`` (epoch seconds, the store's clock).

        ``modified`` is their beginning; the size of what they hold is not known (0).
        """
        for key, _, begun in self._stale(older_than):
            yield ObjectInfo(key.removeprefix(self._prefix), 0, begun)

    def abort_stale_uploads(self, older_than: float) -> int:
        """Abort them, and say how many there were. An upload that goes on meanwhile begins again."""
        stale = list(self._stale(older_than))
        for key, upload, _ in stale:
            self._uploads.abort(key, upload)
        return len(stale)

    def _stale(self, older_than: float) -> Iterator[tuple[str, str, float]]:
        for place in ("blobs/", "trash/"):
            for found in self._uploads.unfinished(self._prefix + place):
                if found[2] < older_than:
                    yield found

    # --- inside ---

    def _places(self, digest: str) -> Iterator[str]:
        """Whole keys under which a blob may lie; its own again at the end, where it may be moved back to."""
        own = self._full(blob_key(check_digest(digest)))
        yield own
        yield from self._trash.places(digest)
        yield own

    def _in_place(self, digest: str) -> BlobInfo | None:
        size = self._size(self._full(blob_key(check_digest(digest))))
        return None if size is None else BlobInfo(digest, size)

    def _got(self, digest: str, limit_bytes: int) -> Answer:
        """A blob's bytes, wherever it lies. Raises AbsentError."""
        for full in self._places(digest):
            with suppress(AbsentError):
                return self._retried(partial(self._client.get, full, limit_bytes))
        raise AbsentError(f"{digest} is in no place")

    def _put_back(self, full: str, data: bytes) -> None:
        self._probe.require()
        put = partial(self._put, full, data, create_only=True, **self._blob_extra)
        self._retried(put)

    def _hash_of(self, full: str, size: int) -> str:
        sha = hashlib.sha256()
        for block in self._downloads.blocks(full, size):
            sha.update(block)
        return "sha256:" + sha.hexdigest()

    def _has(self, blob: BlobInfo) -> bool:
        """Whether ``blob`` is in its place. Raises BlobDamagedError where its size is wrong."""
        known = self._in_place(blob.digest)
        if known is None:
            return False
        if known.size_bytes != blob.size_bytes:
            detail = f"it has {known.size_bytes} bytes of {blob.size_bytes}"
            raise BlobDamagedError(blob.digest, self._url, detail)
        return True

    def _stored(self, data: bytes, blob: BlobInfo, progress: Progress | None) -> BlobInfo:
        """Store a blob that is in memory. That the name is taken is looked at: the size must be right."""
        full = self._full(blob_key(blob.digest))

        def attempt() -> None:
            try:
                self._put(full, data, create_only=True, **self._blob_extra)
            except TakenError as exc:
                if not self._has(blob):
                    raise UnavailableError(f"blob {blob.digest} was there and is not") from exc

        if blob.size_bytes <= _TINY_BYTES or not self._has(blob):
            self._retried(attempt)
        if progress is not None:
            progress(blob.size_bytes, blob.size_bytes)
        return blob

    def _sent(
        self,
        file: BinaryIO,
        hashed: Hashed,
        unchanged: Callable[[], bool],
        progress: Progress | None,
    ) -> None:
        """Store a blob from a file, in parts, unless it is there."""
        size = hashed.blob.size_bytes

        def sent(done: int) -> None:
            if progress is not None:
                progress(done, size)

        for _ in range(3):
            if self._has(hashed.blob):
                sent(size)
                return
            try:
                key = self._full(blob_key(hashed.blob.digest))
                self._uploads.put(key, file, hashed, unchanged, sent)
            except NoUploadError:
                continue  # completed or aborted by somebody else
            if self._has(hashed.blob):
                return
        raise UnavailableError(
            f"blob {hashed.blob.digest} did not stay in {self._url}",
            "is something there that aborts uploads or deletes objects?",
        )

    def _hashed_blob(
        self,
        digest: str,
        sink: Callable[[bytes, int], object] | None,
        progress: Progress | None,
    ) -> BlobInfo:
        """Read a blob from end to end and hash it."""
        for full in self._places(digest):
            size = self._size(full)
            if size is not None:
                break
        else:
            raise BlobMissingError(digest, self._url)
        sha, done = hashlib.sha256(), 0
        if progress is not None:
            progress(0, size)
        for block in self._downloads.blocks(full, size, sink):
            sha.update(block)
            done += len(block)
            if progress is not None:
                progress(done, size)
        return BlobInfo("sha256:" + sha.hexdigest(), done)

    def _twice(self, digest: str, attempt: Callable[[], BlobInfo]) -> BlobInfo:
        """What an attempt at a blob finds, once it hashes to its name; tried again once."""
        detail = ""
        for _ in range(2):
            moving = False
            try:
                found = attempt()
            except AbsentError:
                self._require_bucket()
                moving = True  # to the trash, perhaps, while it was read
                continue
            except BrokenBodyError as exc:
                detail = exc.message  # asked for again often enough
                break
            if found.digest == digest:
                return found
            detail = f"its {found.size_bytes} bytes hash to {found.digest}"
        if moving and not detail:
            raise BlobMissingError(digest, self._url)
        raise BlobDamagedError(digest, self._url, detail)


def _read(file: BinaryIO, source: Path, limit_bytes: int) -> bytes:
    try:
        return file.read(limit_bytes)
    except OSError as exc:
        raise UnavailableError(f"cannot read {source}: {exc.strerror}") from exc


def _hashed(file: BinaryIO, source: Path, size: int) -> Hashed:
    try:
        return hash_source(file, size)
    except OSError as exc:
        raise UnavailableError(f"cannot read {source}: {exc.strerror}") from exc


def _write_all(fd: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, start)
        view, start = view[written:], start + written
