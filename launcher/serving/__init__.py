"""What serves a checkpoint: ``pull`` fetches one, ``follow`` goes where its pointer goes. Needs only the store.

    from launcher.serving import follow

    for checkpoint in follow("s3://bucket/prefix#student", "student.pt"):
        load(checkpoint.path)

``file`` keeps DEST and what lies beside it, ``follower`` goes where the pointer goes, ``command`` runs a command after
each change, ``trouble`` says what is in the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.errors import LauncherError, UsageError
from launcher.serving.follower import Checkpoint, Follower
from launcher.serving.trouble import Troubles
from launcher.storage.address import Address, parse_address
from launcher.storage.opening import open_store
from launcher.storage.pointer import Pointers
from launcher.storage.port import ObjectStore, Progress
from ledger.errors import InvalidNameError
from ledger.events import Generation
from ledger.ids import check_digest

__all__ = ["Checkpoint", "Follower", "follow", "pull", "resolve"]

_GENERATION: Final = re.compile(r"(.+)@([1-9][0-9]{0,7})")


def resolve(text: str, root: Path) -> tuple[ObjectStore, str, Generation | None] | None:
    """(store, digest, generation) of ``STORE#NAME``, ``STORE#NAME@N`` or ``STORE#sha256:…``; None for no address.

    Raises UsageError for a pointer or generation that is not there.
    """
    place, mark, digest = text.rpartition("#sha256:")
    if mark:
        address = parse_address(f"{place}#x", root)
        if address is None:
            return None
        try:
            return open_store(address.store), check_digest("sha256:" + digest), None
        except InvalidNameError as exc:
            raise UsageError(str(exc), "STORE#sha256:<64 hex digits>") from exc
    found = _GENERATION.fullmatch(text)
    address = parse_address(found[1] if found else text, root)
    if address is None:
        return None
    store = open_store(address.store)
    body = _generation(store, address, int(found[2]) if found else None)
    assert body.digest is not None
    return store, body.digest, body


def _generation(store: ObjectStore, address: Address, number: int | None) -> Generation:
    pointers = Pointers(store)
    history = pointers.history(address.name) if number is not None else None
    body = history.get(number or 0) if history else pointers.newest(address.name)
    if body is None or body.digest is None:
        what = f"g{number} of {address.name}" if number else f"pointer {address.name!r}"
        raise UsageError(f"{what} names nothing in {address.store}", f"launcher pointers {address}")
    return body


def pull(address: str, dest: str | Path, progress: Progress | None = None) -> Checkpoint:
    """Fetch what ``STORE#NAME``, ``STORE#NAME@N`` or ``STORE#sha256:…`` names to ``dest``, verified.

    Raises UsageError, IntegrityError, UnavailableError; ``dest`` is then untouched.
    """
    found = resolve(address, Path.cwd())
    if found is None:
        raise _no_address(address)
    store, digest, body = found
    path = Path(dest).absolute()
    blob = store.fetch_blob(digest, path, progress)
    if body is None:
        return Checkpoint(path, digest, blob.size_bytes)
    return Checkpoint(path, digest, blob.size_bytes, body.name, body.generation, body.run_id)


def follow(
    address: str,
    dest: str | Path,
    *,
    interval_seconds: float = 10.0,
    consumer: str | None = None,
    acknowledges: bool = True,
    on_trouble: Callable[[LauncherError], object] | None = None,
) -> Iterator[Checkpoint]:
    """Each checkpoint that ``STORE#NAME`` comes to name, once it lies at ``dest``; waits in between, without end.

    Asking for the next one acknowledges the one before; until then it is said to be ``applying``. What can pass is
    waited for: damage, a store that is away or refuses, a full disk. Each is a warning of the logger
    ``launcher.serving``, once, and goes to ``on_trouble``, once; ``dest`` stays as it is.

    ``consumer``: what this follower is called, default the host's name. ``acknowledges``: False writes nothing to the
    store. Raises UsageError (no address, no such bucket), ConflictError (another follower of ``dest``).
    """
    parsed = _address(address)
    follower = Follower(
        open_store(parsed.store),
        parsed.name,
        Path(dest),
        consumer,
        acknowledges=acknowledges,
        troubles=Troubles(hears=on_trouble),
    )
    with follower:
        while True:
            checkpoint = follower.look()
            if checkpoint is not None:
                with follower.applying(checkpoint):
                    yield checkpoint
                follower.applied(checkpoint)
            else:
                clock.sleep(follower.pause(interval_seconds))


def _address(text: str) -> Address:
    found = parse_address(text, Path.cwd())
    if found is None:
        raise _no_address(text)
    return found


def _no_address(text: str) -> UsageError:
    return UsageError(f"{text!r} is no address", "s3://bucket/prefix#NAME or /folder#NAME")
