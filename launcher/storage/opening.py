"""Which store a setting names, and what is passed through to S3.

| environment               | what                                               | default             |
|---------------------------|----------------------------------------------------|---------------------|
| LAUNCHER_S3_SSE           | encryption of every object, ``aws:kms`` or AES256  | the bucket's own    |
| LAUNCHER_S3_KMS_KEY       | id or ARN of the key, with ``aws:kms``             | the account's own   |
| LAUNCHER_S3_STORAGE_CLASS | storage class of blobs                             | the bucket's own    |

Object lock and versioning are the bucket's: its default retention covers what is made here. Everything else
(endpoint, region, credentials, CA bundle) is boto3's: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, AWS_CA_BUNDLE.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from launcher.errors import UsageError
from launcher.storage.bucket_url import is_bucket
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectStore

__all__ = ["open_store", "warm"]

_EXTRA: Final = {
    "LAUNCHER_S3_SSE": "ServerSideEncryption",
    "LAUNCHER_S3_KMS_KEY": "SSEKMSKeyId",
}
_BLOB_EXTRA: Final = {"LAUNCHER_S3_STORAGE_CLASS": "StorageClass"}


def open_store(place: str | Path, environment: Mapping[str, str] | None = None) -> ObjectStore:
    """The store at a folder's path or an ``s3://bucket/prefix`` URL. Does no I/O.

    ``environment``: default this process's. Raises UsageError for a URL that is none.
    """
    if isinstance(place, str) and is_bucket(place):
        from launcher.storage.s3 import S3Store  # here: it is not needed for a folder

        env = os.environ if environment is None else environment
        return S3Store(place, extra=_set(_EXTRA, env), blob_extra=_set(_BLOB_EXTRA, env))
    if isinstance(place, str) and "://" in place:
        scheme = place.partition("://")[0]
        raise UsageError(f"no store is known under {scheme}://", "a folder, or s3://bucket/prefix")
    return FilesystemStore(Path(place))


def warm(place: str) -> None:
    """Read the modules of that store, for processes that are to be forked. Opens nothing, asks nobody."""
    if is_bucket(place):
        from launcher.storage.s3 import client

        client.warm()


def _set(names: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    return {argument: env[name] for name, argument in names.items() if env.get(name)}
