"""A follower: one file in step with one pointer, and its word on that in the store.

Rules:

1. A generation is acknowledged once it was taken over, never before. After a kill it is handed out again.
2. A generation that names the bytes which were taken over already changes nothing but the acknowledgement. What was
   taken over is noted beside the file (``taken.json``): a store that heard nothing of it makes nothing run twice.
3. What could not be taken over is handed out again, later each time; what is newer is handed out at once.
4. Whatever can pass is waited for, and said once. DEST goes on as it is meanwhile.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from launcher import clock
from launcher.consumers import REFRESH_SECONDS, Consumer, State, consumer_key
from launcher.errors import IntegrityError, LauncherError, UnavailableError
from launcher.serving.file import FileTroubleError, ServedFile, Taken
from launcher.serving.trouble import ACKNOWLEDGEMENT, STORE, Troubles, kind_of, passes
from launcher.storage.pointer import Pointers
from launcher.storage.port import AccessRefusedError, ObjectNotFoundError, ObjectStore
from ledger.events import Generation

__all__ = ["Checkpoint", "Follower"]

_FIRST_WAIT_SECONDS: Final = 1.0
_LONGEST_WAIT_SECONDS: Final = 300.0
#: A store that takes no acknowledgement is asked again after this.
_REFUSED_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint at ``path``. Without a pointer ``name`` is empty and ``generation`` 0."""

    path: Path
    digest: str
    size_bytes: int
    name: str = ""
    generation: int = 0
    run_id: str | None = None


class Follower:
    """A context manager: one follower for each file.

    ``consumer``: what it is called, default the host's name. ``acknowledges``: whether it says in the store what it
    is on. ``troubles`` hears what is in the way.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        dest: Path,
        consumer: str | None = None,
        *,
        acknowledges: bool = True,
        troubles: Troubles | None = None,
    ) -> None:
        self.store, self.name, self.file = store, name, ServedFile(dest)
        self.host = consumer or platform.node() or "unnamed"
        self.live: Generation | None = None
        self.troubles = troubles or Troubles()
        self._key = consumer_key(store, name, self.host)
        self._acknowledges = acknowledges
        self._pointers = Pointers(store)
        self._word: Consumer | None = None
        self._is_due = clock.deadline(REFRESH_SECONDS)
        self._speaking = threading.RLock()
        self._met = self._answered = False
        self._failures, self._failed_on, self._wait = 0, 0, 0.0
        self._is_time = clock.deadline(0.0)

    def __enter__(self) -> Follower:
        self.file.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.__exit__()

    # --- looking ---

    def look(self) -> Checkpoint | None:
        """``step``, where what can pass is said and None. Raises UsageError before the store answered once."""
        try:
            checkpoint = self.step()
        except LauncherError as exc:
            if not passes(exc, answered=self._answered):
                raise
            kind = kind_of(exc, self.live.generation if self.live else 0)
            if isinstance(exc, IntegrityError):
                self.troubles.over(STORE)
            self.troubles.met(kind, exc)
            return None
        if checkpoint is not None or self._failures == 0:
            self.troubles.over()
        else:
            self.troubles.over(STORE)
        return checkpoint

    def step(self) -> Checkpoint | None:
        """Look once; what is now at DEST and is to be taken over, or None where there is nothing to do.

        Raises what the store raises, and FileTroubleError; DEST is then what it was.
        """
        self.file.check()
        if self._acknowledges and not self._met:
            self._word, self._met = self._own_word(), True
        self.live = live = self._pointers.newest(self.name, self.live)
        self._answered = True
        if live is None or live.digest is None:
            return None
        if self._is_taken(live.digest):
            self._failures = 0
            self._say_taken(live.generation, live.digest)
            return None
        if self._failures and live.generation == self._failed_on and not self._is_time():
            self._say_again()
            return None
        if not self.file.has(live.digest):
            self._fetch(live)
        size = live.size_bytes if live.size_bytes is not None else self._size()
        return Checkpoint(
            self.file.path, live.digest, size, self.name, live.generation, live.run_id
        )

    def pause(self, interval_seconds: float) -> float:
        """How long to wait until the next look: about ``interval_seconds``, less where something failed just now."""
        wait = min(interval_seconds, self._wait) if self._failures else interval_seconds
        return clock.jittered(wait)

    def _is_taken(self, digest: str) -> bool:
        taken = self.file.taken
        return (
            taken is not None
            and (taken.name, taken.digest) == (self.name, digest)
            and self.file.has(digest)
        )

    def _fetch(self, live: Generation) -> None:
        digest = live.digest
        assert digest is not None
        try:
            self.file.place(digest, lambda path: self.store.fetch_blob(digest, path))
        except IntegrityError as exc:
            self.failed(live.generation, digest, None, str(exc))
            raise

    def _size(self) -> int:
        try:
            return self.file.path.stat().st_size
        except OSError as exc:
            raise FileTroubleError(f"cannot read {self.file.path}: {exc.strerror}") from exc

    # --- what it says ---

    @contextmanager
    def applying(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Say that it is being taken over, and again in time while the block lasts, however long that is."""
        self._say("applying", checkpoint.generation, checkpoint.digest)
        over = threading.Event()
        if self._acknowledges:
            threading.Thread(target=self._keep_saying, args=(over,), daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def applied(self, checkpoint: Checkpoint) -> None:
        """It was taken over: noted here, and acknowledged. A store that cannot be written to hears of it later."""
        self._failures = 0
        try:
            self.file.remember(Taken(checkpoint.name, checkpoint.generation, checkpoint.digest))
        except FileTroubleError as exc:
            self.troubles.met(kind_of(exc, checkpoint.generation), exc)
        self._say("applied", checkpoint.generation, checkpoint.digest)

    def failed(self, generation: int, digest: str, exit_code: int | None, message: str) -> None:
        """Say that it could not be taken over; it is handed out again, later each time."""
        self._failures = self._failures + 1 if generation == self._failed_on else 1
        self._failed_on = generation
        exponent = min(self._failures - 1, 16)
        self._wait = min(_FIRST_WAIT_SECONDS * 2.0**exponent, _LONGEST_WAIT_SECONDS)
        self._is_time = clock.deadline(self._wait * 0.8)  # a pause is that long at least
        self._say("failed", generation, digest, exit_code, message)

    def _say_taken(self, generation: int, digest: str) -> None:
        taken, word = self.file.taken, self._word
        if taken is not None and taken.generation != generation:
            self.file.remember(Taken(self.name, generation, digest))
        said = word is not None and (word.state, word.generation, word.digest, word.dest) == (
            "applied", generation, digest, str(self.file.path),
        )  # fmt: skip
        if not said or self._is_due():
            self._say("applied", generation, digest)

    def _say_again(self) -> None:
        with self._speaking:
            if self._word is not None and self._is_due():
                self._put(replace(self._word, time=clock.now()))

    def _keep_saying(self, over: threading.Event) -> None:
        while not over.wait(REFRESH_SECONDS):
            with self._speaking:  # so that no older word comes after a newer one
                if not over.is_set() and self._word is not None:
                    self._put(replace(self._word, time=clock.now()))

    def _own_word(self) -> Consumer | None:
        try:
            return Consumer.from_bytes(self.store.read(self._key))
        except (ObjectNotFoundError, AccessRefusedError, ValueError):
            return None

    def _say(
        self,
        state: State,
        generation: int,
        digest: str,
        exit_code: int | None = None,
        message: str | None = None,
    ) -> None:
        if not self._acknowledges:
            return
        with self._speaking:
            before, good, now = self._word, state == "applied", clock.now()
            same = before is not None and (before.state, before.generation) == (state, generation)
            word = Consumer(
                host=self.host,
                generation=generation,
                digest=digest,
                time=now,
                state=state,
                dest=str(self.file.path),
                applied=generation if good else before.applied if before else None,
                applied_digest=digest if good else before.applied_digest if before else None,
                exit_code=exit_code,
                message=message,
                since=before.since if before is not None and same else now,
            )
            self._put(word)

    def _put(self, word: Consumer) -> None:
        self._word, self._is_due = word, clock.deadline(REFRESH_SECONDS)
        try:
            self.store.replace(self._key, word.to_bytes())
        except UnavailableError:
            self._is_due = clock.deadline(0.0)  # with the next look
        except LauncherError as exc:
            self.troubles.met(ACKNOWLEDGEMENT, exc)
            self._is_due = clock.deadline(_REFUSED_SECONDS)
        else:
            self.troubles.over(ACKNOWLEDGEMENT)
