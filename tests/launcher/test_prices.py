"""Prices as they are written, and what they make of what was held."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.prices import Cost, Prices
from launcher.settings import Settings
from ledger.events import ResourceSeconds

TABLE = Prices.parse("EUR nvidia.com/gpu=2.49 cpu=0.036 memory=0.0036")


@pytest.mark.parametrize(
    ("held", "cost"),
    [
        (ResourceSeconds(gpus={"nvidia.com/gpu": 7200}), Cost(Decimal("4.98"), "EUR")),
        (ResourceSeconds(cpu=3600, memory=36000), Cost(Decimal("0.072"), "EUR")),
        (
            ResourceSeconds(gpus={"amd.com/gpu": 60, "nvidia.com/gpu": 3600}),
            Cost(Decimal("2.49"), "EUR", ("amd.com/gpu",)),
        ),
        (ResourceSeconds(), Cost(Decimal(0), "EUR")),
        (None, None),
    ],
)
def test_a_cost_is_what_was_held_times_its_price(
    held: ResourceSeconds | None, cost: Cost | None
) -> None:
    assert TABLE.cost(held) == cost


def test_what_has_no_price_but_is_no_gpu_costs_nothing_and_is_not_missed() -> None:
    found = Prices.parse("$ nvidia.com/gpu=1").cost(ResourceSeconds(cpu=3600, memory=3600))
    assert found == Cost(Decimal(0), "$")


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("4.125", "4.12 EUR"), ("0", "0.00 EUR"), ("0.0001", "<0.01 EUR"), ("1234.5", "1234.50 EUR")],
)
def test_it_is_shown_in_hundredths(amount: str, shown: str) -> None:
    assert str(Cost(Decimal(amount), "EUR")) == shown


@pytest.mark.parametrize(
    "text",
    [
        "nvidia.com/gpu=2.49",
        "EUR",
        "EUR gpu=2",
        "EUR nvidia.com/gpu",
        "EUR nvidia.com/gpu=-1",
        "EUR nvidia.com/gpu=1e3",
        "EUR nvidia.com/gpu=2,49",
        "EUR nvidia.com/gpu=nan",
        "EUR cpu=1 cpu=2",
        "EUR DOLLARS cpu=1",
    ],
)
def test_a_table_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"no currency and prices per hour") as refused:
        Settings.from_environment({"LAUNCHER_PRICES": text}, Path("/p"), {})
    assert "EUR nvidia.com/gpu=2.49" in str(refused.value)


def test_without_a_table_there_are_no_prices() -> None:
    assert Settings.from_environment({}, Path("/p"), {}).prices is None
    given = Settings.from_environment({"LAUNCHER_PRICES": "EUR cpu=1"}, Path("/p"), {})
    assert given.prices == Prices("EUR", {"cpu": Decimal(1)})
