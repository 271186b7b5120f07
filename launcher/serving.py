"""What serves a checkpoint: ``pull`` fetches one, ``follow`` goes where its pointer goes. Needs only the store.

    from launcher.serving import follow

    for checkpoint in follow("s3://bucket/prefix#student", "student.pt"):
        load(checkpoint.path)

Rules:

1. DEST is whole and verified or what it was before; it is replaced by one rename.
2. A generation is acknowledged once it was taken over, never before. After a kill it is handed out again.
3. What lies in DEST's neighbour ``.<name>.follow/`` is this module's: a lock, what is being fetched, and the
   checkpoint before, for a rollback without a download.
4. A generation that names the bytes which were taken over already changes nothing but the acknowledgement.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from launcher import clock
from launcher.consumers import Consumer, consumer_key
from launcher.errors import ConflictError, LauncherError, UnavailableError, UsageError
from launcher.storage.address import Address, parse_address
from launcher.storage.blobs import digest_file
from launcher.storage.durable import make_folder, sync_folder
from launcher.storage.opening import open_store
from launcher.storage.pointer import Pointers
from launcher.storage.port import AccessRefusedError, ObjectNotFoundError, ObjectStore, Progress
from ledger.errors import InvalidNameError
from ledger.events import Generation
from ledger.ids import check_digest

__all__ = ["Checkpoint", "Follower", "follow", "pull", "resolve"]

#: A follower that has nothing new says its word again this often.
_REFRESH_SECONDS: Final = 240.0
_GENERATION: Final = re.compile(r"(.+)@([1-9][0-9]{0,7})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint at ``path``. Without a pointer ``name`` is empty and ``generation`` 0."""

    path: Path
    digest: str
    size_bytes: int
    name: str = ""
    generation: int = 0
    run_id: str | None = None


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
        raise UsageError(f"{address!r} is no address", "s3://bucket/prefix#NAME or /folder#NAME")
    store, digest, body = found
    path = Path(dest).absolute()
    blob = store.fetch_blob(digest, path, progress)
    if body is None:
        return Checkpoint(path, digest, blob.size_bytes)
    return Checkpoint(path, digest, blob.size_bytes, body.name, body.generation, body.run_id)


def follow(
    address: str, dest: str | Path, *, interval_seconds: float = 10.0, consumer: str | None = None
) -> Iterator[Checkpoint]:
    """Each checkpoint that ``STORE#NAME`` comes to name, once it lies at ``dest``; waits in between, without end.

    Asking for the next one acknowledges the one before. What is damaged or away is asked for again.
    ``consumer``: what this follower is called, default the host's name.
    Raises UsageError (no address, no access), ConflictError (another follower of ``dest``).
    """
    parsed = parse_address(address, Path.cwd())
    if parsed is None:
        raise UsageError(f"{address!r} is no address", "s3://bucket/prefix#NAME or /folder#NAME")
    with Follower(open_store(parsed.store), parsed.name, Path(dest), consumer) as follower:
        while True:
            try:
                checkpoint = follower.step()
            except UsageError:
                raise
            except LauncherError:
                checkpoint = None
            if checkpoint is not None:
                yield checkpoint
                follower.applied(checkpoint)
            else:
                clock.sleep(clock.jittered(interval_seconds))


class Follower:
    """Brings one file in step with one pointer. A context manager: one follower for each file."""

    def __init__(self, store: ObjectStore, name: str, dest: Path, consumer: str | None) -> None:
        self.store, self.name, self.dest = store, name, dest.absolute()
        self.host = consumer or platform.node() or "unnamed"
        self.live: Generation | None = None
        self._key = consumer_key(store, name, self.host)
        self._pointers = Pointers(store)
        self._aside = self.dest.with_name(f".{self.dest.name}.follow")
        self._lock: IO[bytes] | None = None
        self._there: str | None = None
        self._word: Consumer | None = None
        self._rest = clock.deadline(_REFRESH_SECONDS)
        self._met = False

    def __enter__(self) -> Follower:
        if self.dest.is_dir():
            raise UsageError(f"{self.dest} is a folder", "name the file that is to follow")
        try:
            make_folder(self._aside)
            self._lock = (self._aside / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"{self.dest} is followed by another process already") from None
        except OSError as exc:
            raise UnavailableError(f"cannot use {self._aside}: {exc.strerror}") from exc
        for left in self._aside.iterdir():  # of one that was killed
            if left.name.startswith((".tmp-", "new-")):
                left.unlink(missing_ok=True)
        if self.dest.exists():
            self._there = digest_file(self.dest).digest
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def step(self) -> Checkpoint | None:
        """Look once; what is now at DEST and is to be taken over, or None where there is nothing to do.

        Raises what the store raises; DEST is then what it was.
        """
        if not self._met:
            self._word, self._met = self._own_word(), True
        self.live = live = self._pointers.newest(self.name, self.live)
        if live is None or live.digest is None:
            return None
        word = self._word
        # The last word may be of another file, or of this one before somebody else changed it.
        done = word is not None and word.dest == str(self.dest) and word.state == "applied"
        if (
            done
            and self.dest.exists()
            and word is not None
            and word.digest == live.digest == self._there
        ):
            if word.generation != live.generation or self._rest():
                self._say("applied", live.generation, live.digest)
            return None
        if self._there != live.digest or not self.dest.exists():
            self._place(live.digest)
        size = live.size_bytes if live.size_bytes is not None else self.dest.stat().st_size
        return Checkpoint(self.dest, live.digest, size, self.name, live.generation, live.run_id)

    def applied(self, checkpoint: Checkpoint) -> None:
        """Acknowledge it. A store that cannot be written to now hears of it later."""
        self._say("applied", checkpoint.generation, checkpoint.digest)

    def failed(self, generation: int, digest: str, exit_code: int | None, message: str) -> None:
        """Say that it could not be taken over."""
        self._say("failed", generation, digest, exit_code, message)

    def _place(self, digest: str) -> None:
        kept = self._aside / digest.removeprefix("sha256:")
        fresh = self._aside / f"new-{kept.name}"
        if not (kept.exists() and digest_file(kept).digest == digest):
            kept.unlink(missing_ok=True)
            self.store.fetch_blob(digest, fresh)
        else:
            kept.replace(fresh)
        try:
            self._keep_the_one_before()
            fresh.replace(self.dest)
            sync_folder(self.dest.parent)
        except OSError as exc:
            raise UnavailableError(f"cannot replace {self.dest}: {exc.strerror}") from exc
        self._there = digest

    def _keep_the_one_before(self) -> None:
        """By a link, verified when it is used: whoever writes into DEST in place changes it too."""
        for old in self._aside.iterdir():
            if old.name != "lock" and not old.name.startswith("new-"):
                old.unlink(missing_ok=True)
        if self._there is not None:
            with suppress(OSError):  # no links here: a rollback fetches
                os.link(self.dest, self._aside / self._there.removeprefix("sha256:"))

    def _own_word(self) -> Consumer | None:
        try:
            return Consumer.from_bytes(self.store.read(self._key))
        except (ObjectNotFoundError, AccessRefusedError, ValueError):
            return None

    def _say(
        self,
        state: str,
        generation: int,
        digest: str,
        exit_code: int | None = None,
        message: str | None = None,
    ) -> None:
        before, good = self._word, state == "applied"
        word = Consumer(
            host=self.host,
            generation=generation,
            digest=digest,
            time=clock.now(),
            state=state,
            dest=str(self.dest),
            applied=generation if good else before.applied if before else None,
            applied_digest=digest if good else before.applied_digest if before else None,
            exit_code=exit_code,
            message=message,
        )
        self._word, self._rest = word, clock.deadline(_REFRESH_SECONDS)
        try:
            self.store.replace(self._key, word.to_bytes())
        except (UnavailableError, AccessRefusedError):
            self._rest = clock.deadline(0.0)  # with the next look
