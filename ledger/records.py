"""Between an event and its stored bytes: one canonical JSON envelope. Pure.

The envelope is ``{id, type, schema, stream, version, time, actor, data}`` in RFC 8785 form, written once
and hashed as stored. What every store does alike in an append is here too: ``prepare`` before it looks,
``settle_known`` and ``refuse_newer`` once it has looked, ``recorded`` for what it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from ledger.canonical import canonical_json, parse_json
from ledger.errors import (
    EventTooLargeError,
    LedgerDamagedError,
    NewerSchemaError,
    VersionConflictError,
)
from ledger.events import (
    EVENT_LIMIT_BYTES,
    EVENT_TYPES,
    EventData,
    NewerEvent,
    Recorded,
    parse_event,
)
from ledger.ids import check_stream
from ledger.stores.port import NewEvent, StoredEvent
from ledger.upcasters import upcast

__all__ = [
    "encode",
    "envelope",
    "is_newer",
    "parse",
    "parse_stored",
    "prepare",
    "recorded",
    "refuse_newer",
    "same_fact",
    "settle_known",
    "written_by",
]

#: RFC 3339 UTC to the microsecond.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
#: The envelope's members and their JSON types.
_ENVELOPE: Final[dict[str, type]] = {
    "id": str,
    "type": str,
    "schema": int,
    "stream": str,
    "version": int,
    "time": str,
    "actor": str,
    "data": dict,
}


def data_json(data: EventData) -> dict[str, Any]:
    """An event's ``data`` as it is stored: every field, defaults included, without its type."""
    return data.model_dump(mode="json", exclude={"type"})


def encode(event: NewEvent, *, stream: str, version: int, now: str, actor: str) -> bytes:
    """The canonical bytes of an event. Raises EventTooLargeError, NotCanonicalError."""
    raw = canonical_json(
        {
            "id": event.id,
            "type": event.data.type,
            "schema": event.data.schema_version,
            "stream": stream,
            "version": version,
            "time": now,
            "actor": actor,
            "data": data_json(event.data),
        }
    )
    if len(raw) > EVENT_LIMIT_BYTES:
        raise EventTooLargeError(event.data.type, len(raw), EVENT_LIMIT_BYTES)
    return raw


def prepare(
    stream: str, expected: int, events: Sequence[NewEvent], *, now: str, actor: str
) -> list[bytes]:
    """The bytes that ``events`` get after version ``expected``: all that needs no look at the ledger.

    Raises ValueError for no events, an id twice or a malformed time, InvalidNameError, EventTooLargeError,
    NotCanonicalError, NewerSchemaError (an event that this program could only read).
    """
    check_stream(stream)
    if not events or len({e.id for e in events}) != len(events):
        raise ValueError("a batch has at least one event, each with an id of its own")
    if not _TIME.fullmatch(now):
        raise ValueError(f"{now!r} is not RFC 3339 UTC to the microsecond")
    for event in events:
        if isinstance(event.data, NewerEvent):
            refuse_newer((event.data.newer_type, event.data.newer_schema, None))
    return [
        encode(event, stream=stream, version=version, now=now, actor=actor)
        for version, event in enumerate(events, start=expected + 1)
    ]


def recorded(
    event: NewEvent, *, position: int, stream: str, version: int, now: str, actor: str
) -> Recorded[Any]:
    """What ``parse`` will make of the bytes of an event just written."""
    return Recorded(
        position=position,
        id=event.id,
        type=event.data.type,
        schema=event.data.schema_version,
        stream=stream,
        version=version,
        time=now,
        actor=actor,
        data=event.data,
    )


def is_newer(type_: str, schema: int) -> bool:
    """Whether this program is too old for an event of this type and schema."""
    known = EVENT_TYPES.get(type_)
    return known is None or schema > known.schema_version


def parse(position: int, raw: bytes, where: str) -> Recorded[Any]:
    """The record that ``raw`` holds, upcast to today's schema; a newer one keeps its data as text.

    Raises LedgerDamagedError naming the position if the bytes are no event.
    """
    try:
        envelope = _envelope(raw)
        type_, schema = envelope["type"], envelope["schema"]
        if is_newer(type_, schema):
            text = canonical_json(envelope["data"]).decode()
            envelope["data"] = NewerEvent(newer_type=type_, newer_schema=schema, text=text)
        else:
            today = EVENT_TYPES[type_].schema_version
            envelope["data"] = parse_event(type_, upcast(type_, schema, envelope["data"], to=today))
    except ValueError as exc:
        # pydantic's ValidationError is a ValueError whose first line only counts what is wrong.
        detail = " ".join(str(exc).splitlines()[:3])
        raise LedgerDamagedError(where, f"no event: {detail}", position) from exc
    return Recorded(position=position, **envelope)


def envelope(position: int, raw: bytes, where: str) -> dict[str, Any]:
    """The envelope as it is stored, its data neither checked nor upcast: enough to index an event.

    Raises LedgerDamagedError naming the position if the bytes are no event.
    """
    try:
        return _envelope(raw)
    except ValueError as exc:
        raise LedgerDamagedError(where, f"no event: {exc}", position) from exc


def parse_stored(stored: StoredEvent, where: str) -> Recorded[Any]:
    """As ``parse``, and what the bytes say of themselves is what the store's index says of them."""
    record = parse(stored.position, stored.raw, where)
    said = (record.id, record.stream, record.version)
    if said != (stored.id, stored.stream, stored.version):
        raise LedgerDamagedError(where, "the event is not the one its index names", stored.position)
    return record


def _envelope(raw: bytes) -> dict[str, Any]:
    envelope = parse_json(raw)
    if not isinstance(envelope, dict) or envelope.keys() != _ENVELOPE.keys():
        raise ValueError("its members are not an envelope's")
    for name, kind in _ENVELOPE.items():
        if type(envelope[name]) is not kind:
            raise ValueError(f"its {name} is no {kind.__name__}")
    if "type" in envelope["data"]:
        raise ValueError("its data names a type of its own")
    return envelope


def same_fact(known: Recorded[Any], event: NewEvent, stream: str) -> bool:
    """Whether a record says exactly what ``event`` says: type, schema, stream and data."""
    return (
        known.stream == stream
        and known.type == event.data.type
        and known.schema == event.data.schema_version
        and data_json(known.data) == data_json(event.data)
    )


def settle_known(
    events: Sequence[NewEvent],
    known: Sequence[Recorded[Any] | None],
    *,
    stream: str,
    expected: int,
    actual: int,
) -> list[Recorded[Any]] | None:
    """What an append must answer before anything is written; ids count before versions.

    The first records where every event is known and the same; None where none is known and the version
    fits. Raises VersionConflictError for anything between.
    """
    found = [record for record in known if record is not None]
    if found:
        if len(found) == len(events) and all(
            same_fact(record, event, stream) for record, event in zip(found, events, strict=True)
        ):
            return found
        raise VersionConflictError(stream, expected, actual)
    if expected != actual:
        raise VersionConflictError(stream, expected, actual)
    return None


def refuse_newer(newer: tuple[str, int, str | None] | None) -> None:
    """Raises NewerSchemaError if the ledger holds what this program does not know."""
    if newer is not None:
        type_, schema, written_by = newer
        known = EVENT_TYPES[type_].schema_version if type_ in EVENT_TYPES else 0
        raise NewerSchemaError(type_, schema, known, written_by)


def written_by(*raws: bytes) -> str | None:
    """The launcher version that the first of ``raws`` to name one names, as a run's request does."""
    for raw in raws:
        provenance = _envelope(raw)["data"].get("provenance")
        version = provenance.get("launcher_version") if isinstance(provenance, dict) else None
        if isinstance(version, str):
            return version
    return None
