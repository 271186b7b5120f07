"""The port that every store implements.

The contract, checked by ``tests/contract/test_object_store.py`` on each backend:

1. **Create-only.** An object is created under its key or it is there already (ObjectExistsError).
   Nothing is overwritten; a reader sees the whole object or none. Of many creators one wins.
2. ``replace`` is the one exception, for convenience views that nothing of ours trusts.
3. A blob lies under ``blobs/sha256/<2 hex>/<hex>``, hashed while it streams in, before it has its
   name, and hashed again on every read. Truncation or a flipped bit is BlobDamagedError, naming it.
4. Bytes cross between store and visible paths by reflink or copy, never by hard link.
5. Listings are ascending by key, in code-point order.
6. **The trash.** Nothing else takes an object's name away: a blob is moved to ``trash/<date>/<its key>``, whole,
   and whoever looks for it finds it there too. Reading reads it where it lies; ``recover`` puts it back,
   create-only, and leaves the copy in the trash. Only ``empty`` ends bytes, for whoever knows that none needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from launcher.errors import ConflictError, IntegrityError, UsageError

__all__ = [
    "TEMPORARY_PREFIX",
    "AccessRefusedError",
    "BlobDamagedError",
    "BlobInfo",
    "BlobMissingError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectNotFoundError",
    "ObjectStore",
    "Progress",
    "blob_key",
    "check_key",
    "key_part",
    "trash_key",
    "trash_prefix",
]

#: Hears how many bytes of how many are done; from any thread, one call at a time, ascending.
Progress = Callable[[int, int], object]

#: How the names begin that a store in a folder keeps for itself.
TEMPORARY_PREFIX: Final = ".tmp-"
#: NAME_MAX of every file system in use; a bucket's whole key may have 1,024 bytes.
_MAX_PART_BYTES: Final = 255
_MAX_KEY_BYTES: Final = 1024
#: Of an encoded name: what ``.json`` behind it takes is left.
_MAX_ENCODED_BYTES: Final = _MAX_PART_BYTES - len(".json")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class AccessRefusedError(UsageError):
    """The store does not know us or does not allow it; trying again at once changes nothing."""


class ObjectExistsError(ConflictError):
    """The key is taken; what is there stands."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} exists already")
        self.key = key


class ObjectNotFoundError(IntegrityError):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is not in the store")
        self.key = key


class BlobMissingError(IntegrityError):
    """There is no blob of this digest."""

    def __init__(self, digest: str, where: str) -> None:
        super().__init__(f"blob {digest} is not in {where}")
        self.digest, self.where = digest, where


class BlobDamagedError(IntegrityError):
    """A blob's bytes do not hash to its name: it was truncated or changed behind our back."""

    def __init__(self, digest: str, where: str, detail: str) -> None:
        super().__init__(f"blob {digest} in {where} is damaged: {detail}")
        self.digest, self.where, self.detail = digest, where, detail


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """``modified`` is epoch seconds, by the store's clock."""

    key: str
    size_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """``digest`` is ``sha256:<hex>``."""

    digest: str
    size_bytes: int


def blob_key(digest: str) -> str:
    """The key of a blob, from its ``sha256:<hex>`` digest."""
    hexadecimal = digest.removeprefix("sha256:")
    return f"blobs/sha256/{hexadecimal[:2]}/{hexadecimal}"


def trash_prefix(date: str) -> str:
    """Under what the trash of a date lies; ``date`` is ``YYYY-MM-DD``. Raises UsageError."""
    if not _DATE.fullmatch(date):
        raise UsageError(f"{date!r} is no date", "YYYY-MM-DD")
    return f"trash/{date}/"


def trash_key(date: str, digest: str) -> str:
    """The key of a blob in the trash of a date."""
    return trash_prefix(date) + blob_key(digest)


def check_key(key: str) -> str:
    """Return ``key`` if every store can hold it, before any I/O. Raises UsageError.

    A key has parts between slashes; none is empty, '.', '..', longer than 255 bytes of UTF-8, or begins
    like a temporary name; no control characters.
    """
    raw = key.encode("utf-8", "surrogatepass")
    bad_parts = any(
        part in (b"", b".", b"..")
        or part.startswith(TEMPORARY_PREFIX.encode())
        or len(part) > _MAX_PART_BYTES
        for part in raw.split(b"/")
    )
    bad_characters = any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in key)
    if bad_parts or bad_characters or len(raw) > _MAX_KEY_BYTES:
        raise UsageError(f"{key!r} is no key")
    return key


def key_part(name: str, what: str) -> str:
    """A name that may hold slashes and anything else, as one part of a key: percent-encoded.

    Every character but letters, digits and ``-._`` is. Raises UsageError, in which ``what`` says whose name it is.
    """
    part = quote(name, safe="").replace("~", "%7E")
    if len(part) > _MAX_ENCODED_BYTES:
        raise UsageError(f"{what} {name} is too long: {len(part)} bytes, encoded")
    return part


class ObjectStore(Protocol):
    """A store of create-only objects and blobs. Every method may raise UnavailableError.

    Threads may share one. A key is checked before anything is done (``check_key``).
    """

    @property
    def where(self) -> str:
        """What a person would call this store: its path or URL."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Create ``key`` with ``data``, durable when it returns. Raises ObjectExistsError.

        Where the very same bytes are there already it may raise or return: a store far away cannot tell
        its own success from another's. Who must know which, writes who he is into them.
        """
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Write a convenience view, atomically, over whatever is there."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object. Raises ObjectNotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Whether ``key`` is there."""
        ...

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix`` and sorts after ``after``, ascending by key."""
        ...

    def ingest(self, source: Path, progress: Progress | None = None) -> BlobInfo:
        """Store a file's bytes as a blob, hashed while they stream in; skipped where it is there already.

        Raises UsageError if ``source`` is no readable regular file or changes while it is read (tried
        twice), BlobDamagedError if a blob of another size has its name.
        """
        ...

    def ingest_bytes(self, data: bytes) -> BlobInfo:
        """Store ``data`` as a blob."""
        ...

    def stat_blob(self, digest: str) -> BlobInfo | None:
        """A blob's size, or None where it is absent, from the trash too. Does not read its bytes."""
        ...

    def verify_blob(self, digest: str) -> BlobInfo:
        """Hash a blob's bytes. Raises BlobMissingError, BlobDamagedError."""
        ...

    def read_blob(self, digest: str, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        """A small blob's bytes, verified. Raises BlobMissingError, BlobDamagedError, UsageError over the limit."""
        ...

    def fetch_blob(self, digest: str, dest: Path, progress: Progress | None = None) -> BlobInfo:
        """Write a blob to ``dest``: beside it, hashed while it streams, fsynced, renamed when right.

        ``dest``'s folder is made; an existing ``dest`` is replaced atomically.
        Raises BlobMissingError, BlobDamagedError; ``dest`` is then untouched.
        """
        ...

    def free_bytes(self) -> int | None:
        """Free space in bytes, or None where the store has no such limit."""
        ...

    # --- the trash ---

    def discard(self, blobs: Sequence[BlobInfo], date: str) -> Mapping[str, str]:
        """Move these blobs to the trash of ``date``; those that are gone already are passed over.

        A blob leaves its place once its copy in the trash is whole and durable. Killed on the way, each is in its
        place, in the trash, or both. Returns why some were left in their place, by digest.
        """
        ...

    def recover(self, digest: str) -> BlobInfo | None:
        """See that a blob is in its place, moved back from the trash if it must be; None where it is in neither.

        For whoever is about to rely on it. Raises BlobDamagedError where what is in the trash is not the blob.
        """
        ...

    def trash_dates(self) -> Sequence[str]:
        """The dates that have a trash, ascending."""
        ...

    def trashed(self, date: str) -> Iterator[ObjectInfo]:
        """The blobs in the trash of a date, ascending by key; ``key`` is a blob's own, ``modified`` when it came."""
        ...

    def empty(self, date: str, digests: Sequence[str]) -> Mapping[str, str]:
        """Delete these blobs from the trash of a date, for good; returns why some were not, by digest."""
        ...

    def clock(self) -> float:
        """The store's own clock, epoch seconds. For writers: it may make a hidden file for a moment."""
        ...
