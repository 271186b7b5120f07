"""One command's working set: project, settings, ledger, store, documents, promoter.

``open_workspace(…, writing=False)`` never creates or changes anything; with ``writing=True`` the home is
made where it is absent. ``attend`` is what every writing command does first: settle what others left
half done, bring target files in step, rewrite documents that a crash left behind.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import clock
from launcher.documents import Documents, write_atomically
from launcher.errors import (
    ConflictError,
    IntegrityError,
    LauncherError,
    UnavailableError,
    UsageError,
)
from launcher.followers import TargetBehindError
from launcher.journal import Journal
from launcher.promotion import Promoter
from launcher.run_folders import Sightings
from launcher.settings import Settings
from launcher.storage.caches import user_cache
from launcher.storage.opening import open_store
from launcher.storage.port import ObjectStore
from ledger import errors as ledger_errors
from ledger.events import (
    PromotionConfirmed,
    Recorded,
    RunFolderRestored,
    RunFolderRetired,
    StorageMeasured,
)
from ledger.stores.port import EventStore
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["Workspace", "ledger_file", "open_parts", "open_workspace", "translated"]

#: What tells one state of a file from another; all None where there is none.
Identity = tuple[int | None, ...]


@contextmanager
def translated() -> Iterator[None]:
    """Turn the ledger's errors into the launcher's, with their exit codes."""
    try:
        yield
    except ledger_errors.LedgerError as exc:
        raise _as_launcher_error(exc) from exc


def _as_launcher_error(exc: ledger_errors.LedgerError) -> LauncherError:
    match exc:
        case ledger_errors.LedgerDamagedError():
            return IntegrityError(
                str(exc), "nothing was changed; launcher audit shows what is intact"
            )
        case ledger_errors.LedgerUnavailableError():
            return UnavailableError(str(exc))
        case ledger_errors.VersionConflictError() | ledger_errors.IllegalTransitionError():
            return ConflictError(str(exc))
        case _:
            return UsageError(str(exc))


@dataclass(frozen=True, slots=True)
class Workspace:
    """``root`` is the project root, absolute; ``home`` holds locks/, and ledger.db and objects/ by default."""

    root: Path
    settings: Settings
    home: Path
    ledger: EventStore
    store: ObjectStore
    journal: Journal
    documents: Documents
    promoter: Promoter

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    def has_ledger(self) -> bool:
        """Whether there is a ledger, of however few events. Raises what the ledger raises."""
        if self.settings.ledger == "sqlite":
            return ledger_file(self.home).exists()
        return self.ledger.head().size > 0

    def attend(self, rolling_back: str | None = None) -> list[LauncherError]:
        """What a writing command does first; running it again does nothing.

        ``rolling_back`` names the pointer that this command turns back: what is open there is not
        finished, its number is taken by a fence. Returns which target files could not be brought in
        step, and which documents could not be written: no reason to stop, but to be said.
        """
        behind: list[LauncherError] = []
        for name in self.journal.pointer_names():
            try:
                self.promoter.settle(name, rolling_back=name == rolling_back)
            except TargetBehindError as exc:
                behind.append(exc)
        return [*behind, *self._catch_up(self.locks / "documents.json")]

    def _catch_up(self, marker: Path) -> list[LauncherError]:
        """Rewrite the documents that are behind the ledger, and import what jobs wrote into theirs.

        The marker says up to where that was done (size and root, so that it counts for this very ledger
        only), how each run's tag document looked then, and whose documents could not be written, on a disk
        that was away or full. It is written last and may be lost at any time.
        """
        head, behind = self.ledger.head(), dict[str, LauncherError]()
        seen, tags, waiting = self._done(_read_marker(marker))
        stale = {run for run, (place, then) in tags.items() if _identity(place) != then} | waiting
        stale |= self._shown_since(seen)
        for run_id in sorted(stale):
            request = self.journal.run(run_id).request
            if request is None:
                continue
            place = str(self.documents.run_dir(request) / "metadata" / "relabel_tags.json")
            # Looked at before it is read: what changes after this look is found by the next one.
            then = _identity(place)
            try:
                self.documents.write(run_id)
            except UnavailableError as exc:
                behind[run_id] = exc
            else:
                tags[run_id] = (place, then)
        if stale or seen != head.size:
            done = {"size": head.size, "root": head.root.hex(), "tags": tags}
            data = json.dumps({**done, "behind": sorted(behind)}).encode()
            write_atomically(marker, data)
        return list(behind.values())

    def _shown_since(self, position: int) -> set[str]:
        """The runs whose documents show an event from ``position`` on, but what is surely another machine's."""
        sightings, found = Sightings(self.documents.folders), set[str]()
        for record in self.ledger.read_all(position):
            sightings.saw(record)
            if run_id := _run_of(record):
                found.add(run_id)
        return {run_id for run_id in found if not sightings.is_elsewhere(run_id)}

    def _done(
        self, marker: Mapping[str, Any]
    ) -> tuple[int, dict[str, tuple[str, Identity]], set[str]]:
        """What the marker says; nothing of another ledger's."""
        try:
            size, root = int(marker["size"]), bytes.fromhex(marker["root"])
            tags = {run: (str(place), tuple(seen)) for run, (place, seen) in marker["tags"].items()}
            behind = {str(run) for run in marker["behind"]}
        except (KeyError, ValueError, TypeError, AttributeError):
            return 0, {}, set()
        same = size <= self.ledger.head().size and self.ledger.root_at(size) == root
        return (size, tags, behind) if same else (0, {}, set())


def open_parts(settings: Settings, root: Path) -> tuple[Path, ObjectStore]:
    """The home and the store that these settings name; touches neither, and no ledger."""
    return settings.home_in(root), open_store(settings.store_in(root))


def ledger_file(home: Path) -> Path:
    """Where a home's own ledger is, if it has one."""
    return home / "ledger.db"


def open_workspace(
    settings: Settings,
    root: Path,
    *,
    writing: bool,
    actor: str | None = None,
    keeps_files: bool = True,
) -> Workspace:
    """Open ledger and store. Raises UnavailableError, IntegrityError, UsageError.

    Without ``keeps_files`` the project is elsewhere, and no target file of it is kept in step here.
    """
    home, store = open_parts(settings, root)
    with translated():
        ledger = _open_ledger(settings, home, store, writing=writing)
    journal = Journal(ledger, actor or settings.actor, clock.now)
    promoter = Promoter(
        journal,
        store,
        root=root,
        project=settings.project,
        new_id=clock.new_id,
        keeps_files=keeps_files,
    )
    documents = Documents(journal, home / "locks", shared=settings.ledger == "store")
    return Workspace(root, settings, home, ledger, store, journal, documents, promoter)


def _open_ledger(
    settings: Settings, home: Path, store: ObjectStore, *, writing: bool
) -> EventStore:
    file = ledger_file(home)
    if settings.ledger == "sqlite":
        return SqliteEventStore(file, read_only=not writing)
    # Here: a ledger in a file needs none of it.
    from launcher.storage.ledger_objects import open_ledger

    ledger = open_ledger(store, user_cache("ledgers"), writing=writing)
    if writing and file.exists() and (there := ledger.head().size) < _size(file):
        # Else this project's account would go on in two places from here on, or past half a copy.
        has = f"only the first {there:,} of its events" if there else "none yet"
        raise ConflictError(
            f"{file} holds a ledger, and {store.where} {has}",
            f"launcher ledger copy {shlex.quote(str(file))} {store.where}; or LAUNCHER_LEDGER=sqlite",
        )
    return ledger


def _size(file: Path) -> int:
    """How many events a ledger's file has; 1 where that cannot be told: something is there."""
    try:
        ledger = SqliteEventStore(file, read_only=True)
    except ledger_errors.LedgerError:
        return 1
    try:
        return ledger.head().size
    except ledger_errors.LedgerError:
        return 1
    finally:
        ledger.close()


def _run_of(record: Recorded[Any]) -> str | None:
    """The run whose documents show this event."""
    if record.stream.startswith("run/"):
        return record.stream.removeprefix("run/")
    if isinstance(record.data, PromotionConfirmed):
        return record.data.generation.run_id
    shown = StorageMeasured | RunFolderRetired | RunFolderRestored
    return record.data.run_id if isinstance(record.data, shown) else None


def _read_marker(path: Path) -> Mapping[str, Any]:
    """A cache only, so anything unreadable is an empty one."""
    try:
        marker = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _identity(path: str) -> Identity:
    """Size, inode and change time: whoever edits, replaces or restores a file gives it another one."""
    try:
        found = Path(path).stat()
    except OSError:
        return (None, None, None)
    return (found.st_size, found.st_ino, found.st_ctime_ns)
