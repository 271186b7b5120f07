"""The objects of a bucket: small, create-only, read back wherever an answer leaves doubt.

Rules:

1. Create-only is ``If-None-Match: *``. Before the first write the store must have shown that it keeps to it
   (``probe``); one that does not is refused for writing.
2. Whether a write landed that was not answered, or answered with 412 or 409, is read back: our own bytes
   are our own success, other bytes are somebody else's. Absent: the very same create again. So two creators
   of the *same* bytes may both be told that they succeeded.
3. Every attempt has a time limit, and there are few of them (``launcher.retry``).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.retry import retried
from launcher.storage.bucket_url import normal_url, parse_url
from launcher.storage.port import (
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    check_key,
)
from launcher.storage.s3.client import Client, Limits
from launcher.storage.s3.faults import AbsentError, BrokenBodyError, TakenError
from launcher.storage.s3.probe import Probe, ProbeReport

__all__ = ["BucketObjects"]

T = TypeVar("T")

_MAX_KEY_BYTES: Final = 1024
_ATTEMPTS: Final = 5
_DEADLINE_SECONDS: Final = 90.0


class BucketObjects:
    """The half of an ObjectStore that is not about blobs. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        extra: Mapping[str, str] | None = None,
        marks: Path | None = None,
    ) -> None:
        bucket, prefix = parse_url(url)
        self._url = normal_url(url)
        self._prefix = prefix + "/" if prefix else ""
        self._extra = dict(extra or {})
        self._client = Client(bucket, self._url, limits or Limits())
        self._probe = Probe(self._client, self._prefix, self._extra, marks)
        self._bucket_seen = False

    @property
    def where(self) -> str:
        """The URL."""
        return self._url

    @property
    def identity(self) -> str:
        """What tells this store from all others: the URL, and the endpoint that it is at."""
        return f"{self._client.endpoint} {self._url}"

    def create(self, key: str, data: bytes) -> None:
        """See the port, and rule 2. Raises CreateOnlyIgnoredError too."""
        full = self._full(key)
        self._probe.require()
        unsure = False

        def attempt() -> None:
            nonlocal unsure
            if unsure and self._is_there(full, key, data):
                return
            unsure = True
            try:
                self._put(full, data, create_only=True)
            except TakenError as exc:
                if not self._is_there(full, key, data):
                    raise UnavailableError(f"{self._named(key)} was there and is not") from exc

        self._retried(attempt)

    def replace(self, key: str, data: bytes) -> None:
        """See the port."""
        full = self._full(key)
        self._probe.require()
        self._retried(lambda: self._put(full, data, create_only=False))

    def read(self, key: str) -> bytes:
        """See the port. Raises IntegrityError where the body does not match the service's own checksum."""
        full = self._full(key)
        try:
            data = self._retried(lambda: self._client.get(full)).data
            self._bucket_seen = True
            return data
        except AbsentError:
            raise ObjectNotFoundError(key) from None
        except BrokenBodyError as exc:
            raise IntegrityError(exc.message, exc.hint) from exc

    def exists(self, key: str) -> bool:
        """See the port."""
        return self._size(self._full(key)) is not None

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """See the port. What is created or goes away meanwhile may be listed or not."""
        more: dict[str, Any] = {"StartAfter": self._prefix + after} if after else {}
        last = ""
        while True:
            whole = self._prefix + prefix
            page = self._retried(
                partial(self._client.call, "list_objects_v2", Prefix=whole, **more)
            )
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self._prefix)
                if key <= last:
                    raise IntegrityError(
                        f"{self._url} lists {key!r} after {last!r}",
                        "directory buckets and other stores without order cannot be used",
                    )
                last = key
                yield ObjectInfo(key, found["Size"], found["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def probe(self) -> ProbeReport:
        """Look at everything that we need of the store, by trying it (under ``probe/``)."""
        return self._probe.look()

    def protection(self) -> dict[str, str]:
        """Versioning and object lock of the bucket, in words, where the server tells; asks, tries nothing."""
        said: dict[str, str] = {}
        with suppress(LauncherError, AbsentError):
            status = self._client.call("get_bucket_versioning").get("Status")
            said["versioning"] = "on" if status == "Enabled" else "off"
        with suppress(LauncherError, AbsentError):
            found = self._client.call("get_object_lock_configuration")
            rule = found.get("ObjectLockConfiguration", {}).get("Rule", {}).get("DefaultRetention")
            kept = (
                f"on, {rule.get('Mode')} {rule.get('Days') or rule.get('Years')}" if rule else "on"
            )
            unit = " days" if rule and rule.get("Days") else " years" if rule else ", no default"
            said["object lock"] = kept + unit
        return said

    # --- inside ---

    def _full(self, key: str) -> str:
        full = self._prefix + check_key(key)
        if len(full.encode()) > _MAX_KEY_BYTES:
            raise UsageError(f"{full!r} is longer than a bucket's keys may be")
        return full

    def _named(self, key: str) -> str:
        return f"{self._url}/{key}"

    def _retried(self, attempt: Callable[[], T]) -> T:
        return retried(attempt, attempts=_ATTEMPTS, deadline_seconds=_DEADLINE_SECONDS)

    def _put(self, full: str, data: bytes, *, create_only: bool, **extra: str) -> None:
        more = {"IfNoneMatch": "*"} if create_only else {}
        if self._client.checksums:
            digest = hashlib.sha256(data).digest()
            more["ChecksumSHA256"] = base64.b64encode(digest).decode()
        self._client.call("put_object", full, Body=data, **more, **self._extra, **extra)
        self._bucket_seen = True

    def _is_there(self, full: str, key: str, data: bytes) -> bool:
        """Whether our own bytes are under the key; False where nothing is. Raises ObjectExistsError."""
        try:
            answer = self._client.get(full, len(data))
        except AbsentError:
            return False
        if answer.size_bytes != len(data) or answer.data != data:
            raise ObjectExistsError(key)
        return True

    def _size(self, full: str) -> int | None:
        try:
            answer = self._retried(lambda: self._client.call("head_object", full))
        except AbsentError:
            self._require_bucket()
            return None
        self._bucket_seen = True
        return int(answer["ContentLength"])

    def _require_bucket(self) -> None:
        """An absent bucket must not look like an empty one: HEAD answers 404 for both."""
        if not self._bucket_seen:
            next(self.list(""), None)
            self._bucket_seen = True
