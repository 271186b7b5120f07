from __future__ import annotations

from typing import Any

import pytest

from ledger import decider, events, records
from ledger.canonical import canonical_json, parse_json
from ledger.errors import EventTooLargeError, LedgerDamagedError, NewerSchemaError
from ledger.stores.port import NewEvent, StoredEvent
from tests.ledger.samples import NOW, StageAbandoned, StageSkippedV2, skipped

RAW = records.encode(skipped("k"), stream="run/a", version=1, now=NOW, actor="ana")


def test_the_envelope_is_canonical_and_holds_the_type_once() -> None:
    assert RAW == (
        b'{"actor":"ana","data":{"reason":"no command","stage":"llm_off"},"id":"k","schema":1,'
        b'"stream":"run/a","time":"2026-01-31T02:00:00.000250Z","type":"StageSkipped","version":1}'
    )


def test_what_was_written_is_what_is_read() -> None:
    event = skipped("k")
    written = records.recorded(event, position=4, stream="run/a", version=1, now=NOW, actor="ana")
    assert records.parse(4, RAW, "here") == written


def _changed(**members: Any) -> bytes:
    return canonical_json({**parse_json(RAW), **members})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        RAW[:-1],
        RAW.replace(b"}", b"\xff", 1),
        _changed(more=1),
        _changed(version="1"),
        _changed(schema=True),
        _changed(schema=0),
        _changed(data=[]),
        _changed(data={"stage": "llm_off"}),
        _changed(data={"stage": "llm_off", "reason": "r", "type": "RunSucceeded"}),
    ],
)
def test_bytes_that_are_no_event_name_their_position(raw: bytes) -> None:
    with pytest.raises(LedgerDamagedError) as caught:
        records.parse(7, raw, "here")
    assert (caught.value.where, caught.value.position) == ("here", 7)


@pytest.mark.parametrize("stored", [("x", "run/a", 1), ("k", "run/b", 1), ("k", "run/a", 2)])
def test_an_index_that_names_another_event_is_damage(stored: tuple[str, str, int]) -> None:
    with pytest.raises(LedgerDamagedError, match="position 7"):
        records.parse_stored(StoredEvent(7, *stored, RAW), "here")
    assert records.parse_stored(StoredEvent(7, "k", "run/a", 1, RAW), "here").id == "k"


@pytest.mark.parametrize("data", [StageAbandoned(stage="retrain"), StageSkippedV2(stages=("a",))])
def test_a_newer_event_is_read_and_passed_over_and_never_written(data: events.EventData) -> None:
    raw = records.encode(NewEvent("n", data), stream="run/a", version=1, now=NOW, actor="ana")
    record = records.parse(0, raw, "here")
    assert (record.type, record.schema) == (data.type, data.schema_version)
    assert isinstance(record.data, events.NewerEvent)
    assert parse_json(record.data.text.encode()) == records.data_json(data)
    state = decider.RunState("run/a")
    assert decider.evolve(state, record).status == "unknown"
    with pytest.raises(NewerSchemaError):
        records.prepare("run/a", 1, [NewEvent("n2", record.data)], now=NOW, actor="ana")


def test_the_limit_is_of_the_whole_envelope() -> None:
    spare = events.EVENT_LIMIT_BYTES - len(RAW) + len("no command")
    fits = records.encode(
        skipped("k", "x" * spare), stream="run/a", version=1, now=NOW, actor="ana"
    )
    assert len(fits) == events.EVENT_LIMIT_BYTES
    with pytest.raises(EventTooLargeError) as caught:
        records.encode(
            skipped("k", "x" * (spare + 1)), stream="run/a", version=1, now=NOW, actor="ana"
        )
    assert caught.value.size_bytes == events.EVENT_LIMIT_BYTES + 1


@pytest.mark.parametrize("now", ["", "2026-01-31T02:00:00Z", "2026-01-31T02:00:00.000250+00:00"])
def test_a_time_in_another_form_is_refused(now: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        records.prepare("run/a", 0, [skipped("k")], now=now, actor="ana")
