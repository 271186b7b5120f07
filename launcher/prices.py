"""What is held of a cluster, in money: an estimate, by a table of the settings. Pure.

``LAUNCHER_PRICES='EUR nvidia.com/gpu=2.49 cpu=0.03 memory=0.004'``: a currency, and for each resource the price of one
of it for an hour (of memory: of a GiB). A cost is what the ledger says was held, times that, when it is looked at: the
ledger keeps no prices, so a new table prices old runs anew. What has no price costs nothing; of GPUs that is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from launcher.errors import UsageError
from ledger.events import ResourceSeconds

__all__ = ["Cost", "Prices"]

_CURRENCY: Final = re.compile(r"[^\W\d_]{1,8}|[^\w\s=]{1,3}")
_RESOURCE: Final = re.compile(r"cpu|memory|[a-z0-9.-]{1,253}/[A-Za-z0-9._-]{1,63}")
_PRICE: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_HOUR: Final = 3600
_EXAMPLE: Final = "LAUNCHER_PRICES='EUR nvidia.com/gpu=2.49 cpu=0.03 memory=0.004'"


@dataclass(frozen=True, slots=True)
class Cost:
    """``unpriced``: the GPUs that it has no price for, by resource name."""

    amount: Decimal
    currency: str
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``4.12 EUR``; ``<0.01 EUR`` for what is more than nothing."""
        little = 0 < self.amount < Decimal("0.01")
        return f"{'<0.01' if little else format(self.amount, '.2f')} {self.currency}"


@dataclass(frozen=True, slots=True)
class Prices:
    """``per_hour`` by resource name, ``cpu`` or ``memory``."""

    currency: str
    per_hour: Mapping[str, Decimal]

    @classmethod
    def parse(cls, text: str) -> Prices:
        """What the setting says. Raises UsageError."""
        currency, *rest = text.split() or [""]
        pairs = [one.partition("=") for one in rest]
        names = [name for name, _, _ in pairs]
        fits = all(
            _RESOURCE.fullmatch(name) and _PRICE.fullmatch(price) for name, _, price in pairs
        )
        if not (_CURRENCY.fullmatch(currency) and pairs and fits and len(set(names)) == len(names)):
            raise UsageError(
                f"LAUNCHER_PRICES={text[:80]!r} is no currency and prices per hour", _EXAMPLE
            )
        return cls(currency, {name: Decimal(price) for name, _, price in pairs})

    def cost(self, held: ResourceSeconds | None) -> Cost | None:
        """Of what was held; None where nobody counted that."""
        if held is None:
            return None
        seconds = {**held.gpus, "cpu": held.cpu, "memory": held.memory}
        amount = sum(
            (
                self.per_hour[n] * Decimal(s) / _HOUR
                for n, s in seconds.items()
                if n in self.per_hour
            ),
            Decimal(0),
        )
        unpriced = tuple(n for n, s in sorted(held.gpus.items()) if s and n not in self.per_hour)
        return Cost(amount, self.currency, unpriced)
