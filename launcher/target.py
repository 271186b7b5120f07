"""The file that is kept in step with a pointer, and its backups.

Rules:

1. The new content is copied beside the target before the swap, so the swap itself is one rename.
2. Under a lock beside the target, the file becomes what the pointer names *now*, not what the caller
   believed: a slow loser brings the winner's content.
3. What stood there is kept as a backup and never over another one. At no moment is the target absent.
4. Whether the file is in step is told by size, mtime and inode as noted at the last look, else by
   hashing it; ``audit`` always hashes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.clock import new_id
from launcher.errors import UnavailableError
from launcher.storage.blobs import digest_file
from launcher.storage.port import ObjectStore
from ledger.events import Generation

__all__ = ["TargetFile", "locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on ``path`` (made if absent); yields its descriptor. Raises UnavailableError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise UnavailableError(f"cannot lock {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


class TargetFile:
    """One target path. Every method may raise UnavailableError (disk full, read-only, …)."""

    def __init__(self, path: Path, store: ObjectStore) -> None:
        self.path, self.store = path, store
        self._lock = path.with_name(f".{path.name}.lock")

    def digest(self) -> str | None:
        """The digest of the file as it stands, or None where there is none."""
        with locked(self._lock) as fd:
            return self._digest(fd)

    def prepare(self, digest: str) -> Path:
        """A verified copy of a blob beside the target, under a temporary name of its own."""
        copy = self.path.with_name(f".{self.path.name}.{new_id()}.tmp")
        self.store.fetch_blob(digest, copy)
        return copy

    def plan_backup(self, label: str) -> Path | None:
        """Where the present file would be kept; None where there is no file."""
        return self._free_backup(label) if self.path.exists() else None

    def sync(
        self,
        live: Callable[[], Generation | None],
        label: str,
        *,
        prepared: tuple[str, Path] | None = None,
        planned_backup: Path | None = None,
    ) -> Path | None:
        """Make the file what ``live()`` says now. Returns the backup that holds what it replaced, if any.

        ``prepared`` is (digest, path) from ``prepare``; it is used if it is still wanted and removed
        otherwise. Where the file is in step already, the answer is ``planned_backup`` if that exists.
        """
        try:
            with locked(self._lock) as fd:
                body = live()
                if body is None or body.digest is None:
                    return None
                if self._digest(fd) == body.digest:
                    exists = planned_backup is not None and planned_backup.exists()
                    return planned_backup if exists else None
                return self._swap(fd, body.digest, label, prepared)
        finally:
            if prepared is not None:
                prepared[1].unlink(missing_ok=True)

    def _swap(
        self, fd: int, digest: str, label: str, prepared: tuple[str, Path] | None
    ) -> Path | None:
        fits = prepared is not None and prepared[0] == digest and prepared[1].exists()
        copy = prepared[1] if prepared is not None and fits else self.prepare(digest)
        try:
            copy.chmod(0o644)
            backup = self._keep_backup(label) if self.path.exists() else None
            os.replace(copy, self.path)
            _sync_folder(self.path.parent)
            self._note(fd, digest)
        except OSError as exc:
            copy.unlink(missing_ok=True)
            raise UnavailableError(f"cannot replace {self.path}: {exc.strerror}") from exc
        return backup

    def _keep_backup(self, label: str) -> Path:
        while True:
            backup = self._free_backup(label)
            try:
                os.link(self.path, backup)
            except FileExistsError:
                continue
            except OSError as exc:
                if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
                    raise
                shutil.copy2(self.path, backup)
            return backup

    def _free_backup(self, label: str) -> Path:
        base = self.path.with_name(f"{self.path.name}.bak.{label}")
        candidate, number = base, 1
        while candidate.exists() or candidate.is_symlink():
            number += 1
            candidate = base.with_name(f"{base.name}.{number}")
        return candidate

    def _digest(self, fd: int) -> str | None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return None
        identity = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        try:
            noted = json.loads(os.pread(fd, 4096, 0) or b"{}")
        except ValueError:
            noted = {}
        if noted.get("identity") == identity:
            return str(noted["digest"])
        digest = digest_file(self.path).digest
        self._note(fd, digest)
        return digest

    def _note(self, fd: int, digest: str) -> None:
        stat = self.path.stat()
        identity = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"identity": identity, "digest": digest}).encode(), 0)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
