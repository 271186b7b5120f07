"""Which moments a cron line names, in its time zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from launcher.cron.schedule import Schedule, parse_slot, slot_text
from launcher.errors import UsageError

NIGHTLY = Schedule("0 2 * * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "slot"),
    [
        ("2026-02-03T02:00:00+00:00", "2026-02-03T02:00:00Z"),
        ("2026-02-03T02:00:00.000001+00:00", "2026-02-03T02:00:00Z"),
        ("2026-02-03T01:59:59.999999+00:00", "2026-02-02T02:00:00Z"),
        ("2026-02-03T23:59:00+00:00", "2026-02-03T02:00:00Z"),
    ],
)
def test_the_newest_slot_is_now_or_before(now: str, slot: str) -> None:
    assert NIGHTLY.newest(at(now)) == slot


def test_a_slot_is_in_utc_whatever_the_schedules_zone() -> None:
    berlin = Schedule("0 2 * * *", "Europe/Berlin")
    assert berlin.newest(at("2026-02-03T12:00:00+00:00")) == "2026-02-03T01:00:00Z"
    assert berlin.newest(at("2026-07-03T12:00:00+00:00")) == "2026-07-03T00:00:00Z"
    assert str(berlin) == "0 2 * * * Europe/Berlin"


def test_what_lies_between_two_slots_leaves_both_out() -> None:
    between = NIGHTLY.between("2026-02-01T02:00:00Z", "2026-02-04T02:00:00Z", 10)
    assert between == ["2026-02-02T02:00:00Z", "2026-02-03T02:00:00Z"]
    assert NIGHTLY.between("2026-02-01T02:00:00Z", "2026-02-02T02:00:00Z", 10) == []


def test_of_many_the_newest_are_named() -> None:
    between = NIGHTLY.between("2020-01-01T02:00:00Z", "2026-02-04T02:00:00Z", 2)
    assert between == ["2026-02-02T02:00:00Z", "2026-02-03T02:00:00Z"]


@pytest.mark.parametrize(
    ("word", "slot"),
    [
        ("@hourly", "2026-02-03T12:00:00Z"),
        ("@daily", "2026-02-03T00:00:00Z"),
        ("@weekly", "2026-02-01T00:00:00Z"),
        ("@Monthly", "2026-02-01T00:00:00Z"),
        ("@yearly", "2026-01-01T00:00:00Z"),
    ],
)
def test_words_are_known(word: str, slot: str) -> None:
    assert Schedule(word).newest(at("2026-02-03T12:30:00+00:00")) == slot


@pytest.mark.parametrize(
    "line", ["", "0 2 * *", "0 0 2 * * *", "61 * * * *", "a b c d e", "0 0 30 2 *", "@reboot"]
)
def test_what_is_no_schedule_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="is no schedule"):
        Schedule(line)


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", ""])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(UsageError, match="no time zone"):
        Schedule("@daily", zone)


def test_a_slot_is_read_with_its_zone_only() -> None:
    assert parse_slot("2026-02-01T03:00:00.5+01:00") == datetime(2026, 2, 1, 2, tzinfo=UTC)
    assert slot_text(parse_slot("2026-02-01T02:00:00Z")) == "2026-02-01T02:00:00Z"
    for text in ("2026-02-01T02:00:00", "tonight", ""):
        with pytest.raises(UsageError, match="is no slot"):
            parse_slot(text)
