"""JSON as every reader understands it alike: what two readers could read differently is refused."""

from __future__ import annotations

import json
import math
from typing import Any, Final

__all__ = ["MAX_DEPTH", "NotStrictError", "parse_strict"]

#: So many objects and lists may lie inside each other; far below what Python's own stack allows.
MAX_DEPTH: Final = 64


class NotStrictError(ValueError):
    """These bytes are not such JSON. ``line`` is counted from 1 within them."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


def parse_strict(raw: bytes) -> Any:
    """The value of JSON in UTF-8 without a byte order mark.

    Raises NotStrictError, also for NaN, Infinity, a number that no double holds (1e999), the same key twice
    in an object, and for more than MAX_DEPTH levels.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        line = 1 + raw.count(b"\n", 0, exc.start)
        raise NotStrictError(f"it is not UTF-8 (at byte {exc.start + 1} of it)", line) from exc
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise NotStrictError(f"it is no JSON: {exc.msg} at column {exc.colno}", exc.lineno) from exc
    except RecursionError:
        raise NotStrictError(_TOO_DEEP) from None
    except ValueError as exc:
        reason = (
            str(exc) if isinstance(exc, _RefusedError) else "it has a number of too many digits"
        )
        raise NotStrictError(reason) from exc
    if _too_deep(value):
        raise NotStrictError(_TOO_DEEP)
    return value


_TOO_DEEP: Final = f"it nests more than {MAX_DEPTH} levels deep"


class _RefusedError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    raise _RefusedError(f"the key {twice!r} is in one object twice")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isfinite(value):
        return value
    raise _RefusedError(f"the number {digits} is too large")


def _constant(name: str) -> Any:
    raise _RefusedError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
)


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
