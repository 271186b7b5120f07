"""What made a run's checkpoint, out of the trash again.

For a promotion by hand of a run that ended long ago: a collection that looked before it was decided may be about
to empty the trash. Done before the checkpoint itself is looked at, so that either both are had, or the checkpoint
is missed and the promotion refused. What an earlier collection took is gone, and no reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from launcher.errors import IntegrityError
from launcher.retention.reach import digests_in, manifests_in
from launcher.storage.manifest import Manifest
from launcher.storage.port import ObjectStore
from ledger.events import Recorded

__all__ = ["bring_back"]

_DOCUMENT_BYTES: Final = 256 * 1024 * 1024


def bring_back(store: ObjectStore, events: Iterable[Recorded[Any]]) -> None:
    """See that everything that a run's events and manifests name is in its place, as far as it is there at all."""
    text = "\n".join(event.data.model_dump_json() for event in events)
    named = set(digests_in(text))
    for digest in sorted(named):
        with suppress(IntegrityError):
            store.recover(digest)
    for manifest in sorted(manifests_in(text)):
        for digest in sorted(set(_listed(store, manifest)) - named):
            with suppress(IntegrityError):
                store.recover(digest)


def _listed(store: ObjectStore, manifest: str) -> Iterator[str]:
    with suppress(IntegrityError, ValueError):
        found = Manifest.from_bytes(store.read_blob(manifest, _DOCUMENT_BYTES))
        yield from (entry.digest for entry in found.entries)
