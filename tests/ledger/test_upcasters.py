from __future__ import annotations

import copy

import pytest

from ledger.events import EVENT_TYPES
from ledger.upcasters import UPCASTERS, Data, upcast


def _rename(data: Data) -> Data:
    return {"spell_out": data["short"]}


def _widen(data: Data) -> Data:
    return {**data, "unit": "s"}


TABLE = {("Timed", 1): _rename, ("Timed", 2): _widen}


@pytest.mark.parametrize(
    ("schema", "data", "to", "result"),
    [
        (1, {"short": 1}, 3, {"spell_out": 1, "unit": "s"}),
        (2, {"spell_out": 1}, 3, {"spell_out": 1, "unit": "s"}),
        (1, {"short": 1}, 2, {"spell_out": 1}),
        (3, {"spell_out": 1, "unit": "h"}, 3, {"spell_out": 1, "unit": "h"}),
    ],
)
def test_each_step_is_taken_once_in_order(schema: int, data: Data, to: int, result: Data) -> None:
    before = copy.deepcopy(data)
    assert upcast("Timed", schema, data, to=to, table=TABLE) == result
    assert data == before


def test_a_gap_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        upcast("Timed", 1, {"short": 1}, to=4, table=TABLE)


@pytest.mark.parametrize("schema", [0, -1, 4])
def test_a_schema_that_never_was_or_is_not_yet_is_refused(schema: int) -> None:
    with pytest.raises(ValueError, match="Timed of schema"):
        upcast("Timed", schema, {}, to=3, table=TABLE)


@pytest.mark.parametrize("type_", ["StageSucceeded", "StageFailed"])
def test_of_older_ends_nobody_knows_which_watches_broke(type_: str) -> None:
    held = {"gpus": {}, "cpu": 1.0, "memory": 1.0}
    assert upcast(type_, 2, {"gpus": 2, "held": held}, to=3) == {
        "gpus": 2,
        "held": held,
        "watch_restarts": None,
    }
    assert upcast(type_, 1, {}, to=3) == {"gpus": 0, "held": None, "watch_restarts": None}


def test_every_schema_since_the_first_has_its_upcaster() -> None:
    wanted = {(n, s) for n, cls in EVENT_TYPES.items() for s in range(1, cls.schema_version)}
    assert set(UPCASTERS) == wanted
