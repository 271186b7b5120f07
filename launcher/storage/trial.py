"""Whether a store keeps what we need of it, tried from wherever this runs; what is made for it is removed."""

from __future__ import annotations

from pathlib import Path

from launcher.clock import new_id
from launcher.errors import UnavailableError, UsageError
from launcher.storage.bucket_url import is_bucket
from launcher.storage.durable import take_name
from launcher.storage.opening import open_store
from launcher.storage.port import TEMPORARY_PREFIX

__all__ = ["created_once", "tried"]


def tried(place: str) -> str:
    """In a line what was seen of the store at ``place``. Raises UsageError, UnavailableError."""
    if is_bucket(place):
        from launcher.storage.s3 import S3Store  # here: a folder needs none of it

        store = open_store(place)
        assert isinstance(store, S3Store)
        report = store.probe()
        if report.missing:
            raise UsageError(f"{report.server}: {report.missing}")
        return f"{report.server}: written, read, listed, and created once"
    folder = Path(place)
    names = [folder / f"{TEMPORARY_PREFIX}trial-{new_id()}" for _ in range(3)]
    try:
        if not created_once(*names):
            raise UsageError(f"{place}: a name can be created twice: two promoters could win")
    except OSError as exc:
        raise UnavailableError(f"{place} cannot be written: {exc.strerror}") from exc
    finally:
        for name in names:
            name.unlink(missing_ok=True)
    return f"{place}: written, read, and created once"


def created_once(first: Path, second: Path, name: Path) -> bool:
    """Whether of two creates of ``name`` exactly one wins, and its bytes stay. Raises OSError."""
    won = []
    for number, temporary in enumerate((first, second)):
        temporary.write_bytes(b"%d" % number)
        try:
            take_name(temporary, name)
        except FileExistsError:
            continue
        won.append(number)
    return won == [0] and name.read_bytes() == b"0"
