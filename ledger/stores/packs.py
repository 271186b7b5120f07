"""Packs: copies of 64 segments in one object, for whoever has many to read. Pure.

The pack ``ledger/packs/64/<number of its last segment, 12 digits>`` is the bytes of the 64 segments that end with that
one, laid end to end. Nothing stands on a pack. It is believed only where its last segment is, byte for byte, the log's
own, which vouches through ``previous`` for the 63 before it; so what is read from it is what the segments themselves
hold. Whoever has the segments makes the same bytes: a pack may be missing, deleted, and made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from ledger.errors import LedgerDamagedError, NewerSchemaError
from ledger.stores.segments import Segment, digest_of, parse_header, parse_segment

__all__ = ["PACKED", "PACKS_PREFIX", "end_of_pack", "last_packed", "pack", "pack_key", "unpack"]

#: Segments in a pack: fewer are read for each that is new, more are copied for each that is made.
PACKED: Final = 64
PACKS_PREFIX: Final = f"ledger/packs/{PACKED}/"
_KEY: Final = re.compile(re.escape(PACKS_PREFIX) + r"([0-9]{12})")


def pack_key(last: int) -> str:
    """The key of the pack that ends with segment ``last``, a multiple of 64."""
    return f"{PACKS_PREFIX}{last:012d}"


def last_packed(key: str) -> int | None:
    """The number of the last segment in the pack under ``key``; None for a key of something else."""
    match = _KEY.fullmatch(key)
    return int(match[1]) if match and int(match[1]) % PACKED == 0 else None


def end_of_pack(sequence: int) -> int:
    """The number of the last segment in the pack in which segment ``sequence`` is."""
    return -(-sequence // PACKED) * PACKED


def pack(segments: Sequence[Segment]) -> bytes:
    """The pack of these 64 segments."""
    return b"".join(segment.data for segment in segments)


def unpack(last: int, data: bytes, newest: bytes) -> list[Segment] | None:
    """The 64 segments in ``data``, found under the key of ``last``, ascending; None where they are not the log's.

    ``newest`` is the log's own segment ``last``.
    """
    try:
        found = list(_segments(last - PACKED + 1, data.split(b"\n")))
    except (ValueError, LedgerDamagedError, NewerSchemaError):
        return None
    vouched = all(after.previous == digest_of(before.data) for before, after in pairwise(found))
    if vouched and len(found) == PACKED and found[-1].data == newest and pack(found) == data:
        return found
    return None


def _segments(sequence: int, lines: Sequence[bytes]) -> Iterator[Segment]:
    at = 0
    while at < len(lines) - 1:
        end = at + 1 + int(parse_header(lines[at])["count"])
        yield parse_segment(sequence, b"\n".join([*lines[at:end], b""]), PACKS_PREFIX)
        at, sequence = end, sequence + 1
