"""What an audit looks at and what it says: the scene, its checks, their report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from launcher import clock
from launcher.errors import LauncherError
from launcher.storage.port import ObjectStore
from ledger.audit import Problem
from ledger.stores.port import EventStore, TreeHead

__all__ = ["Check", "Report", "Scene", "counted", "reported", "settled"]

#: How often, and how far apart, something that may be changing is looked at before it is called wrong.
_LOOKS: Final = 3
_BETWEEN_LOOKS_SECONDS: Final = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is audited. ``ledger`` is None where it could not be opened; then ``why`` says why not.

    ``shared``: other machines write to the ledger too.
    """

    ledger: EventStore | None
    store: ObjectStore
    root: Path
    home: Path
    project: str
    why: str = ""
    shared: bool = False


@dataclass
class Check:
    """One kind of check: what was looked at, and what is wrong with it. ``skipped`` says why it was not made."""

    name: str
    looked_at: str = ""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def bad(self, where: str, what: str) -> None:
        """One more thing that is wrong."""
        self.problems.append(Problem(self.name, where, what))


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order in which they were made. ``head`` is today's, None without a ledger."""

    checks: tuple[Check, ...]
    head: TreeHead | None

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong."""
        return [problem for check in self.checks for problem in check.problems]

    @property
    def first_position(self) -> int | None:
        """The first bad position of the ledger, if one is known."""
        return min((p.position for p in self.problems if p.position is not None), default=None)


@contextmanager
def reported(check: Check, where: str, what: str = "") -> Iterator[str]:
    """Turn what cannot be read into a problem of ``where``, and go on."""
    try:
        yield where
    except LauncherError as exc:
        check.bad(where, f"{what}: {exc.message}" if what else exc.message)
    except (OSError, ValueError) as exc:
        check.bad(where, f"{what}: {exc}" if what else str(exc))


def settled(look: Callable[[], T]) -> T:
    """What ``look`` finds (something false: all is well) once a writer, if there is one, had a moment."""
    found = look()
    for _ in range(_LOOKS - 1):
        if not found:
            break
        clock.sleep(_BETWEEN_LOOKS_SECONDS)
        found = look()
    return found


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``, ``1,204 events``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
