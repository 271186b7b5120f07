"""What an attempt saved before it ended: create-only objects under ``progress/<pod uid>/<number>.json``.

Each says all of it, so the newest is enough. Numbers go on from pod to pod of one attempt: the highest is the
newest, whatever clocks say; two pods that saved at once are told apart by the store's clock.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Final

from launcher.errors import IntegrityError
from launcher.storage.port import ObjectStore
from ledger.canonical import canonical_json
from ledger.errors import LedgerError
from ledger.ids import check_digest

__all__ = ["Progress", "SavedFile", "newest_progress", "progress_key"]

_NAME: Final = re.compile(r".*/([^/]+)/(\d{1,12})\.json")
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A finished checkpoint. ``path`` relative to the run's folder; ``modified_ns`` as the pod's file had it."""

    path: str
    digest: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Progress:
    """``checkpoints`` ascending by path; ``log_digest`` None while the command runs."""

    pod: str
    number: int
    saved_at: str
    checkpoints: tuple[SavedFile, ...]
    log_digest: str | None = None

    @property
    def newest(self) -> SavedFile | None:
        """The checkpoint to go on from: the last that was written."""
        return max(self.checkpoints, key=lambda one: (one.modified_ns, one.path), default=None)

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON; nanoseconds as text, since its numbers are doubles."""
        raw = asdict(self)
        for one in raw["checkpoints"]:
            one["modified_ns"] = str(one["modified_ns"])
        return canonical_json({**raw, "checkpoints": list(raw["checkpoints"])})

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> Progress:
        """What ``to_bytes`` wrote. Raises IntegrityError."""
        try:
            raw = json.loads(data)
            files = tuple(
                SavedFile(
                    str(one["path"]),
                    check_digest(one["digest"]),
                    int(one["size_bytes"]),
                    int(one["modified_ns"]),
                )
                for one in raw["checkpoints"]
            )
            log = raw["log_digest"]
            return cls(
                str(raw["pod"]),
                int(raw["number"]),
                str(raw["saved_at"]),
                files,
                None if log is None else check_digest(log),
            )
        except (KeyError, TypeError, ValueError, AttributeError, LedgerError) as exc:
            raise IntegrityError(f"{key} does not say what was saved: {exc}") from exc


def progress_key(prefix: str, pod: str, number: int) -> str:
    """``prefix`` is the attempt's own, ``runs/…/progress``."""
    return f"{prefix}/{pod}/{number:0{_DIGITS}d}.json"


def newest_progress(store: ObjectStore, prefix: str) -> Progress | None:
    """The newest of an attempt, whichever pod saved it. Raises IntegrityError, UnavailableError."""
    found = [
        (int(name[2]), info.modified, info.key)
        for info in store.list(f"{prefix}/")
        if (name := _NAME.fullmatch(info.key))
    ]
    if not found:
        return None
    key = max(found)[2]
    return Progress.from_bytes(store.read(key), key)
