"""The part of an audit that looks at the store and at target files. Reads only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from launcher.audit.collected import Taken
from launcher.audit.report import Check, Scene, counted, reported, settled
from launcher.errors import LauncherError
from launcher.project import is_file_target
from launcher.storage.blobs import digest_file
from launcher.storage.manifest import Entry, Manifest
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import BlobMissingError, ObjectStore
from ledger.audit import LedgerAudit, Named
from ledger.events import Generation
from ledger.pointers import PointerState

__all__ = ["chain_problems", "check_blobs", "check_pointers", "check_targets"]

#: Hashing waits for the disk as much as for a core.
_THREADS: Final = min(8, 2 * (os.cpu_count() or 1))


# --- blobs --------------------------------------------------------------------------------------------


def check_blobs(
    scene: Scene, ledger: LedgerAudit, histories: Iterable[PointerHistory], *, quick: bool
) -> Check:
    """Every blob that the ledger or a generation names, and every file in a manifest; what was collected is gone."""
    check, histories = Check("blobs"), list(histories)
    taken = Taken(scene.store, ledger, histories)
    wanted: dict[str, Named] = {}
    manifests: list[Named] = []
    for named in (*ledger.named, *_of_generations(histories)):
        known = wanted.get(named.digest)
        taken.named(named.digest, named.position, named.stream)
        if named.manifest:
            manifests.append(named)
        if known is None or (named.manifest and not known.manifest):
            wanted[named.digest] = named
        _same_size(check, known, named)
    gone = _read_manifests(scene.store, check, manifests, wanted, taken)
    bad = {problem.where for problem in check.problems} | gone
    todo = [named for named in wanted.values() if named.digest not in bad]
    total, collected = _verify(scene.store, todo, check, taken, quick=quick)
    collected += len(gone)
    how = "present, sizes right" if quick else "hashed again"
    check.looked_at = f"{counted(len(wanted) - collected, 'blob')}, {counted(total, 'byte')}, {how}"
    if collected:
        check.notes.append(f"{counted(collected, 'blob')} that nothing needs any more: collected")
    return check


def _read_manifests(
    store: ObjectStore,
    check: Check,
    manifests: Sequence[Named],
    wanted: dict[str, Named],
    taken: Taken,
) -> set[str]:
    """Add the files that manifests list to ``wanted``; returns the manifests that were collected."""
    listed: dict[str, tuple[Entry, ...]] = {}
    gone: set[str] = set()
    bad: set[str] = set()
    for named in manifests:
        if named.digest not in listed and named.digest not in gone | bad:
            bad.add(named.digest)
            with reported(check, named.digest, named.what):
                try:
                    listed[named.digest] = Manifest.from_bytes(
                        store.read_blob(named.digest)
                    ).entries
                except BlobMissingError:
                    if not taken.by_right(named.digest):
                        raise
                    gone.add(named.digest)
                bad.discard(named.digest)
        for entry in listed.get(named.digest, ()):
            taken.named(entry.digest, named.position, named.stream)
            wanted.setdefault(
                entry.digest,
                Named(entry.digest, entry.size_bytes, f"{entry.path} in {named.what}"),
            )
    return gone


def _of_generations(histories: Iterable[PointerHistory]) -> Iterator[Named]:
    for history in histories:
        for body in history.generations:
            if body.digest is not None:
                yield Named(body.digest, body.size_bytes, f"{body.name} g{body.generation}")


def _same_size(check: Check, known: Named | None, named: Named) -> None:
    sizes = {n.size_bytes for n in (known, named) if n is not None and n.size_bytes is not None}
    if len(sizes) > 1:
        check.bad(named.digest, f"{named.what}: its size is said to be {sorted(sizes)}")


def _verify(
    store: ObjectStore, blobs: Sequence[Named], check: Check, taken: Taken, *, quick: bool
) -> tuple[int, int]:
    """Look at each blob, several at once. Returns how many bytes were found, and how many blobs were collected."""

    def look(named: Named) -> tuple[int | None, str | None]:
        try:
            found = store.stat_blob(named.digest)
            if found is None:
                return (None, None) if taken.by_right(named.digest) else (0, "it is missing")
            if named.size_bytes not in (None, found.size_bytes):
                return found.size_bytes, f"it has {found.size_bytes} bytes of {named.size_bytes}"
            if not quick:
                store.verify_blob(named.digest)
        except LauncherError as exc:
            return 0, getattr(exc, "detail", exc.message)
        return found.size_bytes, None

    total = collected = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for named, (size, problem) in zip(blobs, pool.map(look, blobs), strict=True):
            total += size or 0
            collected += size is None
            if problem:
                check.bad(named.digest, f"{named.what}: {problem}")
    return total, collected


# --- pointers and target files ------------------------------------------------------------------------


def check_pointers(
    scene: Scene, ledger: LedgerAudit, *, whole: bool
) -> tuple[Check, list[PointerHistory]]:
    """Each pointer's generations, by themselves and against the ledger's account, where that is ``whole``."""
    check, histories = Check("pointers"), []
    names: set[str] = set(ledger.pointers)
    with reported(check, scene.store.where):
        names |= set(Pointers(scene.store).names())
    for name in sorted(names):
        with reported(check, name):
            account = ledger.pointers.get(name)
            history = Pointers(scene.store).history(name)
            histories.append(history)
            for what in chain_problems(history):
                check.bad(name, what)
            if whole and f"pointer/{name}" not in ledger.broken:
                _against_account(check, scene.store.where, history, account)
    generations = sum(history.latest for history in histories)
    check.looked_at = (
        f"{counted(len(names), 'pointer')}, {counted(generations, 'generation')}, in a row"
    )
    if not whole:
        check.notes.append("not compared with the ledger, which cannot be read to its end")
    return check, histories


def chain_problems(history: PointerHistory) -> Iterator[str]:
    """What contradicts the generations before it."""
    before: Generation | None = None
    for body in history.generations:
        what = f"g{body.generation} ({body.kind})"
        previous = (before.generation, before.digest) if before else (0, None)
        if (body.previous.generation, body.previous.digest) != previous:
            yield f"{what} does not follow g{previous[0]} as it is"
        origin = history.get(body.origin)
        if body.kind in ("promotion", "adoption"):
            right = body.origin == body.generation
        elif before is None:
            right = body.digest is None
        else:
            right = origin is not None and origin.digest == body.digest
        if not right:
            yield f"{what} names origin g{body.origin}, which is not where its checkpoint came from"
        before = body


def _against_account(
    check: Check, where: str, history: PointerHistory, account: PointerState | None
) -> None:
    known = account.generations if account else {}
    for number, body in known.items():
        there = history.get(number)
        if there is None:
            check.bad(history.name, f"the ledger knows g{number}, it is not in {where}")
        elif there != body:
            check.bad(history.name, f"g{number} is not what the ledger says it is")
    news = history.latest - max(known, default=0)
    if news > 0:
        check.notes.append(
            f"{history.name}: not imported yet: {counted(news, 'generation')} (the next writing command does)"
        )
    if account is not None and account.open:
        check.notes.append(
            f"{history.name}: a promotion is half done (the next writing command settles it)"
        )


def check_targets(scene: Scene, histories: Iterable[PointerHistory]) -> Check:
    """The files of this project that follow a pointer, hashed."""
    check = Check("targets")
    hashed = 0
    for history in histories:
        live, path = history.live, scene.root / history.name
        if live is None or live.digest is None or not is_file_target(history.name):
            continue
        if live.project != scene.project or not path.parent.is_dir():
            check.notes.append(f"{history.name} is not a file of this project on this machine")
            continue
        hashed += 1
        with reported(check, history.name):
            problem = _target_problem(path, lambda h=history: Pointers(scene.store).history(h.name))  # type: ignore[misc]
            if problem:
                check.bad(history.name, problem)
    follow = "follows" if hashed == 1 else "follow"
    check.looked_at = f"{counted(hashed, 'file')} that {follow} a pointer, hashed again"
    return check


def _target_problem(path: Path, history: Callable[[], PointerHistory]) -> str | None:
    """Why the file is not what is live now; somebody may be swapping it."""

    def look() -> str | None:
        live = history().live
        assert live is not None
        if not path.exists():
            return f"it is missing; live is g{live.generation}"
        if digest_file(path).digest != live.digest:
            return f"it is not the checkpoint of g{live.generation}, which is live"
        return None

    return settled(look)
