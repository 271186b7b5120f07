"""Names and deterministic ids.

Rules:

1. Names that reach a path, a key or a Job are checked against one allowlist, before any I/O.
2. An event's id is the UUIDv5 (RFC 9562) of what makes the fact unique, so that saying a fact twice
   is the same as saying it once.
3. Nothing here reads a clock or draws a random number.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from ledger.errors import InvalidNameError

__all__ = [
    "NAMESPACE",
    "check_digest",
    "check_label",
    "check_pipeline_name",
    "check_pointer_name",
    "check_run_id",
    "check_stream",
    "event_id",
    "pipeline_stream",
    "pointer_stream",
    "promotion_id",
    "run_stream",
]

#: The UUIDv5 namespace of every id of this project.
NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "distill-ledger")
#: Separates the parts of a fact, so that ("ab", "c") and ("a", "bc") differ; no name may hold it.
_UNIT: Final = "\x1f"
#: Folders and files of the launcher's home, which therefore cannot be runs; nor can SQLite's own files
#: beside the ledger. Compared without case, as some file systems do.
RESERVED_RUN_IDS: Final = frozenset({"ledger.db", "objects", "locks"})
_LEDGER_FILES: Final = "ledger.db"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STREAM = re.compile(r"(?:run|pointer|pipeline)/[^\x00-\x1f\x7f]{1,1024}|storage")
_PIPELINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


def check_run_id(value: str) -> str:
    """Return ``value`` if it may name a run. Raises InvalidNameError."""
    folded = value.lower()
    reserved = folded in RESERVED_RUN_IDS or folded.startswith(f"{_LEDGER_FILES}-")
    if not _RUN_ID.fullmatch(value) or ".." in value or reserved:
        raise InvalidNameError(
            "run id",
            value,
            "1 to 128 of A-Z a-z 0-9 . _ -, first a letter or digit, no '..', "
            "and not one of " + ", ".join(sorted(RESERVED_RUN_IDS)),
        )
    return value


def check_label(value: str) -> str:
    """Return ``value`` if it may be a label's name or value. Raises InvalidNameError."""
    if not _LABEL.fullmatch(value) or ".." in value:
        raise InvalidNameError(
            "label", value, "1 to 63 of A-Z a-z 0-9 . _ / -, first a letter or digit, no '..'"
        )
    return value


def check_pipeline_name(value: str) -> str:
    """Return ``value`` if it may name a pipeline: the start of its runs' ids. Raises InvalidNameError."""
    if not _PIPELINE.fullmatch(value):
        raise InvalidNameError(
            "pipeline", value, "1 to 48 of A-Z a-z 0-9 _ -, first a letter or digit"
        )
    return value


def check_pointer_name(value: str) -> str:
    """Return ``value`` if it may name a pointer: a normalised path, relative or absolute.

    Raises InvalidNameError for control characters, empty, '.' or '..' parts, a part that begins with
    a dash, or more than 255 bytes of UTF-8 (a key's part on every store).
    """
    rule = "a path without '.', '..', empty parts, control characters or a leading dash, at most 255 bytes"
    parts = value.removeprefix("/").split("/")
    bad = (
        not value
        or len(value.encode("utf-8", "surrogatepass")) > 255
        or any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in value)
        or any(p in ("", ".", "..") or p.startswith("-") for p in parts)
    )
    if bad:
        raise InvalidNameError("pointer name", value, rule)
    return value


def check_digest(value: str) -> str:
    """Return ``value`` if it is ``sha256:`` and 64 lower-case hex digits. Raises InvalidNameError."""
    if not _DIGEST.fullmatch(value):
        raise InvalidNameError("digest", value, "sha256: and 64 lower-case hex digits")
    return value


def check_stream(value: str) -> str:
    """Return ``value`` if it names a stream. Raises InvalidNameError."""
    if not _STREAM.fullmatch(value):
        raise InvalidNameError(
            "stream", value, "run/<run-id>, pointer/<name>, pipeline/<name> or storage"
        )
    return value


def run_stream(run_id: str) -> str:
    """The stream of one run. Raises InvalidNameError."""
    return f"run/{check_run_id(run_id)}"


def pointer_stream(name: str) -> str:
    """The stream of one pointer. Raises InvalidNameError."""
    return f"pointer/{check_pointer_name(name)}"


def pipeline_stream(name: str) -> str:
    """The stream of one pipeline. Raises InvalidNameError."""
    return f"pipeline/{check_pipeline_name(name)}"


def event_id(stream: str, type_: str, *parts: str | int) -> str:
    """The id of a fact: UUIDv5 over the stream, the event's type and what else makes it unique."""
    return str(uuid.uuid5(NAMESPACE, _UNIT.join([stream, type_, *map(str, parts)])))


def promotion_id(run_id: str, pointer: str) -> str:
    """The id of the one automatic decision that a run may ever take about a pointer."""
    return str(uuid.uuid5(NAMESPACE, _UNIT.join(["promotion", run_id, pointer])))
