"""What lies in a cache of a log in a bucket, looked at from outside: nothing is made, mended or renewed.

For whoever compares a cache with the bucket (``launcher drill``); a ledger uses its own door, which heals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ledger.stores._segment_caches import newest_file
from ledger.stores._sqlite_connection import Connection
from ledger.stores.segments import digest_of

__all__ = ["KeptCache", "kept_cache"]


@dataclass(frozen=True, slots=True)
class KeptCache:
    """The newest cache ``file`` of ``log``: each segment's number and the digest of its bytes as they lie there."""

    file: Path
    log: str
    digests: dict[int, str]


def kept_cache(folder: Path) -> KeptCache | None:
    """The cache in ``folder``; None where there is none. Raises LedgerUnavailableError, LedgerDamagedError."""
    path = newest_file(folder)
    if path is None:
        return None
    file = Connection(path, read_only=True, busy_timeout_seconds=30, prepare=lambda _: None)
    try:
        logs = file.rows("SELECT log FROM about")
        rows = file.rows("SELECT sequence, data FROM segments ORDER BY sequence")
    finally:
        file.close()
    digests = {n: digest_of(data) if isinstance(data, bytes) else "" for n, data in rows}
    return KeptCache(path, str(logs[0][0]) if logs else "", digests)
