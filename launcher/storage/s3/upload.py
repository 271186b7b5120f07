"""Blobs into S3: hashed first, then sent in parts, each with the hash that the first pass made of it.

Rules:

1. A blob's name is its hash, so a file is read twice: hashed, then sent. The service refuses a part whose
   bytes are not those that were hashed, so a file that changes in between never gets the name.
2. Completion is create-only. That the name is taken is a success: whoever took it had the same bytes.
3. An unfinished upload of the same blob is taken up again, whoever began it: a part counts as sent where the
   service's own SHA-256 of it is ours. Without such checksums every part is sent again.
4. A file never lies in memory: parts are read as they are sent.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from launcher import clock
from launcher.errors import LauncherError, UnavailableError, UsageError
from launcher.retry import retried
from launcher.storage.port import BlobInfo
from launcher.storage.s3.client import Client
from launcher.storage.s3.faults import NoUploadError, TakenError, WrongBytesError

__all__ = ["PART_BYTES", "Hashed", "SourceChangedError", "Uploads", "hash_source"]

#: The smallest part; S3's own minimum is 5 MiB, and a blob has at most 10,000 parts.
PART_BYTES: Final = 8 * 1024 * 1024
_MAX_PARTS: Final = 10_000
_MIB: Final = 1024 * 1024
_BLOCK_BYTES: Final = 4 * _MIB
#: Bytes handed to the socket at once; each has the connect limit as its own time limit.
_SEND_BYTES: Final = 256 * 1024
_WORKERS: Final = 6
_ATTEMPTS: Final = 6
_DEADLINE_SECONDS: Final = 120.0

Sent = Callable[[int], object]


class SourceChangedError(Exception):
    """The file is not what was hashed. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file's digest and size, and the base64 SHA-256 of each part of ``part_bytes``, in order."""

    blob: BlobInfo
    part_bytes: int
    sums: tuple[str, ...]

    def span(self, number: int) -> tuple[int, int]:
        """Where part ``number`` (from 1) begins and how many bytes it has."""
        begin = (number - 1) * self.part_bytes
        return begin, min(self.part_bytes, self.blob.size_bytes - begin)


def hash_source(file: BinaryIO, size_bytes: int) -> Hashed:
    """Read ``file`` to its end and hash it, whole and in parts, on two cores."""
    fewest = -(-size_bytes // _MAX_PARTS)
    part_bytes = max(PART_BYTES, -(-fewest // _MIB) * _MIB)
    whole, size, sums = hashlib.sha256(), 0, []
    with ThreadPoolExecutor(1, thread_name_prefix="s3-hash") as helper:
        while True:
            part, read = hashlib.sha256(), 0
            for block in _blocks(file, part_bytes):
                beside = helper.submit(part.update, block)
                whole.update(block)
                beside.result()
                read += len(block)
            if read:
                sums.append(base64.b64encode(part.digest()).decode())
                size += read
            if read < part_bytes:
                blob = BlobInfo("sha256:" + whole.hexdigest(), size)
                return Hashed(blob, part_bytes, tuple(sums))


def _blocks(file: BinaryIO, limit_bytes: int) -> Iterator[bytes]:
    while limit_bytes and (block := file.read(min(_BLOCK_BYTES, limit_bytes))):
        limit_bytes -= len(block)
        yield block


class _Part:
    """A part of a file, as a body to be sent. Reads by offset, so that parts share one descriptor."""

    def __init__(self, fd: int, start: int, size: int, expired: Callable[[], bool]) -> None:
        self._fd, self._start, self._size, self._at = fd, start, size, 0
        self._expired = expired
        self.failure: LauncherError | SourceChangedError | None = None

    def __len__(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, amount: int | None = -1) -> bytes:
        """At least ``amount`` bytes where there are so many: http.client asks for 16 KiB at a time, which
        makes thousands of small sends."""
        left = self._size - self._at
        wanted = left if amount is None or amount < 0 else min(max(amount, _SEND_BYTES), left)
        if wanted <= 0:
            return b""
        if self._expired():
            self._fail(UnavailableError("a part went up too slowly"))
        try:
            data = os.pread(self._fd, wanted, self._start + self._at)
        except OSError as exc:
            self._fail(UnavailableError(f"cannot read what is to be stored: {exc.strerror}"))
        if not data:
            self._fail(SourceChangedError())
        self._at += len(data)
        return data

    def _fail(self, failure: LauncherError | SourceChangedError) -> None:
        self.failure = failure
        raise failure


class Uploads:
    """Sends big blobs to one bucket. Threads may share it."""

    def __init__(self, client: Client, extra: dict[str, str]) -> None:
        self._client, self._extra = client, extra
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="s3-put")

    def put(
        self, key: str, file: BinaryIO, hashed: Hashed, unchanged: Callable[[], bool], sent: Sent
    ) -> None:
        """Send ``file`` as ``key``; the key may be taken by then. ``sent`` hears how many bytes are there.

        Raises SourceChangedError; NoUploadError where somebody aborted or completed it meanwhile.
        """
        upload, parts = self._unfinished(key, hashed) or (self._begun(key), {})
        try:
            self._send_missing(key, upload, file, hashed, parts, sent)
            if not unchanged():
                raise SourceChangedError
            self._complete(key, upload, parts)
        except (SourceChangedError, TakenError) as exc:
            self.abort(key, upload)
            if isinstance(exc, SourceChangedError):
                raise

    def abort(self, key: str, upload: str) -> None:
        """Forget an upload; one that is gone already is none."""
        try:
            retried(lambda: self._client.call("abort_multipart_upload", key, UploadId=upload))
        except NoUploadError:
            return

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """(key, upload id, epoch seconds of its beginning) of uploads whose key begins with ``prefix``."""
        more: dict[str, Any] = {}
        while True:
            ask = partial(self._client.call, "list_multipart_uploads", Prefix=prefix, **more)
            page = retried(ask)
            for found in page.get("Uploads", ()):
                yield found["Key"], found["UploadId"], found["Initiated"].timestamp()
            if not page.get("IsTruncated"):
                return
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    # --- inside ---

    def _begun(self, key: str) -> str:
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self._client.checksums else {}
        answer = retried(
            lambda: self._client.call("create_multipart_upload", key, **algorithm, **self._extra)
        )
        return str(answer["UploadId"])

    def _unfinished(self, key: str, hashed: Hashed) -> tuple[str, dict[int, dict[str, Any]]] | None:
        """The upload of this blob of which most is there, and its parts, or None."""
        best: tuple[str, dict[int, dict[str, Any]]] | None = None
        try:
            for found, upload, _ in self.unfinished(key):
                parts = self._parts(key, upload, hashed) if found == key else {}
                if len(parts) > (len(best[1]) if best else 0):
                    best = upload, parts
        except UsageError:
            return None  # not allowed to look, or the service has no such list: begin again
        return best

    def _parts(self, key: str, upload: str, hashed: Hashed) -> dict[int, dict[str, Any]]:
        """Parts that are there, by number: those of our size whose SHA-256 at the service is ours."""
        parts: dict[int, dict[str, Any]] = {}
        more: dict[str, Any] = {}
        while True:
            ask = partial(self._client.call, "list_parts", key, UploadId=upload, **more)
            try:
                page = retried(ask)
            except NoUploadError:
                return {}
            for part in page.get("Parts", ()):
                number = part["PartNumber"]
                if number <= len(hashed.sums):
                    same_sum = part.get("ChecksumSHA256") == hashed.sums[number - 1]
                    if same_sum and part["Size"] == hashed.span(number)[1]:
                        parts[number] = _named(part, number)
            if not page.get("IsTruncated"):
                return parts
            more = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def _send_missing(
        self,
        key: str,
        upload: str,
        file: BinaryIO,
        hashed: Hashed,
        parts: dict[int, dict[str, Any]],
        sent: Sent,
    ) -> None:
        """Send every part that ``parts`` lacks, side by side, and enter it there."""
        done, lock = sum(hashed.span(n)[1] for n in parts), threading.Lock()
        sent(done)
        stop = threading.Event()

        def one(number: int) -> None:
            nonlocal done
            if stop.is_set():
                return
            answer = retried(
                lambda: self._send(key, upload, file.fileno(), hashed, number),
                attempts=_ATTEMPTS,
                deadline_seconds=_DEADLINE_SECONDS,
            )
            with lock:
                parts[number] = _named(answer, number)
                done += hashed.span(number)[1]
                sent(done)

        missing = [n for n in range(1, len(hashed.sums) + 1) if n not in parts]
        futures: list[Future[None]] = [self._pool.submit(one, number) for number in missing]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            wait(futures)
        for future in futures:
            future.result()

    def _send(self, key: str, upload: str, fd: int, hashed: Hashed, number: int) -> Any:
        begin, size = hashed.span(number)
        body = _Part(fd, begin, size, clock.deadline(self._client.limits.body_seconds(size)))
        checksum = {"ChecksumSHA256": hashed.sums[number - 1]} if self._client.checksums else {}
        try:
            return self._client.call(
                "upload_part", key, UploadId=upload, PartNumber=number, Body=body, **checksum
            )
        except WrongBytesError as exc:
            if _sum_of(fd, begin, size) != hashed.sums[number - 1]:
                raise SourceChangedError from exc
            raise
        except LauncherError:
            if body.failure is not None:
                raise body.failure from None
            raise

    def _complete(self, key: str, upload: str, parts: dict[int, dict[str, Any]]) -> None:
        """Give the blob its name. Raises TakenError, NoUploadError."""
        whole = {"Parts": [parts[number] for number in sorted(parts)]}

        def attempt() -> None:
            self._client.call_patiently(
                "complete_multipart_upload",
                key,
                UploadId=upload,
                MultipartUpload=whole,
                IfNoneMatch="*",
            )

        retried(attempt, deadline_seconds=_DEADLINE_SECONDS)


def _sum_of(fd: int, start: int, size_bytes: int) -> str:
    """The base64 SHA-256 of a part of a file, as it is now."""
    part, end = hashlib.sha256(), start + size_bytes
    while start < end and (block := os.pread(fd, min(_BLOCK_BYTES, end - start), start)):
        part.update(block)
        start += len(block)
    return base64.b64encode(part.digest()).decode()


def _named(part: dict[str, Any], number: int) -> dict[str, Any]:
    """What completion must be told of a part."""
    named = {"PartNumber": number, "ETag": part["ETag"]}
    if part.get("ChecksumSHA256"):
        named["ChecksumSHA256"] = part["ChecksumSHA256"]
    return named
