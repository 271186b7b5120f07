from __future__ import annotations

from fractions import Fraction

import pytest
from kubernetes.utils.quantity import parse_quantity

from k8s.quantity import amount


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("2", 2), ("0.5", Fraction(1, 2)), (".5", Fraction(1, 2)), ("3.", 3),
        ("500m", Fraction(1, 2)), ("16Gi", 16 * 2**30), ("1.5Gi", 3 * 2**29), ("16G", 16 * 10**9),
        ("1e3", 1000), ("1E-3", Fraction(1, 1000)), ("5E", 5 * 10**18), ("7Ei", 7 * 2**60), ("1u", Fraction(1, 10**6)),
    ],
)  # fmt: skip
def test_a_quantity_is_a_number(text: str, number: int | Fraction) -> None:
    assert amount(text) == number
    if text not in ("1E-3", "1e3"):  # the client's own reader knows no exponents
        assert Fraction(parse_quantity(text)) == number


@pytest.mark.parametrize("text", ["", "Gi", "16 Gi", "16GB", "-1", "+1", "1e", "1e999", "1Zi", "١"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        amount(text)
