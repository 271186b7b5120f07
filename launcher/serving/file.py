"""The file that is served, DEST, and what lies beside it in ``.<name>.follow/``.

| there         | what                                                                        |
|---------------|-----------------------------------------------------------------------------|
| lock          | held by the one process that follows                                        |
| taken.json    | pointer, generation and digest that were taken over last, with success      |
| <hex>         | the checkpoint before, for a rollback without a download                    |
| new-<hex>     | what is being fetched; of one that was killed it is cleared away            |
| run-<id>      | a command at work; there without one only after a kill                      |

Rules:

1. At every instant DEST is the old checkpoint or the new one, whole: it changes by one rename. The one before
   is kept first, and a kept one that comes back stays kept until it is at DEST.
2. ``taken.json`` goes before DEST changes and comes once the change was taken over, so it is never wrong.
3. What this machine refuses (disk full, folder gone or read-only) is a FileTroubleError; asking again may help.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from launcher.errors import ConflictError, UnavailableError, UsageError
from launcher.storage.blobs import digest_file
from launcher.storage.durable import make_folder, sync_file, sync_folder
from ledger.canonical import canonical_json

__all__ = ["FileTroubleError", "ServedFile", "Taken"]

#: What writing says and reading does not: it is of this machine, whoever met it.
_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_TEMPORARY: Final = (".tmp-", "new-")
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_RUN: Final = "run-"
_LOCK, _TAKEN = "lock", "taken.json"


class FileTroubleError(UnavailableError):
    """DEST, or its folder, cannot be written; DEST is what it was."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken over last: ``digest`` as ``generation`` of the pointer ``name``."""

    name: str
    generation: int
    digest: str


class ServedFile:
    """A context manager: one for each file, in one process."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.aside = self.path.with_name(f".{self.path.name}.follow")
        self.taken: Taken | None = None
        self._digest: str | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> ServedFile:
        """Raises UsageError (a folder), ConflictError (followed already), FileTroubleError."""
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a folder", "name the file that is to follow")
        self._take_hold()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        """See that it is still ours; a folder that was away and is there again is taken again.

        Raises FileTroubleError, ConflictError. One ``stat``.
        """
        with self._told():
            with suppress(FileNotFoundError, NotADirectoryError):
                held, there = self._lock, (self.aside / _LOCK).stat()
                if held is not None and os.path.samestat(os.fstat(held.fileno()), there):
                    return
            if not self.path.parent.is_dir():
                raise FileTroubleError(f"{self.path.parent} is gone", "it is waited for")
        self.__exit__()
        self._take_hold()

    def has(self, digest: str) -> bool:
        """Whether DEST is there, with these bytes as far as is known here."""
        return self._digest == digest and self.path.exists()

    def place(self, digest: str, fetch: Callable[[Path], object]) -> None:
        """Bring these bytes to DEST, kept ones if there are, else those that ``fetch`` puts at a path, verified.

        Raises FileTroubleError and what ``fetch`` raises.
        """
        bare = digest.removeprefix("sha256:")
        fresh = self.aside / f"new-{bare}"
        with self._told():
            fresh.unlink(missing_ok=True)
            if not self._comes_back(self.aside / bare, digest, fresh):
                fetch(fresh)
            self._swap(fresh)
            before, self._digest = self._digest, digest
            self._sweep(before)

    def remember(self, taken: Taken) -> None:
        """Note, durably, what was taken over. Raises FileTroubleError."""
        self.taken = taken
        with self._told():
            temporary = self.aside / f".tmp-{_TAKEN}"
            with temporary.open("wb") as file:
                file.write(canonical_json(asdict(taken)))
                file.flush()
                sync_file(file.fileno())
            temporary.replace(self.aside / _TAKEN)
            sync_folder(self.aside)

    def runs(self) -> list[Path]:
        """The marks of commands that were at work when their watch was killed."""
        with self._told():
            return sorted(p for p in self.aside.iterdir() if p.name.startswith(_RUN))

    def run_mark(self, run_id: str) -> Path:
        """Where a command that begins now has its mark."""
        return self.aside / (_RUN + run_id)

    def _take_hold(self) -> None:
        with self._told():
            make_folder(self.aside)
            lock = (self.aside / _LOCK).open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in self.aside.iterdir():
                    if left.name.startswith(_TEMPORARY):
                        left.unlink(missing_ok=True)
                self.taken = self._noted()
                self._digest = digest_file(self.path).digest if self.path.exists() else None
            except BlockingIOError:
                lock.close()
                raise ConflictError(f"{self.path} is followed by another process already") from None
            except BaseException:
                lock.close()
                raise
            self._lock = lock

    def _noted(self) -> Taken | None:
        try:
            said = json.loads((self.aside / _TAKEN).read_bytes())
            taken = Taken(said["name"], said["generation"], said["digest"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return taken if type(taken.generation) is int else None

    @staticmethod
    def _comes_back(kept: Path, digest: str, fresh: Path) -> bool:
        """Whether the kept bytes are there, right, and at ``fresh`` now; they stay kept meanwhile."""
        if not (kept.exists() and digest_file(kept).digest == digest):
            return False
        with suppress(OSError):
            os.link(kept, fresh)
        return fresh.exists()

    def _swap(self, fresh: Path) -> None:
        if self.taken is not None:
            self.taken = None
            (self.aside / _TAKEN).unlink(missing_ok=True)
            sync_folder(self.aside)
        if self._digest is not None:
            # Verified when it is used: whoever writes into DEST in place changes it too. Where it is kept
            # already that is well; where there are no links a rollback fetches.
            with suppress(OSError):
                os.link(self.path, self.aside / self._digest.removeprefix("sha256:"))
        fresh.replace(self.path)
        fresh.unlink(missing_ok=True)  # to rename a link of the same file does nothing
        sync_folder(self.path.parent)

    def _sweep(self, before: str | None) -> None:
        """Let go of everything that is kept but the one before."""
        for old in self.aside.iterdir():
            if _HEX.fullmatch(old.name) and f"sha256:{old.name}" != before:
                old.unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An OSError within, and one of a full or read-only disk that a store met, is this file's trouble."""
        try:
            yield
        except OSError as exc:
            raise FileTroubleError(
                f"cannot write {self.path}: {exc.strerror or exc}", "it stays as it is"
            ) from exc
        except FileTroubleError:
            raise
        except UnavailableError as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _DISK:
                raise FileTroubleError(
                    f"cannot write {self.path}: {exc.__cause__.strerror}", "it stays as it is"
                ) from exc
            raise
