from __future__ import annotations

import math
import struct
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.canonical import NotCanonicalError, canonical_json, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-0.0, 1e-7, 1e-6, 9.9e-5, 1e-4, 1e15, 1e16, 1e20, 1e21, 5e-324, 1.0])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=12,
)


@given(VALUES)
@example({"\ufffd": 1, "\U0001f680": 2})
@example({"a": 1, "A": 2, "aa": 3, "": 4})
@example('\x00\x1f\x7f"\\/\u2028\b\f\n\r\t é')
def test_equals_the_rfc8785_package(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(VALUES)
def test_parsing_and_writing_again_gives_the_same_bytes(value: Any) -> None:
    raw = canonical_json(value)
    assert canonical_json(parse_json(raw)) == raw


@given(st.integers(0, 2**64 - 1))
def test_every_double_is_written_as_the_package_writes_it(bits: int) -> None:
    (number,) = struct.unpack("<d", struct.pack("<Q", bits))
    if math.isfinite(number):
        assert canonical_json([number]) == rfc8785.dumps([number])


def test_keys_sort_by_utf_16_units_as_rfc_8785_section_3_2_3_shows() -> None:
    # There U+1F600 (a surrogate pair) sorts before U+FB33, against code-point order.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    written = canonical_json(dict.fromkeys(keys, 0))
    assert list(parse_json(written)) == ordered


class Colour(StrEnum):
    RED = "red"


def test_subclasses_are_written_by_their_value() -> None:
    assert canonical_json({"c": Colour.RED, "t": (1, True)}) == b'{"c":"red","t":[1,true]}'


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        2**53,
        -(2**53),
        "\ud800",
        {"\udfff": 1},
        {"a": ["\ud800"]},
        {1: 2},
        b"x",
        {1},
        _nested(100_000),
    ],
    ids=[
        "nan",
        "inf",
        "big",
        "-big",
        "lone",
        "lone key",
        "lone within",
        "int key",
        "bytes",
        "set",
        "deep",
    ],
)
def test_what_has_no_canonical_form_is_our_error(value: Any) -> None:
    with pytest.raises(NotCanonicalError):
        canonical_json(value)


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b"[-Infinity]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the json module's own words
        parse_json(raw)
