"""Who follows a pointer: one small object for each follower, ``consumers/<name>/<host>.json``.

A follower says there what it serves and since when. These are views, replaced at will: nothing is decided
from them but what a person is shown, how long a rollback waits, and what a collection keeps.

What a screen shows costs one listing and a bounded number of reads; a collection reads them all (``served``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Final, Literal
from urllib.parse import unquote

from launcher import clock
from launcher.errors import IntegrityError, UsageError
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectInfo, ObjectNotFoundError, ObjectStore, key_part
from ledger.canonical import canonical_json
from ledger.errors import InvalidNameError
from ledger.ids import check_digest, check_pointer_name

__all__ = [
    "FORGOTTEN_SECONDS",
    "STALE_SECONDS",
    "Consumer",
    "Roll",
    "Served",
    "Standing",
    "consumer_key",
    "pending",
    "roll",
    "rolls",
    "served",
    "standing",
]

#: A follower says its word again well within this time.
STALE_SECONDS: Final = 15 * 60.0
#: One that said nothing for so long is gone: it is not shown, and keeps nothing.
FORGOTTEN_SECONDS: Final = 90 * 86400.0
_TOP: Final = "consumers/"
#: So many words are read for a screen, the newest first.
_MOST: Final = 200
_THREADS: Final = 8
#: By so much the store's clock and this machine's may differ without harm.
_SKEW_SECONDS: Final = 3600.0

#: ``on``: it acknowledged this generation, or a later one. ``behind``: an earlier one. ``failed``: it could not take
#: over what it was handed last. ``silent``: it said nothing for a while, whatever it said last.
Standing = Literal["on", "behind", "failed", "silent"]


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
        """What ``to_bytes`` wrote, or a later version of it with more in it. Raises ValueError."""
        try:
            said = json.loads(data)
            word = cls(**{f.name: said[f.name] for f in fields(cls) if f.name in said})
            clock.parse_time(word.time)
            check_digest(word.digest)
            if word.applied_digest is not None:
                check_digest(word.applied_digest)
        except (TypeError, AttributeError, InvalidNameError, RecursionError) as exc:
            raise ValueError(f"no follower's word: {exc}") from exc
        numbers = (word.generation, word.applied or 0, word.exit_code or 0)
        texts = (word.host, word.state, word.dest, word.message or "")
        if not (
            all(type(number) is int for number in numbers)
            and all(isinstance(text, str) for text in texts)
        ):
            raise ValueError("no follower's word")
        return word


def consumer_key(store: ObjectStore, name: str, host: str) -> str:
    """Where ``host`` says what it serves of the pointer ``name``. Raises UsageError for a name that is none."""
    try:
        check_pointer_name(host)
    except InvalidNameError as exc:
        raise UsageError(str(exc), "--name names this follower") from exc
    part = key_part(host, "follower's name")
    return f"{_prefix(store, name)}{part}.json"


@dataclass(frozen=True, slots=True)
class Roll:
    """The followers of a pointer, by host. ``unread``: how many words more there are, too many or not to be read."""

    words: Sequence[Consumer] = ()
    unread: int = 0

    def __bool__(self) -> bool:
        return bool(self.words or self.unread)


@dataclass(frozen=True, slots=True)
class Served:
    """What the followers of a pointer are on; ``doubts`` are entries that cannot be read: they may be on anything."""

    digests: frozenset[str] = frozenset()
    doubts: Sequence[str] = ()


def standing(word: Consumer, live: int, now: datetime) -> Standing:
    """How a follower stands to the generation ``live``.

    Its number counts, not its digest: who was on these bytes before may have gone to others since.
    """
    if (now - clock.parse_time(word.time)).total_seconds() > STALE_SECONDS:
        return "silent"
    if word.state != "applied":
        return "failed"
    return "on" if word.generation >= live else "behind"


def roll(store: ObjectStore, name: str) -> Roll:
    """The followers of ``name``: one listing, at most 200 reads."""
    return _rolled(store, store.list(_prefix(store, name))).get(name, Roll())


def rolls(store: ObjectStore) -> dict[str, Roll]:
    """The followers of each pointer that has any, by its name: one listing for all, at most 200 reads."""
    return _rolled(store, store.list(_TOP))


def pending(
    store: ObjectStore, name: str, generation: int, acknowledged: set[str]
) -> list[Consumer]:
    """The followers of ``name`` that were heard of lately and have still to acknowledge ``generation``, by host.

    ``acknowledged`` are keys that need not be read again, for whoever asks again: those found so are added.
    """
    now = clock.parse_time(clock.now())
    fresh = [
        info
        for info in store.list(_prefix(store, name))
        if _is_word(info.key)
        and info.key not in acknowledged
        and now.timestamp() - info.modified <= STALE_SECONDS + _SKEW_SECONDS
    ]
    late = []
    for key, word in _read(store, fresh).items():
        stands = standing(word, generation, now) if isinstance(word, Consumer) else "silent"
        if stands == "on":
            acknowledged.add(key)
        elif stands != "silent" and isinstance(word, Consumer):
            late.append(word)
    return sorted(late, key=lambda word: word.host)


def served(store: ObjectStore, now: float) -> dict[str, Served]:
    """What the followers of each pointer are on at ``now`` (epoch seconds), by its name. Reads every word.

    Raises UnavailableError; AccessRefusedError where nothing may be listed there.
    """
    entries = [i for i in store.list(_TOP) if _is_word(i.key)]
    heard = [i for i in entries if now - i.modified <= FORGOTTEN_SECONDS]
    digests: dict[str, set[str]] = defaultdict(set)
    doubts: dict[str, list[str]] = defaultdict(list)
    for key, word in _read(store, heard).items():
        name = _pointer_of(key)
        if isinstance(word, str):
            doubts[name].append(word)
        elif now - clock.parse_time(word.time).timestamp() <= FORGOTTEN_SECONDS:
            digests[name] |= {word.digest, word.applied_digest or word.digest}
    return {
        name: Served(frozenset(digests[name]), tuple(doubts[name]))
        for name in sorted({*digests, *doubts})
    }


def _rolled(store: ObjectStore, infos: Iterable[ObjectInfo]) -> dict[str, Roll]:
    now = clock.parse_time(clock.now()).timestamp()
    entries = [i for i in infos if _is_word(i.key) and now - i.modified <= FORGOTTEN_SECONDS]
    newest = sorted(entries, key=lambda i: (-i.modified, i.key))
    read = _read(store, newest[:_MOST])
    words: dict[str, list[Consumer]] = defaultdict(list)
    unread: dict[str, int] = defaultdict(int)
    for key, word in read.items():
        if isinstance(word, str):
            unread[_pointer_of(key)] += 1
        elif now - clock.parse_time(word.time).timestamp() <= FORGOTTEN_SECONDS:
            words[_pointer_of(key)].append(word)
    for info in newest[_MOST:]:
        unread[_pointer_of(info.key)] += 1
    return {
        name: Roll(tuple(sorted(words[name], key=lambda w: w.host)), unread[name])
        for name in sorted({*words, *unread})
    }


def _read(store: ObjectStore, infos: Sequence[ObjectInfo]) -> Mapping[str, Consumer | str]:
    """Each word by its key, or why it cannot be read. One that went meanwhile is left out."""

    def one(info: ObjectInfo) -> Consumer | str | None:
        try:
            return Consumer.from_bytes(store.read(info.key))
        except ObjectNotFoundError:
            return None
        except ValueError as exc:
            return f"{info.key} in {store.where} is {exc}"
        except (IntegrityError, UsageError) as exc:
            return exc.message

    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(infos, pool.map(one, infos), strict=True)
        return {info.key: word for info, word in found if word is not None}


def _is_word(key: str) -> bool:
    """Not so a folder's mark, as some tools leave it in a bucket."""
    return key.count("/") == 2 and not key.endswith("/")


def _pointer_of(key: str) -> str:
    return unquote(key.split("/")[1])


def _prefix(store: ObjectStore, name: str) -> str:
    folder = Pointers(store).view_key(name).removeprefix("pointers/").removesuffix(".json")
    return f"{_TOP}{folder}/"
