"""From yesterday's schemas to today's. Pure.

An upcaster takes an event's stored ``data`` of one schema to the next one, returning new data; a chain of
them takes it to the model in ``ledger.events``. A released upcaster is never edited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

__all__ = ["UPCASTERS", "upcast"]

Data = dict[str, Any]
Upcaster = Callable[[Data], Data]


def _without_task(data: Data) -> Data:
    """Its handle named no task."""
    return {**data, "handle": {**data["handle"], "task_digest": None}}


def _without_own_retries(data: Data) -> Data:
    """No stage had infrastructure retries of its own."""
    plans = [{**plan, "infrastructure_retries": None} for plan in data["stages"]]
    return {**data, "stages": plans}


def _without_held_since(data: Data) -> Data:
    """Nobody said when a node took its pod."""
    return {**data, "held_since": None}


def _without_held(data: Data) -> Data:
    """Nobody counted what it held."""
    return {**data, "gpus": data.get("gpus", 0), "held": None}


def _without_restarts(data: Data) -> Data:
    """Nobody counted which watches broke."""
    return {**data, "watch_restarts": None}


#: (type, schema) -> the function that takes its data to schema + 1.
UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = MappingProxyType(
    {
        ("RunRequested", 1): _without_own_retries,
        ("StageFailed", 1): _without_held,
        ("StageFailed", 2): _without_restarts,
        ("StageStarted", 1): _without_held_since,
        ("StageSubmitted", 1): _without_task,
        ("StageSucceeded", 1): _without_held,
        ("StageSucceeded", 2): _without_restarts,
    }
)


def upcast(
    type_: str,
    schema: int,
    data: Data,
    *,
    to: int,
    table: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Data:
    """``data`` at schema ``to``. Raises ValueError below schema 1 or above ``to``, KeyError for a gap."""
    if not 1 <= schema <= to:
        raise ValueError(f"{type_} of schema {schema} cannot become schema {to}")
    for step in range(schema, to):
        data = table[(type_, step)](data)
    return data
