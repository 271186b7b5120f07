"""``STORE#NAME``: a pointer named without a project, by its store and its name there.

STORE is ``s3://bucket/prefix``, or a folder's path that begins with ``/``, ``./`` or ``../``. What follows the
first ``#`` (after the folder, where the folder's own path has one) is the pointer's name as the store has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import UsageError
from launcher.storage.bucket_url import is_bucket, normal_url
from ledger.errors import InvalidNameError
from ledger.ids import check_pointer_name

__all__ = ["Address", "parse_address"]


@dataclass(frozen=True, slots=True)
class Address:
    """``store``: a folder's absolute path, or a bucket's URL, normalised. ``name``: a pointer's."""

    store: str
    name: str

    def __str__(self) -> str:
        return f"{self.store}#{self.name}"


def parse_address(text: str, root: Path) -> Address | None:
    """The pointer that ``text`` names in some store, or None where it is no address but a target.

    Relative folders are relative to ``root``. Raises UsageError for an address that cannot be one. Looks only
    whether a folder is there.
    """
    if is_bucket(text):
        place, mark, name = text.partition("#")
        if not mark:
            raise UsageError(f"{text} names a store and no pointer", f"{text.rstrip('/')}#NAME")
        return Address(normal_url(place), _name(name))
    if "#" not in text or not text.startswith(("/", "./", "../")):
        return None
    parts = text.split("#")
    for end in range(1, len(parts)):
        folder = root / "#".join(parts[:end])
        if folder.is_dir():
            return Address(str(folder.resolve()), _name("#".join(parts[end:])))
    return None


def _name(name: str) -> str:
    try:
        return check_pointer_name(name)
    except InvalidNameError as exc:
        raise UsageError(str(exc), "STORE#NAME") from exc
