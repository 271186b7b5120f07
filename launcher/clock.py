"""The one home of the clock and of random ids."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["deadline", "jittered", "new_id", "new_run_id", "now", "parse_time", "sleep"]


def now() -> str:
    """This moment, RFC 3339 UTC to the microsecond: ``2026-01-31T02:00:00.000000Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """An aware datetime from RFC 3339 text. Raises ValueError."""
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def new_run_id(moment: str) -> str:
    """A run id, ``YYYYMMDDTHHMMSSZ-xxxx``, sortable by the moment; the four hex digits are random."""
    return parse_time(moment).strftime("%Y%m%dT%H%M%SZ-") + secrets.token_hex(2)


def new_id() -> str:
    """A random id (UUIDv4), for one person's one decision."""
    return str(uuid.uuid4())


def deadline(seconds: float) -> Callable[[], bool]:
    """A question that is answered with True once ``seconds`` are over, whatever is done to the clock."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def jittered(seconds: float) -> float:
    """About ``seconds``, a fifth more or less, so that many who began at once do not ask at once for ever."""
    return seconds * (0.8 + 0.4 * secrets.randbelow(10_000) / 9_999)


def sleep(seconds: float) -> None:
    """Wait ``seconds``; the only sleep of the launcher, between two looks at something."""
    time.sleep(seconds)
