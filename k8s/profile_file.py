"""A profile's file: the one module of the profile that touches a disk."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from k8s.errors import Problem, ProfileError
from k8s.profile_text import ReadProfile, parse_profile
from ledger.events import STAGES, StageName

__all__ = ["read_profile"]

_LIMIT_BYTES: Final = 256 * 1024


def read_profile(path: Path, *, stages: Collection[StageName] = STAGES) -> ReadProfile:
    """The profile in the file ``path``, named in messages as it is given. Raises ProfileError."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as exc:
        said = exc.strerror or "an error of the disk"
        raise ProfileError(str(path), [Problem("", f"cannot be read: {said}")]) from exc
    if len(data) > _LIMIT_BYTES:
        raise ProfileError(str(path), [Problem("", f"is larger than {_LIMIT_BYTES} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        problem = Problem("", f"byte {exc.start} is not UTF-8 text", line)
        raise ProfileError(str(path), [problem]) from exc
    return parse_profile(text, str(path), stages=stages)
