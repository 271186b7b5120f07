"""Kubernetes quantities: ``500m`` CPUs, ``16Gi`` of memory. Pure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

__all__ = ["QUANTITY", "amount"]

#: The grammar of k8s.io/apimachinery/pkg/api/resource, without a sign: we ask for nothing negative.
QUANTITY: Final = (
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
)
_QUANTITY = re.compile(QUANTITY)
_UNITS: Final[dict[str, Fraction]] = {
    "": Fraction(1),
    **{
        unit: Fraction(1000) ** n
        for n, unit in zip((-3, -2, -1, *range(1, 7)), "numkMGTPE", strict=True)
    },
    **{f"{unit}i": Fraction(1024) ** n for n, unit in enumerate("KMGTPE", start=1)},
}


def amount(quantity: str) -> Fraction:
    """The number that a quantity is: bytes, or CPUs. Raises ValueError."""
    found = _QUANTITY.fullmatch(quantity)
    if not found:
        raise ValueError(f"{quantity!r} is no quantity such as 500m, 2 or 16Gi")
    number, unit = Fraction(f"0{found[1]}"), found[3] or ""
    if unit in _UNITS:
        return number * _UNITS[unit]
    return number * Fraction(f"1e{unit[1:]}")
