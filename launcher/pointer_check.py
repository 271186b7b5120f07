"""Do ledger and store say the same of a pointer? Generation by generation; reads only.

Rules:

1. Every difference is a finding. ``damage``: what was written is not what is there. ``behind``: what follows a
   pointer (its view, its target file) does not show what is live. ``news``: made elsewhere, to be imported or settled.
2. What cannot be read is a finding of its own, and the rest is looked at all the same.
3. What another process may be changing is looked at again before it is called anything but news.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.audit.report import counted, settled
from launcher.audit.store import chain_problems
from launcher.errors import LauncherError
from launcher.journal import Journal
from launcher.project import is_file_target
from launcher.settling import verify_blob
from launcher.storage.blobs import digest_file
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import ObjectNotFoundError
from ledger.events import Generation
from ledger.pointers import PointerState

__all__ = ["Difference", "Project", "check_pointer"]


@dataclass(frozen=True, slots=True)
class Difference:
    """``what`` is for people; ``kind`` for programs; ``generation`` None where it is about no single one."""

    pointer: str
    grade: Literal["damage", "behind", "news"]
    kind: str
    what: str
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """Whose target files are looked at."""

    root: Path
    name: str


def check_pointer(
    pointers: Pointers, name: str, journal: Journal | None, project: Project | None, *, deep: bool
) -> list[Difference]:
    """Every difference of one pointer. ``journal`` None: the store by itself. ``deep`` hashes its blobs."""
    found: list[Difference] = []

    def look() -> bool:
        account = journal.pointer(name) if journal else None
        found[:] = _look(Pointers(pointers.store), name, account, project, deep=deep)
        return any(one.grade != "news" for one in found)

    settled(look)
    return found


def _look(
    pointers: Pointers,
    name: str,
    account: PointerState | None,
    project: Project | None,
    *,
    deep: bool,
) -> list[Difference]:
    stored = pointers.stored(name)
    bodies = {n: body for n, body in stored.items() if isinstance(body, Generation)}
    latest = max(stored, default=0)
    found = [
        Difference(name, "damage", "unreadable", error.message, n)
        for n, error in stored.items()
        if isinstance(error, LauncherError)
    ]
    known = account.generations if account else {}
    found += _gaps(name, stored.keys(), known.keys())
    for number, body in known.items():
        if number in bodies and bodies[number] != body:
            what = "the store's is not what the ledger says it is"
            found.append(Difference(name, "damage", "differs", what, number))
    if account is not None:
        for number in sorted(n for n in stored if n > account.latest):
            what = "made elsewhere, not imported yet: the next writing command does"
            found.append(Difference(name, "news", "not_imported", what, number))
        if account.open:
            what = f"{counted(len(account.open), 'decision')} half done: the next writing command settles it"
            found.append(Difference(name, "news", "open", what))
    found += _blobs(pointers, bodies, name, deep=deep)
    if bodies and len(bodies) == latest:
        history = PointerHistory(name, tuple(bodies[n] for n in range(1, latest + 1)))
        found += [Difference(name, "damage", "chain", what) for what in chain_problems(history)]
        found += _behind(pointers, history, project)
    return found


def _gaps(name: str, stored: Collection[int], known: Collection[int]) -> Iterator[Difference]:
    for number in range(1, max((*stored, *known), default=0) + 1):
        if number in stored:
            continue
        if number in known:
            what = "the ledger knows it, it is not in the store"
            yield Difference(name, "damage", "missing_in_store", what, number)
        else:
            what = "a later one is in the store, this one is not"
            yield Difference(name, "damage", "gap", what, number)


def _blobs(
    pointers: Pointers, bodies: dict[int, Generation], name: str, *, deep: bool
) -> Iterator[Difference]:
    """Each blob once, at the newest generation that names it."""
    newest = {body.digest: n for n, body in sorted(bodies.items()) if body.digest is not None}
    for number in sorted(newest.values()):
        body = bodies[number]
        try:
            verify_blob(pointers.store, body.digest, body.size_bytes, deep=deep)
        except LauncherError as exc:
            yield Difference(name, "damage", "blob", exc.message, number)


def _behind(
    pointers: Pointers, history: PointerHistory, project: Project | None
) -> Iterator[Difference]:
    live, name = history.live, history.name
    assert live is not None
    view = pointers.view_key(name)
    try:
        shown = json.loads(pointers.store.read(view))
    except ObjectNotFoundError:
        shown = None
    except (LauncherError, ValueError):
        shown = {}
    if shown != live.model_dump(mode="json"):
        what = f"{view} {'is not there' if shown is None else 'does not show what is live'}"
        yield Difference(name, "behind", "view", what)
    if project is None or not is_file_target(name) or live.project != project.name:
        return
    path = project.root / name
    if live.digest is None or not path.parent.is_dir():
        return
    try:
        same = path.exists() and digest_file(path).digest == live.digest
    except LauncherError:
        same = False
    if not same:
        what = f"the file is not the checkpoint of g{live.generation}, which is live"
        yield Difference(name, "behind", "target", what)
