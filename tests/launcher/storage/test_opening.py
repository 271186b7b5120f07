"""Which store a setting opens, what that costs, and what is refused before any I/O."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.opening import open_store
from launcher.storage.s3 import S3Store


def test_a_path_is_a_folder_and_a_url_is_a_bucket(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), FilesystemStore)
    assert isinstance(open_store(str(tmp_path)), FilesystemStore)
    assert isinstance(open_store("objects"), FilesystemStore)
    store = open_store("s3://bucket-1/a team/runs/")
    assert isinstance(store, S3Store)
    assert store.where == "s3://bucket-1/a team/runs"
    assert open_store("s3://bucket-1").where == "s3://bucket-1"
    assert store.free_bytes() is None


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://b", "s3://UPPER/x", "s3://-bucket/x", "s3:///x", "s3://bucket/../x", "s3://bucket/a//b",
     "s3://bucket/a\nb", "s3://bucket/x?versionId=1", "gs://bucket/x", "http://127.0.0.1/bucket"],
)  # fmt: skip
def test_a_url_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        open_store("s3://AKIAEXAMPLE:secretword@bucket/x")
    assert "secretword" not in str(caught.value)


def test_a_key_may_not_be_longer_than_a_bucket_allows() -> None:
    store = open_store("s3://bucket/" + "p" * 200)
    with pytest.raises(UsageError, match="longer"):
        store.read("/".join(["x" * 200] * 5))


def test_opening_a_store_imports_no_client() -> None:
    code = """
import sys
from launcher.storage.opening import open_store
open_store("objects")
assert not [m for m in sys.modules if m.startswith("launcher.storage.s3")]
open_store("s3://bucket/x")
assert not {m.partition(".")[0] for m in sys.modules} & {"boto3", "botocore", "urllib3", "s3transfer"}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
