"""Canonical bytes: RFC 8785 (JSON Canonicalization Scheme). Pure.

``json``'s C encoder gives the same bytes for values without floats whose keys are ASCII and whose
integers JavaScript can hold, at a fraction of the cost; everything else goes to the ``rfc8785`` package.
A property test holds the two against each other.
"""

from __future__ import annotations

import json
from typing import Any, Final

import rfc8785

from ledger.errors import LedgerError

__all__ = ["NotCanonicalError", "canonical_json"]

#: The largest integer that a double holds exactly (RFC 8785, appendix B).
_MAX_INT: Final = 2**53 - 1
_ENCODE: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode


class NotCanonicalError(LedgerError):
    """The value has no canonical form: NaN, an integer that no double holds, a lone surrogate, …"""


def canonical_json(value: Any) -> bytes:
    """The RFC 8785 form of a JSON value, UTF-8. Raises NotCanonicalError."""
    try:
        if _plain(value):
            return _ENCODE(value).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as exc:
        raise NotCanonicalError(f"no canonical form: {exc}") from exc


def _plain(value: Any) -> bool:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-_MAX_INT <= value <= _MAX_INT)
    if kind is dict:
        return all(type(k) is str and k.isascii() and _plain(v) for k, v in value.items())
    if kind is list or kind is tuple:
        return all(map(_plain, value))
    return False
