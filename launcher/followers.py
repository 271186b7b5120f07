"""The target files of one project: which file follows which pointer, and how it is brought in step.

Rules:

1. A file follows the pointer of its own project only: another project's pointer of the same name never
   touches a file here.
2. The pointer is the truth. A file that cannot be written is said to be behind and mended later; it never
   undoes or hides what is live.
3. A folder that is not there is made for a promotion made here, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import LauncherError, UnavailableError
from launcher.project import is_file_target
from launcher.storage.pointer import Pointers
from launcher.target import Prepared, TargetFile
from ledger.events import Generation

__all__ = ["Followers", "Ready", "TargetBehindError"]


class TargetBehindError(UnavailableError):
    """What is live is right, and the file that follows it is not: it could not be brought in step."""

    def __init__(self, name: str, why: LauncherError) -> None:
        super().__init__(
            f"{name}: the file is behind its pointer: {why.message}",
            why.hint or "the next command that writes tries again",
        )
        self.name, self.why = name, why


@dataclass(frozen=True, slots=True)
class Ready:
    """What was made ready before a swap: the copy beside the target, and where its present file will go."""

    copy: Prepared | None = None
    backup: str | None = None


_NOTHING: Final = Ready()


class Followers:
    """The files of the project ``project``, whose root is ``root``; none of them without ``keeps_files``."""

    def __init__(
        self, root: Path, project: str, pointers: Pointers, *, keeps_files: bool = True
    ) -> None:
        self.root, self.project, self.pointers = root, project, pointers
        self._keeps_files = keeps_files

    def file(self, name: str) -> TargetFile | None:
        """The file that follows ``name``, or None for a pointer without one."""
        if not self._keeps_files or not is_file_target(name):
            return None
        return TargetFile(self.root / name, self.pointers.store)

    def make_room(self, name: str) -> None:
        """Make the folder of the file that follows ``name``, if one does. Raises UnavailableError."""
        file = self.file(name)
        if file is None:
            return
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UnavailableError(f"cannot make {file.path.parent}: {exc.strerror}") from exc

    @contextmanager
    def ready(self, body: Generation) -> Iterator[Ready]:
        """Everything that costs time, done before ``body`` is created; what was not used is removed.

        Raises UnavailableError (disk full, read-only, …), IntegrityError (a damaged blob).
        """
        file = self.file(body.name)
        if file is None or body.digest is None or body.project != self.project:
            yield Ready()
            return
        if file.digest() == body.digest:
            yield Ready()
            return
        copy = file.prepare(body.digest)
        try:
            planned = file.plan_backup(label(body))
            yield Ready(copy, self._shown(planned) if planned else None)
        finally:
            copy.discard()

    def bring_in_step(
        self, name: str, *, by: Generation | None = None, ready: Ready = _NOTHING
    ) -> str | None:
        """Make the file what ``name`` names now; returns where what it replaced is kept, if anywhere.

        ``by`` is the generation on whose behalf this is done, by default the live one. Idempotent.
        Raises TargetBehindError.
        """
        file = self.file(name)
        if file is None or not file.path.parent.is_dir():
            return None
        live = self.pointers.history(name).live
        if live is None or live.digest is None or live.project != self.project:
            return None
        if ready == _NOTHING and file.in_step(live.digest):
            return None
        try:
            kept = file.sync(
                lambda: self.pointers.history(name).live,
                label(by or live),
                prepared=ready.copy,
                planned_backup=self.root / ready.backup if ready.backup else None,
            )
        except LauncherError as exc:
            raise TargetBehindError(name, exc) from exc
        return self._shown(kept) if kept else None

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def label(body: Generation) -> str:
    """How the backup is called that ``body`` leaves: ``<target>.bak.<run-id>``."""
    return body.run_id or f"g{body.generation}"
