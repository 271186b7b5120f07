"""A schedule's slots: the moments that a cron line names. Pure: whoever asks brings the moment.

A slot is written as RFC 3339 UTC without fractions, whatever time zone the schedule is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from launcher.errors import UsageError

__all__ = ["Schedule", "parse_slot", "slot_text"]

#: As cron and Kubernetes know them.
_WORDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """``line``: five fields, or a word such as @daily; ``zone``: an IANA name."""

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raises UsageError: no such line, no such zone."""
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise UsageError(f"there is no time zone {self.zone!r}", "Europe/Berlin, UTC") from exc
        line = self._line
        try:
            if len(line.split()) != _FIELDS:
                raise CronSimError("Wrong number of fields")
            next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as exc:
            said = str(exc) or "it never comes"
            raise UsageError(
                f"{self.line!r} is no schedule: {said}", "five fields: '0 2 * * *'"
            ) from exc

    def __str__(self) -> str:
        return self.line if self.zone == "UTC" else f"{self.line} {self.zone}"

    def newest(self, now: datetime) -> str:
        """The slot at ``now``, or the last one before it."""
        after = now.replace(microsecond=0) + timedelta(seconds=1)
        return slot_text(next(self._from(after, reverse=True)))

    def between(self, after: str, before: str, limit: int) -> list[str]:
        """The slots between two, both left out, oldest first; where there are more, the ``limit`` newest."""
        first = parse_slot(after)
        newest = takewhile(lambda at: at > first, self._from(parse_slot(before), reverse=True))
        return [slot_text(at) for at in islice(newest, limit)][::-1]

    @property
    def _line(self) -> str:
        return _WORDS.get(self.line.strip().lower(), self.line)

    def _from(self, moment: datetime, *, reverse: bool = False) -> Iterator[datetime]:
        return CronSim(self._line, moment.astimezone(ZoneInfo(self.zone)), reverse=reverse)


def slot_text(moment: datetime) -> str:
    """As slots are written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_slot(text: str) -> datetime:
    """The moment of RFC 3339 ``text``, in UTC and whole seconds. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"{text!r} is no slot", "a time with its zone: 2026-02-01T02:00:00Z")
    return moment.astimezone(UTC).replace(microsecond=0)
