"""The file that is kept in step with a pointer, and its backups.

Rules:

1. The new content is copied beside the target before the swap, so the swap itself is one rename.
2. Under a lock beside the target, the file becomes what the pointer names *now*, not what the caller
   believed, and the pointer is asked again afterwards: a slow loser brings the winner's content.
3. What stood there is kept as a backup and never over another one. At no moment is the target absent.
4. A target that is a symlink is replaced itself; what it led to is left alone and kept as a copy.
5. Whether the file is in step is told by size, times and inode as noted at the last look, else by
   hashing it; ``audit`` always hashes.
6. A copy that a killed process left beside the target is removed by the next one that prepares one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import glob
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from launcher.clock import deadline, new_id, sleep
from launcher.errors import UnavailableError
from launcher.storage.blobs import digest_file
from launcher.storage.durable import sync_file, sync_folder, take_name
from launcher.storage.port import ObjectStore
from ledger.events import Generation

__all__ = ["LOCK_WAIT_SECONDS", "Prepared", "TargetFile", "locked"]

#: How long a lock is waited for: its holder may be copying a checkpoint, or be stopped for good.
LOCK_WAIT_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_NOTE_BYTES: Final = 4096
#: What ``link`` says where there are none, or not of somebody else's file.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float = LOCK_WAIT_SECONDS) -> Iterator[int]:
    """Hold an exclusive lock on ``path`` (made if absent); yields its descriptor.

    Raises UnavailableError: it cannot be opened, or somebody else holds it for longer than ``wait_seconds``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise UnavailableError(f"cannot lock {path}: {exc.strerror}") from exc
    try:
        over = deadline(wait_seconds)
        while not _try_lock(fd):
            if over():
                raise UnavailableError(
                    f"{path} is locked by another process for longer than {wait_seconds:g} s",
                    "run it again; a stopped launcher keeps its locks",
                )
            sleep(_POLL_SECONDS)
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A verified copy of a blob beside a target. Whoever holds its lock is alive."""

    digest: str
    path: Path
    lock: int

    def discard(self) -> None:
        """Remove what is left of it. Idempotent, but for the lock: call it once."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
        os.close(self.lock)


class TargetFile:
    """One target path. Every method may raise UnavailableError (disk full, read-only, locked, …)."""

    def __init__(
        self, path: Path, store: ObjectStore, *, lock_wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        self.path, self.store, self._wait = path, store, lock_wait_seconds
        self._lock = path.with_name(f".{path.name}.lock")

    # --- looking ---

    def in_step(self, digest: str) -> bool:
        """Whether the file is known to hold ``digest``: a glance that locks, hashes and writes nothing.

        False means that a closer look is needed.
        """
        try:
            return _noted(self._lock.read_bytes(), _identity(self.path)) == digest
        except OSError:
            return False

    def digest(self) -> str | None:
        """The digest of the file as it stands, or None where there is none."""
        with self._held() as fd:
            return self._digest(fd)

    def plan_backup(self, label: str) -> Path | None:
        """Where the present file would be kept; None where there is no file."""
        if not self.path.exists():
            return None
        return next(name for name in self._backup_names(label) if not os.path.lexists(name))

    # --- changing ---

    def prepare(self, digest: str) -> Prepared:
        """A verified copy of a blob beside the target; ``discard`` it. Raises IntegrityError too."""
        with self._held():
            self._remove_leftovers()
            return self._stage(digest)

    def sync(
        self,
        live: Callable[[], Generation | None],
        label: str,
        *,
        prepared: Prepared | None = None,
        planned_backup: Path | None = None,
    ) -> Path | None:
        """Make the file what ``live()`` says now. Returns the backup that holds what it replaced, if any.

        ``prepared`` is used if it is what is wanted. Where the file is in step already, the answer is
        ``planned_backup`` if that exists. Raises IntegrityError for a damaged blob.
        """
        kept = None
        with self._held() as fd:
            while True:
                body = live()
                if body is None or body.digest is None:
                    return kept
                if self._digest(fd) == body.digest:
                    planned = planned_backup is not None and planned_backup.exists()
                    return kept or (planned_backup if planned else None)
                kept = self._swap(fd, body.digest, label, prepared) or kept

    def _swap(self, fd: int, digest: str, label: str, prepared: Prepared | None) -> Path | None:
        fits = prepared is not None and prepared.digest == digest and prepared.path.exists()
        staged = prepared if prepared is not None and fits else self._stage(digest)
        try:
            if self.path.exists():
                staged.path.chmod(stat.S_IMODE(self.path.stat().st_mode))
            backup = self._keep(label)
            os.replace(staged.path, self.path)
            sync_folder(self.path.parent)
            _note(fd, _identity(self.path), digest)
        finally:
            if staged is not prepared:
                staged.discard()
        return backup

    # --- copies beside the target ---

    def _stage(self, digest: str) -> Prepared:
        folder = self.path.with_name(f".{self.path.name}.{new_id()[:8]}.new")
        folder.mkdir()
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        staged = Prepared(digest, folder / "copy", lock)
        try:
            self.store.fetch_blob(digest, staged.path)
        except BaseException:
            staged.discard()
            raise
        return staged

    def _remove_leftovers(self) -> None:
        """Copies whose makers are dead. They are made under the target's lock, which we hold."""
        for folder in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.new"):
            try:
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)

    # --- backups ---

    def _backup_names(self, label: str) -> Iterator[Path]:
        base = self.path.with_name(f"{self.path.name}.bak.{label}")
        yield base
        number = 2
        while True:
            yield base.with_name(f"{base.name}.{number}")
            number += 1

    def _keep(self, label: str) -> Path | None:
        if not self.path.exists():
            return None
        for backup in self._backup_names(label):
            if os.path.lexists(backup):
                # Whoever was killed between keeping and replacing kept it already.
                if self._is_kept_as(backup):
                    return backup
                continue
            with contextlib.suppress(FileExistsError):
                self._keep_as(backup)
                return backup
        raise AssertionError("unreachable")

    def _is_kept_as(self, backup: Path) -> bool:
        found = backup.lstat()
        return (
            stat.S_ISREG(found.st_mode)
            and found.st_size == self.path.stat().st_size
            and filecmp.cmp(self.path, backup, shallow=False)
        )

    def _keep_as(self, backup: Path) -> None:
        """Give what stands there a second name; a copy where it is a symlink or there are no links."""
        if not self.path.is_symlink():
            try:
                os.link(self.path, backup)
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
            else:
                return
        folder = self.path.with_name(f".{self.path.name}.{new_id()[:8]}.new")
        folder.mkdir()
        try:
            shutil.copy2(self.path, folder / "copy")
            with (folder / "copy").open("rb+") as file:
                sync_file(file.fileno())
            take_name(folder / "copy", backup)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # --- what was seen at the last look ---

    def _digest(self, fd: int) -> str | None:
        try:
            identity = _identity(self.path)
        except FileNotFoundError:
            return None
        noted = _noted(os.pread(fd, _NOTE_BYTES, 0), identity)
        if noted is not None:
            return noted
        digest = digest_file(self.path).digest
        _note(fd, identity, digest)
        return digest

    @contextlib.contextmanager
    def _held(self) -> Iterator[int]:
        try:
            with locked(self._lock, self._wait) as fd:
                yield fd
        except OSError as exc:
            raise UnavailableError(f"{exc.filename or self.path}: {exc.strerror}") from exc


def _identity(path: Path) -> list[Any]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _noted(note: bytes, identity: list[Any]) -> str | None:
    """The digest that was noted of a file that looked like this; None for any other note, or none."""
    try:
        said = json.loads(note)
        return str(said["digest"]) if said["identity"] == identity else None
    except (ValueError, KeyError, TypeError):
        return None


def _note(fd: int, identity: list[Any], digest: str) -> None:
    """Remember what was seen. ``identity`` is from before the look: a change meanwhile is a change."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"identity": identity, "digest": digest}).encode(), 0)
