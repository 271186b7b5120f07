"""Looking at ledger, pointers and store for all that is needed: what is gathered, and what that lists. Writes nothing.

What cannot be read is a doubt, and a doubt keeps everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from launcher.errors import IntegrityError, LauncherError
from launcher.retention.gather import Gathered, gather
from launcher.retention.reach import (
    Blob,
    Facts,
    Needed,
    Policy,
    digests_in,
    manifests_in,
    needed,
)
from launcher.storage.manifest import Manifest
from launcher.storage.port import (
    BlobMissingError,
    ObjectInfo,
    ObjectNotFoundError,
)
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState
from ledger.events import Recorded

__all__ = ["Look", "Seen", "blobs_of"]

_THREADS: Final = 8
#: A manifest or a plan of half a million files.
_DOCUMENT_BYTES: Final = 256 * 1024 * 1024

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. ``needed`` is whole: what kept manifests list is in it. ``states`` are the runs, by id."""

    facts: Facts
    needed: Needed
    digests: frozenset[str]
    states: dict[str, RunState]
    planned: tuple[Recorded[e.GarbagePlanned], ...]
    collected: frozenset[str]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What could not be read; any of it keeps everything."""
        return self.needed.doubts


@dataclass
class Look:
    """Looks at one workspace, again and again; what never changes is read once."""

    ws: Workspace
    policy: Policy
    _manifests: dict[str, frozenset[str]] = field(default_factory=dict)
    _plans: dict[str, dict[str, int]] = field(default_factory=dict)

    def __call__(self, now: float) -> Seen:
        """What is needed at ``now``. Raises ForeignLedgerError, WrongStoreError, UnavailableError."""
        found = gather(self.ws, now)
        return self._whole(found, needed(found.facts, self.policy, now))

    def manifest(self, digest: str) -> frozenset[str]:
        """The digests that a manifest lists. Raises IntegrityError, UnavailableError."""
        if digest not in self._manifests:
            try:
                found = Manifest.from_bytes(self.ws.store.read_blob(digest, _DOCUMENT_BYTES))
            except ValueError as exc:
                raise IntegrityError(f"blob {digest} is {exc}") from exc
            self._manifests[digest] = frozenset(entry.digest for entry in found.entries)
        return self._manifests[digest]

    def plan(self, digest: str) -> tuple[str, dict[str, int]]:
        """A plan's date, and the size of each blob that it names. Raises IntegrityError, UnavailableError."""
        try:
            raw = json.loads(self.ws.store.read_blob(digest, _DOCUMENT_BYTES))
            return str(raw["date"]), {b["digest"]: int(b["size_bytes"]) for b in raw["blobs"]}
        except (ValueError, KeyError, TypeError) as exc:
            raise IntegrityError(f"blob {digest} is no plan of a collection: {exc}") from exc

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work`` done to each, several at once."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(work, items))

    # --- inside ---

    def _whole(self, gathered: Gathered, found: Needed) -> Seen:
        """Add what the small objects of kept runs name, and what manifests list."""
        facts, planned = gathered.facts, gathered.planned
        kept = [o.key for o in gathered.objects if self._may_name(o.key, found, facts)]
        texts = self.each(self._text, kept)
        doubts = list(found.doubts)
        digests, manifests = set(found.digests), set(found.manifests)
        for text, doubt in texts:
            digests |= digests_in(text)
            manifests |= manifests_in(text)
            doubts += [doubt] if doubt else []
        was_collected = partial(self._was_collected, [r.data.plan_digest for r in planned])
        for listed, doubt in self.each(partial(self._listed, was_collected), sorted(manifests)):
            digests |= listed
            doubts += [doubt] if doubt else []
        digests |= manifests
        whole = Needed(found.runs, frozenset(digests), frozenset(manifests), tuple(doubts))
        return Seen(facts, whole, whole.digests, gathered.states, planned, gathered.collected)

    def _may_name(self, key: str, found: Needed, facts: Facts) -> bool:
        """Whether a run's object may name what the ledger does not: its end is in the ledger once it is closed."""
        _, run_id, *rest = key.split("/")
        if run_id not in found.runs:
            return False
        run = facts.runs[run_id]
        # Of a stage that failed, what it left is named by its result alone.
        is_open = run.ended_at is None or run.status in ("failed", "cancelled")
        return is_open or rest[-1:] not in (["result.json"], ["start.json"])

    def _text(self, key: str) -> tuple[str, str | None]:
        try:
            return self.ws.store.read(key).decode("utf-8", "replace"), None
        except ObjectNotFoundError:
            return "", None
        except IntegrityError as exc:
            return "", exc.message

    def _listed(
        self, was_collected: Callable[[str], bool], digest: str
    ) -> tuple[frozenset[str], str | None]:
        try:
            return self.manifest(digest), None
        except BlobMissingError as exc:
            return frozenset(), None if was_collected(digest) else exc.message
        except IntegrityError as exc:
            return frozenset(), exc.message

    def _was_collected(self, plans: Iterable[str], digest: str) -> bool:
        """Whether an earlier collection took it: then what it listed went with it, or is named elsewhere."""
        for plan in plans:
            if plan not in self._plans:
                try:
                    self._plans[plan] = self.plan(plan)[1]
                except LauncherError:
                    self._plans[plan] = {}
            if digest in self._plans[plan]:
                return True
        return False


def blobs_of(objects: Iterable[ObjectInfo]) -> Iterator[Blob]:
    """Blobs, from a listing of ``blobs/`` or of a trash."""
    for info in objects:
        hexadecimal = info.key.rpartition("/")[2]
        if len(digests_in(f"sha256:{hexadecimal}")) == 1:
            yield Blob(f"sha256:{hexadecimal}", info.size_bytes, info.modified)
