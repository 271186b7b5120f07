"""Who follows a pointer, on a screen; and waiting until a rollback has arrived where it matters.

Followers are a courtesy: a store that does not say who they are breaks no screen and undoes no rollback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from launcher import clock
from launcher.cli.common import age
from launcher.cli.terminal import fact, one_line
from launcher.consumers import Consumer, Roll, Standing, pending, roll, rolls, standing
from launcher.errors import LauncherError
from launcher.storage.port import AccessRefusedError, ObjectStore

__all__ = ["Followers", "followers_json", "followers_text", "wait_for"]

_NAMED: Final = 3
_POLL_SECONDS: Final = 1.0
_ORDER: Final[tuple[Standing, ...]] = ("on", "behind", "failed", "silent")


@dataclass(frozen=True)
class Followers:
    """One look at who follows: all pointers of a store, or the one that was asked for. ``trouble``: why not."""

    rolls: dict[str, Roll]
    trouble: str | None = None

    @classmethod
    def of(cls, store: ObjectStore, name: str | None = None) -> Followers:
        """Look: one listing, a bounded number of reads. Raises nothing of the store's."""
        try:
            return cls({name: roll(store, name)} if name is not None else rolls(store))
        except LauncherError as exc:
            return cls({}, exc.message)

    def text(self, name: str, live: int) -> str:
        """``3 on g43, 1 still on g42 (gpu-7, 4m ago)``; empty for none, and where it could not be seen."""
        return followers_text(self.rolls.get(name, Roll()), live)

    def json(self, name: str, live: int) -> dict[str, Any] | None:
        """As ``followers_json``; None where it could not be seen."""
        return followers_json(self.rolls.get(name, Roll()), live) if self.trouble is None else None

    def lines(self, name: str, live: int) -> list[str]:
        """``followers  3 on g43, …``; nothing where ``text`` is empty."""
        return _fact(self.text(name, live))

    def unseen(self) -> list[str]:
        """The line that says why followers are not shown; nothing where they are."""
        return _fact(f"cannot be seen: {one_line(self.trouble)}" if self.trouble else "")


def _fact(text: str) -> list[str]:
    return fact("followers ", text)


def followers_text(found: Roll, live: int) -> str:
    """How many are on which generation, those named that are not on ``live``; empty for none."""
    now = clock.parse_time(clock.now())
    groups: dict[tuple[int, str], list[Consumer]] = {}
    for word in found.words:
        stands = standing(word, live, now)
        groups.setdefault((_ORDER.index(stands), _said(word, stands)), []).append(word)
    shown = [_group(rank, said, words) for (rank, said), words in sorted(groups.items())]
    shown += [f"{found.unread} not read"] if found.unread else []
    return ", ".join(shown)


def _said(word: Consumer, stands: Standing) -> str:
    match stands:
        case "on":
            return f"on g{word.generation}"
        case "behind":
            return f"still on g{word.generation}"
        case "failed":
            return f"failed on g{word.generation}"
        case "silent":
            return "silent"


def _group(rank: int, said: str, words: Sequence[Consumer]) -> str:
    counted = f"{len(words)} {said}"
    if rank == 0:
        return counted
    silent = _ORDER[rank] == "silent"
    if len(words) == 1:
        host, ago = one_line(words[0].host), age(words[0].time)
        return f"{counted} for {ago} ({host})" if silent else f"{counted} ({host}, {ago} ago)"
    if silent:
        counted += f" for {age(max(word.time for word in words))} and more"
    return f"{counted} ({_names(words)})"


def _names(words: Sequence[Consumer]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(one_line(word.host) for word in words[:_NAMED]) + more


def followers_json(found: Roll, live: int) -> dict[str, Any]:
    """``on``, ``behind``, ``failed``, ``silent``, ``unread``: how many; ``hosts``: each one's word and standing."""
    now = clock.parse_time(clock.now())
    rows = [{"standing": standing(word, live, now), **asdict(word)} for word in found.words]
    counts: dict[str, int] = {s: sum(row["standing"] == s for row in rows) for s in _ORDER}
    return {**counts, "unread": found.unread, "hosts": rows}


def wait_for(store: ObjectStore, name: str, generation: int, seconds: float) -> str:
    """Look again and again until every follower that was heard of lately acknowledged ``generation``.

    Returns what is in the way of that after ``seconds``; empty where nothing is. A silent one is not waited for; one
    whose command failed is, for it tries again.
    """
    over, done = clock.deadline(seconds), set[str]()
    while True:
        try:
            late = pending(store, name, generation, done)
            has = "has" if len(late) == 1 else "have"
            trouble = f"{_names(late)} {has} not followed" if late else ""
        except AccessRefusedError as exc:
            return exc.message
        except LauncherError as exc:
            trouble = exc.message
        if not trouble or over():
            return trouble
        clock.sleep(min(_POLL_SECONDS, seconds))
