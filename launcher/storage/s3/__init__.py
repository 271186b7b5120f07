"""The store in an S3-compatible bucket. The client is imported by the first call, not by opening a store."""

from __future__ import annotations

from launcher.storage.port import AccessRefusedError
from launcher.storage.s3.client import Limits
from launcher.storage.s3.probe import CreateOnlyIgnoredError, ProbeReport
from launcher.storage.s3.store import S3Store

__all__ = ["AccessRefusedError", "CreateOnlyIgnoredError", "Limits", "ProbeReport", "S3Store"]
