"""The trash of a bucket: ``trash/<date>/``, by copy and delete.

Rules:

1. A blob is deleted from its place only once a listing shows its copy in the trash, with its size.
2. A copy that goes back is hashed first and create-only, as an upload is: up to a part's size it is put; larger
   ones are copied inside the service and completed create-only. It stays in the trash as well.
3. What a policy or a lock refuses to delete is named, and stays; it is then in both places, which is harmless.
   In a bucket that keeps versions a delete leaves a marker, and the bytes go by the bucket's own rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final

from launcher.errors import LauncherError, UnavailableError
from launcher.retry import retried
from launcher.storage.port import (
    BlobDamagedError,
    BlobInfo,
    blob_key,
    trash_key,
    trash_prefix,
)
from launcher.storage.s3.client import Client
from launcher.storage.s3.faults import AbsentError, BrokenBodyError, NoUploadError, TakenError
from launcher.storage.s3.upload import PART_BYTES

__all__ = ["BucketTrash"]

#: The most that one CopyObject takes, and that one DeleteObjects takes: Amazon's limits.
_COPY_BYTES: Final = 5 * 1024**3
_DELETE_KEYS: Final = 1000
#: Of a copy in parts; at most 10,000 of them make a blob.
_COPY_PART_BYTES: Final = 1024**3
_WORKERS: Final = 8
_DEADLINE_SECONDS: Final = 600.0

Put = Callable[[str, bytes], None]
Hash = Callable[[str, int], str]


class BucketTrash:
    """Blobs out of use under ``prefix`` of one bucket. ``extra``: boto3's arguments for every copy."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        extra: Mapping[str, str],
        *,
        copy_bytes: int = _COPY_BYTES,
        part_bytes: int = _COPY_PART_BYTES,
    ) -> None:
        self._client, self._prefix, self._extra = client, prefix, dict(extra)
        self._copy_bytes, self._part_bytes = copy_bytes, part_bytes

    def dates(self) -> list[str]:
        """Ascending."""
        found = []
        top = self._prefix + "trash/"
        for page in self._pages(Prefix=top, Delimiter="/"):
            for folder in page.get("CommonPrefixes", ()):
                name = folder["Prefix"].removeprefix(top).rstrip("/")
                with suppress(LauncherError):
                    trash_prefix(name)
                    found.append(name)
        return sorted(found)

    def places(self, digest: str) -> Iterator[str]:
        """Whole keys under which a blob may lie, newest date first."""
        for date in reversed(self.dates()):
            yield self._prefix + trash_key(date, digest)

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> dict[str, str]:
        """Move blobs to the trash of ``date``; why some were left in their place, by digest."""
        refused: dict[str, str] = {}
        for some in _batches(sorted(blobs, key=lambda b: b.digest)):
            with ThreadPoolExecutor(_WORKERS) as pool:
                copied = list(pool.map(partial(self._copied, date), some))
            seen = self._sizes(date, some[0].digest, some[-1].digest)
            whole = {}
            for blob, there in zip(some, copied, strict=True):
                if there and seen.get(blob.digest) == blob.size_bytes:
                    whole[self._prefix + blob_key(blob.digest)] = blob.digest
                elif there:
                    refused[blob.digest] = "its copy is not whole"
            refused |= self._deleted(whole)
        return refused

    def put_back(self, digest: str, put: Put, hashed: Hash) -> None:
        """Give a blob its place again, if the trash of any date has it.

        ``put`` creates a small object, create-only; ``hashed`` gives the digest of an object of that size.

        Raises BlobDamagedError where only damaged bytes of it are there.
        """
        final, damaged = self._prefix + blob_key(digest), ""
        for place in self.places(digest):
            try:
                size = self._size(place)
                if size <= PART_BYTES:
                    data = retried(partial(self._client.get, place)).data
                    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                        damaged = f"its {len(data)} bytes in the trash are others"
                        continue
                    put(final, data)
                elif hashed(place, size) != digest:
                    damaged = f"its {size} bytes in the trash are others"
                    continue
                else:
                    self._copied_in_parts(place, final, size, create_only=True)
            except AbsentError:
                continue
            except BrokenBodyError as exc:
                damaged = exc.message  # the service's own checksum says so
                continue
            except TakenError:
                pass  # somebody put it there meanwhile
            return
        if damaged:
            raise BlobDamagedError(digest, self._client.where, damaged)

    def empty(self, date: str, digests: Iterable[str]) -> dict[str, str]:
        """Delete blobs from the trash of a date; why some were not, by digest."""
        refused: dict[str, str] = {}
        for some in _batches(sorted(digests)):
            refused |= self._deleted({self._prefix + trash_key(date, d): d for d in some})
        return refused

    def clock(self) -> float:
        """Epoch seconds, to the second, as the service writes them on its answers."""
        answer = retried(
            lambda: self._client.call("list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        )
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            return parsedate_to_datetime(said).timestamp()
        except ValueError:
            raise UnavailableError(
                f"{self._client.where} does not say what time it is there"
            ) from None

    def keeps_versions(self) -> bool:
        """Whether a delete leaves a marker and the bytes. False where we may not ask."""
        with suppress(LauncherError):
            return bool(self._client.call("get_bucket_versioning").get("Status") == "Enabled")
        return False

    # --- inside ---

    def _copied(self, date: str, blob: BlobInfo) -> bool:
        """Copy a blob into the trash; False where it is not in its place any more."""
        source = self._prefix + blob_key(blob.digest)
        target = self._prefix + trash_key(date, blob.digest)
        try:
            if blob.size_bytes > self._copy_bytes:
                self._copied_in_parts(source, target, blob.size_bytes, create_only=False)
            else:
                copy = partial(
                    self._client.call_patiently,
                    "copy_object",
                    target,
                    CopySource=self._source(source),
                    **self._extra,
                )
                retried(copy, deadline_seconds=_DEADLINE_SECONDS)
        except AbsentError:
            return False
        return True

    def _copied_in_parts(self, source: str, target: str, size: int, *, create_only: bool) -> None:
        """Raises AbsentError, TakenError (only with ``create_only``)."""
        # No checksum is asked for: what a service says of a copied part may be its source's own, and is refused.
        begun = retried(
            partial(self._client.call, "create_multipart_upload", target, **self._extra)
        )
        upload = str(begun["UploadId"])
        try:
            starts = range(0, size, self._part_bytes)
            with ThreadPoolExecutor(_WORKERS) as pool:
                part = partial(self._part, source, target, upload, size)
                parts = list(pool.map(part, range(1, len(starts) + 1)))
            more = {"IfNoneMatch": "*"} if create_only else {}
            complete = partial(
                self._client.call_patiently,
                "complete_multipart_upload",
                target,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **more,
            )
            retried(complete, deadline_seconds=_DEADLINE_SECONDS)
        except NoUploadError:
            self._size(target)  # completed, by an attempt that was not answered; else AbsentError
        except BaseException:
            with suppress(LauncherError):
                self._client.call("abort_multipart_upload", target, UploadId=upload)
            raise

    def _part(
        self, source: str, target: str, upload: str, size: int, number: int
    ) -> dict[str, Any]:
        start = (number - 1) * self._part_bytes
        stop = min(start + self._part_bytes, size)
        answer = retried(
            partial(
                self._client.call_patiently,
                "upload_part_copy",
                target,
                UploadId=upload,
                PartNumber=number,
                CopySource=self._source(source),
                CopySourceRange=f"bytes={start}-{stop - 1}",
            ),
            deadline_seconds=_DEADLINE_SECONDS,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    def _source(self, key: str) -> dict[str, str]:
        return {"Bucket": self._client.bucket, "Key": key}

    def _sizes(self, date: str, first: str, last: str) -> dict[str, int]:
        """What lies in the trash of a date, from one digest to another."""
        begin, end = (self._prefix + trash_key(date, digest) for digest in (first, last))
        found: dict[str, int] = {}
        top = self._prefix + trash_prefix(date)
        for page in self._pages(Prefix=top, StartAfter=begin[:-1]):
            for one in page.get("Contents", ()):
                if one["Key"] > end:
                    return found
                found["sha256:" + one["Key"].rpartition("/")[2]] = one["Size"]
        return found

    def _size(self, key: str) -> int:
        return int(retried(partial(self._client.call, "head_object", key))["ContentLength"])

    def _pages(self, **which: Any) -> Iterator[Any]:
        more: dict[str, Any] = {}
        while True:
            page = retried(partial(self._client.call, "list_objects_v2", **which, **more))
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _deleted(self, digests: Mapping[str, str]) -> dict[str, str]:
        """Delete whole keys, one request; why some were not, by the digest that each stands for."""
        if not digests:
            return {}
        wanted = {"Objects": [{"Key": key} for key in digests], "Quiet": True}
        answer = retried(partial(self._client.call, "delete_objects", Delete=wanted))
        return {
            digests[one["Key"]]: str(one.get("Code", "refused"))
            for one in answer.get("Errors", ())
            if one.get("Key") in digests and one.get("Code") != "NoSuchKey"
        }


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _DELETE_KEYS):
        yield items[start : start + _DELETE_KEYS]
