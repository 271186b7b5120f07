from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import ids
from ledger.errors import InvalidNameError

BAD = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "-x",
    "a\x00",
    "a\n",
    "\na",
    "a\x7f",
    "\x1b[0m",
    "a\ud800",
    "x" * 300,
]


@pytest.mark.parametrize(
    "value", ["a", "20260611T021500Z-7f3a", "A.b_c-1", "0", "x" * 128, "objects2", "ledger.db2"]
)
def test_a_run_id(value: str) -> None:
    assert ids.check_run_id(value) == value
    assert ids.run_stream(value) == f"run/{value}"


@pytest.mark.parametrize(
    "value",
    [
        *[*BAD, "a/b", ".a", "_a", "a b", "é", "a..b", "x" * 129, "１"],
        *["objects", "OBJECTS", "locks", "ledger.db", "Ledger.db-journal"],
    ],
)
def test_no_run_id(value: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        ids.run_stream(value)
    assert (caught.value.kind, caught.value.value) == ("run id", value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["a", "lab-3", "team/vision", "v1.2_x", "x" * 63])
def test_a_label(value: str) -> None:
    assert ids.check_label(value) == value


@pytest.mark.parametrize("value", [*BAD, "/a", "a b", "é", "x" * 64])
def test_no_label(value: str) -> None:
    with pytest.raises(InvalidNameError):
        ids.check_label(value)


@pytest.mark.parametrize(
    "value", ["student", "a/b.pt", "/abs/x.pt", "größe", "a b", "~x", "x" * 255, "%2e%2e"]
)
def test_a_pointer_name(value: str) -> None:
    assert ids.pointer_stream(value) == f"pointer/{value}"


@pytest.mark.parametrize(
    "value", [*BAD, "/", "//a", "a//b", "a/", "a/.", "a/-b", "ö" * 128, "x" * 256]
)
def test_no_pointer_name(value: str) -> None:
    with pytest.raises(InvalidNameError):
        ids.pointer_stream(value)


@given(st.text())
def test_whatever_is_let_through_stays_in_its_folder(value: str) -> None:
    for check in (ids.check_run_id, ids.check_label, ids.check_pointer_name):
        try:
            check(value)
        except InvalidNameError:
            continue
        parts = value.removeprefix("/").split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not any(ord(c) < 32 for c in value)
        assert not value.startswith("-")


def test_a_digest_and_a_stream() -> None:
    assert ids.check_digest("sha256:" + "0a" * 32) == "sha256:" + "0a" * 32
    for value in (
        "sha256:" + "0A" * 32,
        "sha256:" + "0" * 63,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 64 + "\n",
    ):
        with pytest.raises(InvalidNameError):
            ids.check_digest(value)
    for value in ("run/a", "pointer//abs/x.pt", "storage"):
        assert ids.check_stream(value) == value
    for value in ("", "run/", "storage/", "run/a\n", "gate/x", "run/" + "x" * 1025):
        with pytest.raises(InvalidNameError):
            ids.check_stream(value)


def test_ids_are_for_ever() -> None:
    """Written down: a changed namespace or separator would make every known fact a new one."""
    assert str(ids.NAMESPACE) == "f7406612-9f06-5bb0-87b8-093f09d2f7be"
    assert (
        ids.event_id("run/a", "StageIntended", "llm_on", 1)
        == "b21d0868-b423-5fad-bb52-4dd951902723"
    )
    assert ids.promotion_id("a", "student") == "e28f2d8e-a2c8-5acf-806e-bbf7495b742b"
    assert uuid.UUID(ids.event_id("run/a", "RunRequested")).version == 5


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])),
        min_size=2,
        max_size=4,
    )
)
def test_parts_do_not_run_into_each_other(parts: list[str]) -> None:
    joined = ["".join(parts[:2]), *parts[2:]]
    assert ids.event_id("run/a", "T", *parts) != ids.event_id("run/a", "T", *joined)
