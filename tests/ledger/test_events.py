"""The events: frozen, strict, small, and each released schema as it was released."""

from __future__ import annotations

import importlib
import json
import pkgutil
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import ledger.events
from ledger import events as e
from ledger import records
from ledger.canonical import NotCanonicalError
from ledger.errors import EventTooLargeError
from ledger.stores.port import NewEvent
from tests.ledger.samples import NOW
from tests.ledger.test_identity import SAMPLES

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
#: (type, schema) -> its fields as they were released.
RELEASED = {
    (type_, schema): fields
    for schema in (1, 2, 3)
    for type_, fields in json.loads((GOLDEN / f"schema{schema}.json").read_text()).items()
}


def shape(annotation: Any) -> Any:
    """A type as JSON: a name, or what it is made of; the same whatever Python or pydantic draws it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return fields(annotation)
    if origin is Literal:
        return {"one of": sorted(map(str, args))}
    if origin in (Union, types.UnionType):
        return {"either": sorted(map(shape, args), key=json.dumps)}
    if origin is tuple:
        assert args[1:] == (Ellipsis,)
        return {"list of": shape(args[0])}
    if origin is dict:
        return {"map of": shape(args[1])}
    return annotation.__name__


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Each field's shape, bounds and default ("required" where it has none)."""
    found = {}
    for name, field in model.model_fields.items():
        default = (
            "required" if field.is_required() else field.get_default(call_default_factory=True)
        )
        plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
        described = {"type": shape(field.annotation), "default": plain}
        if field.metadata:
            described["bounds"] = sorted(map(repr, field.metadata))
        found[name] = described
    return found


def current() -> dict[tuple[str, int], Any]:
    return {
        (name, cls.schema_version): json.loads(json.dumps(fields(cls)))
        for name, cls in e.EVENT_TYPES.items()
    }


@pytest.mark.parametrize(("type_", "schema"), RELEASED)
def test_a_released_schema_is_never_edited(type_: str, schema: int) -> None:
    """As it was released. A type that moves on leaves its old schema here, and keeps an upcaster from it."""
    if e.EVENT_TYPES[type_].schema_version == schema:
        assert current()[type_, schema] == RELEASED[type_, schema]


def test_every_event_is_written_down() -> None:
    assert RELEASED.keys() >= current().keys()


def test_a_changed_schema_would_be_noticed() -> None:
    class Changed(e.StageSkipped):
        reason: str | None  # type: ignore[assignment]

    assert fields(Changed)["reason"] != fields(e.StageSkipped)["reason"]
    assert fields(Changed)["stage"] == fields(e.StageSkipped)["stage"]


def test_every_event_that_is_defined_is_registered_under_its_name() -> None:
    defined = {}
    for found in pkgutil.iter_modules(ledger.events.__path__, "ledger.events."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, e.EventData)
                and value is not e.EventData
            ):
                defined[name] = value
    assert defined == e.EVENT_TYPES
    for name, cls in e.EVENT_TYPES.items():
        assert (cls.__name__, cls.model_fields["type"].default) == (name, name)
        assert getattr(e, name) is cls
        assert name in e.__all__


@pytest.mark.parametrize("type_", SAMPLES)
def test_an_event_is_frozen_strict_and_read_as_it_was_written(type_: str) -> None:
    data = SAMPLES[type_]
    with pytest.raises(ValidationError, match="frozen"):
        data.type = "Other"
    stored = records.data_json(data)
    assert "type" not in stored
    assert e.parse_event(type_, stored) == data
    with pytest.raises(ValidationError, match="extra_forbidden"):
        e.parse_event(type_, {**stored, "surprise": 1})
    for name, field in type(data).model_fields.items():
        if field.is_required():
            with pytest.raises(ValidationError, match="missing"):
                e.parse_event(type_, {k: v for k, v in stored.items() if k != name})


@pytest.mark.parametrize("part", [e.Handle, e.StageSeconds, e.Provenance, e.InputRef])
def test_parts_are_frozen_and_strict_too(part: type[BaseModel]) -> None:
    assert part.model_config["frozen"] is True
    assert part.model_config["extra"] == "forbid"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        e.MetricsRecorded(stage="llm_off", attempt=1, metrics={"x": number})
    with pytest.raises(ValidationError, match="finite"):
        e.StageSeconds(running=number)
    # One that slipped past the model has no canonical form, so it is not written either.
    slipped = e.MetricsRecorded.model_construct(stage="llm_off", attempt=1, metrics={"x": number})
    with pytest.raises(NotCanonicalError):
        records.encode(NewEvent("k", slipped), stream="run/a", version=1, now=NOW, actor="a")


@pytest.mark.parametrize(
    ("type_", "field", "value"),
    [
        ("StageIntended", "attempt", 0),
        ("StageIntended", "stage", "capture"),
        ("StageSucceeded", "exit_code", 1),
        ("StageFailed", "cause", "bad luck"),
        ("CheckpointRecorded", "size_bytes", -1),
        ("PointerHeld", "generation", 0),
    ],
)
def test_values_out_of_their_range_are_refused(type_: str, field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        e.parse_event(type_, {**records.data_json(SAMPLES[type_]), field: value})


def test_what_is_large_is_refused_by_its_size() -> None:
    large = e.RelabelTagsRejected(tag_file="t", digest=None, errors=("x" * 70_000,), follows="f")
    with pytest.raises(EventTooLargeError) as caught:
        records.encode(NewEvent("k", large), stream="run/a", version=1, now=NOW, actor="a")
    assert caught.value.limit_bytes == e.EVENT_LIMIT_BYTES == 65536


def test_an_unknown_type_is_no_event() -> None:
    for type_ in ("NewerEvent", "EventData", "StageAbandoned"):
        with pytest.raises(ValidationError):
            e.parse_event(type_, {})
