"""The RFC 6962 Merkle tree, append by append. Pure.

A tree over n leaves is held as its *frontier*: the roots of the perfect subtrees that n's binary digits
name, largest first. Appending a leaf merges equal-sized neighbours, so it costs O(log n) hashes.
RFC 6962 section 2.1: leaf = SHA-256(0x00 || data), node = SHA-256(0x01 || left || right).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["EMPTY_ROOT", "Frontier", "leaf_hash", "node_hash", "tree_root"]

HASH_BYTES: Final = 32
#: The root of the empty tree: the hash of nothing.
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """``peaks`` are the roots of the perfect subtrees, largest first, one per set bit of ``size``."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """The frontier after one more leaf hash."""
        peaks, node, size = list(self.peaks), leaf, self.size
        while size & 1:
            node = node_hash(peaks.pop(), node)
            size >>= 1
        return Frontier(self.size + 1, (*peaks, node))

    def root(self) -> bytes:
        """The Merkle tree hash of all leaves so far, 32 bytes."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def to_bytes(self) -> bytes:
        """The peaks, one after the other."""
        return b"".join(self.peaks)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """The frontier of ``size`` leaves. Raises ValueError if ``data`` does not fit that size."""
        if len(data) != HASH_BYTES * size.bit_count():
            raise ValueError(f"{len(data)} bytes are no frontier of {size} leaves")
        peaks = (data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))
        return cls(size, tuple(peaks))


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf *data* (not hashes), in order."""
    frontier = Frontier()
    for data in leaves:
        frontier = frontier.append(leaf_hash(data))
    return frontier.root()
