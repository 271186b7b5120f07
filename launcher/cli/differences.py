"""What differs between two runs as they were requested: config values, code, teacher, inputs. Pure.

The values of secrets are kept nowhere, so whether they changed cannot be said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from launcher.cli.terminal import one_line
from ledger.events import InputRef, RunRequested

__all__ = ["Change", "changes"]

_SHOWN_CHARACTERS: Final = 32
#: A commit's and a digest's digits on a screen.
_COMMIT, _DIGEST = 7, 12


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not what it was; None where it was, or is, not there."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """``BATCH 256→512``; of long values only that they changed."""
        if self.before is None:
            return (
                f"{self.name} {_shown(self.after)} is new"
                if _short(self.after)
                else f"{self.name} is new"
            )
        if self.after is None:
            return f"{self.name} is gone"
        if _short(self.before) and _short(self.after):
            return f"{self.name} {_shown(self.before)}→{_shown(self.after)}"
        return f"{self.name} changed"


def changes(
    before: RunRequested,
    after: RunRequested,
    variables_before: Mapping[str, str],
    variables_after: Mapping[str, str],
) -> list[Change]:
    """Everything that differs: config values first, in alphabetical order, then code, teacher and inputs."""
    found = list(_values(variables_before, variables_after))
    old, new = before.provenance, after.provenance
    pairs = [
        ("code", _commit(old.source_commit, old.dirty), _commit(new.source_commit, new.dirty)),
        ("launcher", old.launcher_version, new.launcher_version),
        ("teacher", _digest(before.teacher_checkpoint), _digest(after.teacher_checkpoint)),
        ("scorecard", _digest(before.teacher_scorecard), _digest(after.teacher_scorecard)),
    ]
    found += [Change(name, was, now) for name, was, now in pairs if was != now]
    return found + list(_values(_inputs(before.inputs), _inputs(after.inputs)))


def _values(before: Mapping[str, str], after: Mapping[str, str]) -> Iterable[Change]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


def _commit(commit: str | None, dirty: int | None) -> str | None:
    if commit is None:
        return None
    return commit[:_COMMIT] + (f"+{dirty} dirty" if dirty else "")


def _digest(given: InputRef | None) -> str | None:
    return given.digest.removeprefix("sha256:")[:_DIGEST] if given else None


def _inputs(inputs: Iterable[InputRef]) -> dict[str, str]:
    return {f"input {given.path}": _digest(given) or "" for given in inputs}


def _short(value: str | None) -> bool:
    return value is not None and len(value) <= _SHOWN_CHARACTERS and value.isprintable()


def _shown(value: str | None) -> str:
    return one_line(value or "") or "''"
