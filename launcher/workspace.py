"""One command's working set: project, settings, ledger, store, documents, promoter.

``open_workspace(…, writing=False)`` never creates or changes anything; with ``writing=True`` the home is
made where it is absent. ``attend`` is what every writing command does first: settle what others left
half done, bring target files in step, rewrite documents that a crash left behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
from launcher.settings import Settings
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectStore
from ledger import errors as ledger_errors
from ledger.events import PromotionConfirmed
from ledger.stores.port import EventStore
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["Workspace", "open_workspace", "translated"]


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
        case ledger_errors.VersionConflictError():
            return ConflictError(str(exc))
        case _:
            return UsageError(str(exc))


@dataclass(frozen=True, slots=True)
class Workspace:
    """``root`` is the project root, absolute; ``home`` holds ledger.db, objects/ and locks/."""

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

    def attend(self, rolling_back: str | None = None) -> list[TargetBehindError]:
        """What a writing command does first; running it again does nothing.

        ``rolling_back`` names the pointer that this command turns back: what is open there is not
        finished, its number is taken by a fence. Returns which target files could not be brought in
        step: no reason to stop, but to be said.
        """
        behind = []
        for name in self.journal.pointer_names():
            try:
                self.promoter.settle(name, rolling_back=name == rolling_back)
            except TargetBehindError as exc:
                behind.append(exc)
        self._catch_up(self.locks / "documents.json")
        return behind

    def _catch_up(self, marker: Path) -> None:
        """Rewrite the documents that are behind the ledger, and import what jobs wrote into theirs.

        The marker says up to where that was done (size and root, so that it counts for this very ledger
        only) and how each run's tag document looked then. It is written last and may be lost at any time.
        """
        head = self.ledger.head()
        seen, tags = self._done(_read_marker(marker))
        stale = {path.run_id: path.text for path in self._moved_since(seen)}
        for run_id, (place, identity) in tags.items():
            if run_id not in stale and _identity(place) != identity:
                stale[run_id] = place
        for run_id, place in sorted(stale.items()):
            # Looked at before it is read: a change after this look is found by the next one.
            identity = _identity(place)
            self.documents.write(run_id)
            tags[run_id] = (place, identity)
        done = {"size": head.size, "root": head.root.hex(), "tags": tags}
        if stale or seen != head.size:
            write_atomically(marker, json.dumps(done).encode())

    def _done(self, marker: Mapping[str, Any]) -> tuple[int, dict[str, tuple[str, Identity]]]:
        """Up to where the documents were brought, and the tag documents of then; nothing of another ledger's."""
        try:
            size, root = int(marker["size"]), bytes.fromhex(marker["root"])
            tags = {run: (str(place), tuple(seen)) for run, (place, seen) in marker["tags"].items()}
        except (KeyError, ValueError, TypeError, AttributeError):
            return 0, {}
        same = size <= self.ledger.head().size and self.ledger.root_at(size) == root
        return (size, tags) if same else (0, {})


def open_workspace(
    settings: Settings, root: Path, *, writing: bool, actor: str | None = None
) -> Workspace:
    """Open ledger and store. Raises UnavailableError, IntegrityError, UsageError."""
    home = settings.home if settings.home.is_absolute() else root / settings.home
    with translated():
        ledger = SqliteEventStore(home / "ledger.db", read_only=not writing)
    store = FilesystemStore(Path(settings.store) if settings.store else home / "objects")
    journal = Journal(ledger, actor or settings.actor, clock.now)
    promoter = Promoter(journal, store, root=root, project=settings.project, new_id=clock.new_id)
    documents = Documents(journal, home / "locks")
    return Workspace(root, settings, home, ledger, store, journal, documents, promoter)


def _read_marker(path: Path) -> tuple[int, int]:
    """(ledger size, nanoseconds) of the last look; a cache only, so anything unreadable is zero."""
    try:
        marker = json.loads(path.read_bytes())
        return int(marker["size"]), int(marker["looked_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _now_ns(folder: Path) -> int:
    """This moment by the file system's own clock, which is the one that edits are stamped with."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "clock"
    probe.touch()
    return probe.stat().st_mtime_ns
