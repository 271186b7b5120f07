"""``s3://bucket/prefix``: how a setting names a bucket."""

from __future__ import annotations

import re
from typing import Final

from launcher.errors import UsageError
from launcher.storage.port import check_key

__all__ = ["is_bucket", "look_seconds", "normal_url", "parse_url"]

#: Amazon S3's rules for names of general-purpose buckets, and dots, which older buckets have.
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

#: A request costs money and somebody's server; nothing that is done for a run on this machine waits for it.
_FAR_LOOK_SECONDS: Final = 5.0


def is_bucket(place: str) -> bool:
    """Whether a setting names a bucket and not a folder."""
    return place.startswith("s3://")


def look_seconds(place: str, near: float) -> float:
    """How long a store may go unasked about what is mostly heard of in another way: ``near`` for a folder."""
    return _FAR_LOOK_SECONDS if is_bucket(place) else near


def parse_url(url: str) -> tuple[str, str]:
    """(bucket, prefix without slashes at its ends). Raises UsageError, before any I/O, without a password."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if "@" in bucket:
        raise UsageError(
            "a store's URL holds no credentials", "set AWS_PROFILE or AWS_ACCESS_KEY_ID"
        )
    if not is_bucket(url) or not _BUCKET.fullmatch(bucket) or set("?#") & set(prefix):
        raise UsageError(f"{url!r} names no bucket", "s3://bucket or s3://bucket/prefix")
    if prefix:
        check_key(prefix)
    return bucket, prefix


def normal_url(url: str) -> str:
    """The one way in which this place is written. Raises UsageError."""
    bucket, prefix = parse_url(url)
    return f"s3://{bucket}/{prefix}".rstrip("/")
