"""The format of the ledger in a bucket. Pure.

A segment is one append: an object ``ledger/log/<sequence, 12 digits>``, numbered from 1 without gaps. Its
first line is a header, every further line one event's canonical bytes; each line ends in a newline, which
canonical JSON never holds. The header is canonical JSON too:

    {"count":2,"first":17,"format":1,"previous":"sha256:…","root":"…","sequence":9}

``first`` is the position of its first event and ``count`` how many there are; ``previous`` is the digest
of all bytes of the segment before (null in the first); ``root`` is the RFC 6962 root, in hex, over all
events up to and with this segment. So the newest segment vouches for every byte before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.canonical import canonical_json, parse_json
from ledger.errors import LedgerDamagedError, NewerSchemaError
from ledger.transparency.merkle import Frontier, leaf_hash

__all__ = [
    "FORMAT",
    "LOG_PREFIX",
    "Segment",
    "Tip",
    "digest_of",
    "next_segment",
    "parse_header",
    "parse_segment",
    "segment_key",
    "sequence_of",
]

LOG_PREFIX: Final = "ledger/log/"
FORMAT: Final = 1

_KEY: Final = re.compile(re.escape(LOG_PREFIX) + r"([0-9]{12})")
_HEADER: Final[dict[str, type | tuple[type, ...]]] = {
    "count": int,
    "first": int,
    "format": int,
    "previous": (str, type(None)),
    "root": str,
    "sequence": int,
}


def segment_key(sequence: int) -> str:
    """The key of a segment; ``segment_key(0)`` sorts before all of them."""
    return f"{LOG_PREFIX}{sequence:012d}"


def sequence_of(key: str) -> int | None:
    """The number of the segment under ``key``; None for a key of something else."""
    match = _KEY.fullmatch(key)
    return int(match[1]) if match else None


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of a segment's bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as read: what its header says, its events' bytes in order, and all its bytes."""

    sequence: int
    first: int
    previous: str | None
    root: bytes
    raws: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a log ends: its newest segment (0 for none), that one's digest, the tree over all events."""

    sequence: int = 0
    digest: str | None = None
    frontier: Frontier = field(default_factory=Frontier)

    @property
    def size(self) -> int:
        """How many events there are."""
        return self.frontier.size

    def grown(self, raws: Sequence[bytes]) -> Frontier:
        """The tree after these events."""
        frontier = self.frontier
        for raw in raws:
            frontier = frontier.append(leaf_hash(raw))
        return frontier

    def follow(self, segment: Segment, where: str) -> Tip:
        """The tip after ``segment``. Raises LedgerDamagedError if it is not what comes next."""
        if segment.sequence != self.sequence + 1:
            wrong = f"{segment_key(segment.sequence)} stands in its place"
        elif segment.previous != self.digest:
            before = segment_key(self.sequence) if self.sequence else "nothing"
            wrong = (
                f"it follows {segment.previous or 'nothing'}, but {before} before it is"
                f" {self.digest or 'there'}: one of the two was changed"
            )
        elif segment.first != self.size:
            wrong = f"it begins at position {segment.first}, the one before it ends at {self.size}"
        else:
            frontier = self.grown(segment.raws)
            if frontier.root() == segment.root:
                return Tip(segment.sequence, digest_of(segment.data), frontier)
            wrong = "its events do not hash to the root in its header"
        raise LedgerDamagedError(where, f"{segment_key(self.sequence + 1)}: {wrong}", self.size)


def next_segment(tip: Tip, raws: Sequence[bytes]) -> Segment:
    """The segment that adds ``raws`` (at least one, canonical) after ``tip``."""
    root = tip.grown(raws).root()
    header = {
        "count": len(raws),
        "first": tip.size,
        "format": FORMAT,
        "previous": tip.digest,
        "root": root.hex(),
        "sequence": tip.sequence + 1,
    }
    data = b"\n".join([canonical_json(header), *raws, b""])
    return Segment(tip.sequence + 1, tip.size, tip.digest, root, tuple(raws), data)


def parse_segment(sequence: int, data: bytes, where: str) -> Segment:
    """What ``data``, found under the number ``sequence``, holds; its events are not looked into.

    Raises LedgerDamagedError naming the segment if it is none, NewerSchemaError for a later format.
    """
    try:
        lines = data.split(b"\n")
        header = parse_header(lines[0])
        if header["format"] > FORMAT:
            raise NewerSchemaError("a segment format", header["format"], FORMAT, None)
        if header["sequence"] != sequence:
            raise ValueError(f"it calls itself number {header['sequence']}")
        raws = tuple(lines[1:-1])
        if lines[-1] != b"" or len(raws) != header["count"] or not raws:
            raise ValueError(f"{len(raws)} whole events of {header['count']}")
        return Segment(
            sequence,
            header["first"],
            header["previous"],
            bytes.fromhex(header["root"]),
            raws,
            data,
        )
    except ValueError as exc:
        detail = f"{segment_key(sequence)} is no segment: {exc}"
        raise LedgerDamagedError(where, detail) from exc


def parse_header(line: bytes) -> dict[str, Any]:
    """A segment's first line; of a later format only its number is looked at. Raises ValueError if it is none."""
    header = parse_json(line)
    if not isinstance(header, dict) or not {"format"} <= header.keys():
        raise ValueError("its first line is no header")
    later = type(header["format"]) is int and header["format"] > FORMAT
    if not later and header.keys() != _HEADER.keys():
        raise ValueError("its header's members are not a header's")
    for name, kind in _HEADER.items():
        if not later and (not isinstance(header[name], kind) or isinstance(header[name], bool)):
            raise ValueError(f"its header's {name} is of a wrong type")
    return header
