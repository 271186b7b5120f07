"""Who follows a pointer: one small object for each follower, ``consumers/<name>/<host>.json``.

A follower says there what it serves and since when. These are views, replaced at will: nothing is decided
from them but what a person is shown, and what a collection keeps.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import quote

from launcher import clock
from launcher.errors import UsageError
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectNotFoundError, ObjectStore
from ledger.canonical import canonical_json
from ledger.errors import InvalidNameError
from ledger.ids import check_pointer_name

__all__ = ["STALE_SECONDS", "Consumer", "consumer_key", "consumers", "followers_line"]

#: A follower says its word again well within this time.
STALE_SECONDS: Final = 15 * 60.0
_MOST: Final = 200
_MAX_PART_BYTES: Final = 250


@dataclass(frozen=True, slots=True)
class Consumer:
    """A follower's last word. ``state`` is ``applied`` or ``failed``; ``generation`` is what it is of.

    ``applied`` is the generation that was last taken over with success, None for none; ``exit_code`` is the
    command's that failed, None where something else did, which ``message`` says.
    """

    host: str
    generation: int
    digest: str
    time: str
    state: str
    dest: str
    applied: int | None
    applied_digest: str | None
    exit_code: int | None = None
    message: str | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Consumer:
        """What ``to_bytes`` wrote. Raises ValueError."""
        try:
            word = cls(**json.loads(data))
            clock.parse_time(word.time)
            whole = isinstance(word.generation, int) and isinstance(word.host, str)
        except (TypeError, AttributeError) as exc:
            raise ValueError(str(exc)) from exc
        if not whole:
            raise ValueError("no follower's word")
        return word


def consumer_key(store: ObjectStore, name: str, host: str) -> str:
    """Where ``host`` says what it serves of the pointer ``name``. Raises UsageError for a name that is none."""
    try:
        part = quote(check_pointer_name(host), safe="").replace("~", "%7E")
    except InvalidNameError as exc:
        raise UsageError(str(exc), "--name names this follower") from exc
    if len(part) > _MAX_PART_BYTES:
        raise UsageError(f"follower's name {host} is too long: {len(part)} bytes, encoded")
    return f"{_prefix(store, name)}{part}.json"


def consumers(store: ObjectStore, name: str) -> list[Consumer]:
    """The followers of ``name``, by host: one listing, a read each, at most 200. What cannot be read is left out."""
    found: list[Consumer] = []
    for info in itertools.islice(store.list(_prefix(store, name)), _MOST):
        try:
            found.append(Consumer.from_bytes(store.read(info.key)))
        except (ObjectNotFoundError, ValueError):
            continue
    return found


def followers_line(words: Sequence[Consumer], live: int, now: str) -> str:
    """``3 on g43, 1 still on g42 (gpu-7), 1 failed g43 (gpu-8), 1 silent (gpu-9)``; empty for none."""
    moment = clock.parse_time(now)
    groups: dict[tuple[int, str], list[str]] = {}
    for word in words:
        if (moment - clock.parse_time(word.time)).total_seconds() > STALE_SECONDS:
            key = (3, "silent")
        elif word.state != "applied":
            key = (2, f"failed g{word.generation}")
        elif word.generation >= live:
            key = (0, f"on g{word.generation}")
        else:
            key = (1, f"still on g{word.generation}")
        groups.setdefault(key, []).append(word.host)
    shown = []
    for (rank, said), hosts in sorted(groups.items()):
        more = ", …" if len(hosts) > 3 else ""
        shown.append(f"{len(hosts)} {said}" + (f" ({', '.join(hosts[:3])}{more})" if rank else ""))
    return ", ".join(shown)


def _prefix(store: ObjectStore, name: str) -> str:
    folder = Pointers(store).view_key(name).removeprefix("pointers/").removesuffix(".json")
    return f"consumers/{folder}/"
