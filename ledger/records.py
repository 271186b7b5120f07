"""Between an event and its stored bytes: one canonical JSON envelope. Pure.

The envelope is ``{id, type, schema, stream, version, time, actor, data}`` in RFC 8785 form, written once
and hashed as stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from ledger.canonical import canonical_json
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
from ledger.stores.port import NewEvent
from ledger.upcasters import upcast

__all__ = ["encode", "is_newer", "parse", "same_fact", "settle_known"]

T = TypeVar("T")


def data_json(data: EventData) -> dict[str, Any]:
    """An event's ``data`` as it is stored: every field, without the discriminating type."""
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


def is_newer(type_: str, schema: int) -> bool:
    """Whether this program is too old for an event of this type and schema."""
    known = EVENT_TYPES.get(type_)
    return known is None or schema > known.schema_version


def parse(position: int, raw: bytes, where: str) -> Recorded[Any]:
    """The record that ``raw`` holds, upcast to today's schema; a newer one keeps its data as text.

    Raises LedgerDamagedError naming the position if the bytes are no event.
    """
    try:
        envelope = json.loads(raw)
        type_, schema = envelope["type"], envelope["schema"]
        data: EventData
        if is_newer(type_, schema):
            text = canonical_json(envelope["data"]).decode()
            data = NewerEvent(type=type_, newer_schema=schema, text=text)
        else:
            today = EVENT_TYPES[type_].schema_version
            data = parse_event(type_, upcast(type_, schema, envelope["data"], to=today))
        return Recorded(
            position=position,
            id=envelope["id"],
            type=type_,
            schema=schema,
            stream=envelope["stream"],
            version=envelope["version"],
            time=envelope["time"],
            actor=envelope["actor"],
            data=data,
        )
    except (ValueError, KeyError, TypeError, ValidationError) as exc:
        detail = str(exc).splitlines()[0]
        raise LedgerDamagedError(where, f"no event: {detail}", position) from exc


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
