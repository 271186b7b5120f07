"""The trash of a bucket where a copy needs several parts, and how much of a bucket a collection asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.storage.port import blob_key
from launcher.storage.s3 import S3Store
from launcher.storage.s3.client import Client
from launcher.storage.s3.trash import BucketTrash
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server

DAY = "2026-01-31"
MIB = 1024 * 1024


@pytest.fixture
def store(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return S3Store(f"s3://{s3_server.bucket()}/store", marks=tmp_path / "marks")


def test_what_is_too_large_for_one_copy_goes_and_comes_in_parts(store: S3Store) -> None:
    """As above 5 GiB, with limits that a test can reach: 5 MiB is S3's smallest part."""
    data = bytes(range(256)) * (4096 * 11)  # 11 MiB: three parts
    blob = store.ingest_bytes(data)
    store._trash = BucketTrash(store._client, store._prefix, {}, copy_bytes=MIB, part_bytes=5 * MIB)
    assert store.discard([blob], DAY) == {}
    assert [info.key for info in store.trashed(DAY)] == [blob_key(blob.digest)]
    assert list(store.list("blobs/")) == []
    assert store.verify_blob(blob.digest) == blob
    assert store.recover(blob.digest) == blob
    store.empty(DAY, [blob.digest])
    assert store.read_blob(blob.digest) == data
    assert list(store.stale_uploads(4e9)) == [], "no upload is left unfinished"


def test_many_deletes_are_one_request(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [store.ingest_bytes(b"%d" % number) for number in range(25)]
    asked: list[str] = []
    real = Client._called

    def called(self: Client, client: Any, operation: str, key: str, more: dict[str, Any]) -> Any:
        asked.append(operation)
        return real(self, client, operation, key, more)

    monkeypatch.setattr(Client, "_called", called)
    store.discard(blobs, DAY)
    assert sorted(asked) == ["copy_object"] * 25 + ["delete_objects", "list_objects_v2"]
    asked.clear()
    store.empty(DAY, [blob.digest for blob in blobs])
    assert asked == ["delete_objects"]
