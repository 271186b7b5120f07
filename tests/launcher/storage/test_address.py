"""A pointer named by its store: what is an address, what is a target, what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.storage.address import Address, parse_address


def test_a_bucket_with_or_without_a_prefix(tmp_path: Path) -> None:
    found = parse_address("s3://bucket/team//#checkpoints/stable/student_latest.pt", tmp_path)
    assert found == Address("s3://bucket/team", "checkpoints/stable/student_latest.pt")
    assert str(parse_address("s3://bucket#student", tmp_path)) == "s3://bucket#student"
    # The rest is the name's own.
    assert parse_address("s3://bucket#a#b", tmp_path) == Address("s3://bucket", "a#b")


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    for name in ("store", "st#re"):
        (tmp_path / name).mkdir()
        expected = Address(str(tmp_path / name), "student")
        assert parse_address(f"{tmp_path}/{name}#student", tmp_path) == expected
        assert parse_address(f"./{name}#student", tmp_path) == expected


def test_a_target_is_none(tmp_path: Path) -> None:
    for target in ("student", "a#b", "checkpoints/a#b.pt", "/somewhere/else/a#b.pt"):
        assert parse_address(target, tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket",
        "s3://bucket/prefix#",
        "s3://Bucket#x",
        "s3://key:word@bucket#x",
        "s3://b/p#../x",
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text, tmp_path)
    assert "word" not in str(caught.value)
