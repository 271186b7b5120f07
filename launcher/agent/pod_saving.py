"""Keeps finished checkpoints of a running command: each in the store, then an object that says which there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.agent.pod_checkpoints import Finished, Stood, Watch, standing
from launcher.agent.pod_progress import Progress, SavedFile, newest_progress, progress_key
from launcher.agent.task import Task
from launcher.clock import now
from launcher.errors import UsageError
from launcher.storage.port import AccessRefusedError, ObjectExistsError, ObjectStore

__all__ = ["Saving"]


class Saving:
    """One pod's saving. Not for several threads at once."""

    def __init__(
        self, task: Task, store: ObjectStore, run_dir: Path, pod: str, watch: Watch
    ) -> None:
        self._store, self._run_dir, self._pod = store, run_dir, pod
        self._prefix = task.key("progress")
        self._watch = watch
        self._number: int | None = None
        #: What is in the store, by path, and which state of the file that is (None: of a pod before).
        self._saved: dict[str, tuple[SavedFile, Stood | None]] = {}
        self._said: tuple[object, ...] = ()

    def save(self) -> None:
        """While the command runs. Raises UnavailableError, AccessRefusedError."""
        self._begin()
        self._keep(self._watch.look())
        if self._listed() != self._said[0]:
            self._say(self._listed(), None)

    def save_all(self, *, ended_well: bool, log_digest: Callable[[], str | None]) -> None:
        """When nothing of the command runs any more: the newest checkpoint first, then the rest and the log.

        Raises UnavailableError, AccessRefusedError.
        """
        self._begin()
        left = self._watch.look(gone=True, ended_well=ended_well)
        # A pod that is being ended has little time: the newest is worth most.
        if self._keep(left[:1]):
            self._say(self._listed(), None)
        self._keep(left[1:])
        log = log_digest()
        if (self._listed(), log) != self._said:
            self._say(self._listed(), log)

    def _begin(self) -> None:
        """Go on where a pod of this attempt, or this one before its collector was killed, ended."""
        if self._number is not None:
            return
        before = newest_progress(self._store, self._prefix)
        if before is not None:
            self._saved = {one.path: (one, None) for one in before.checkpoints}
        self._said = (self._listed(), before.log_digest if before else None)
        self._number = before.number if before else 0

    def _keep(self, finished: list[Finished]) -> bool:
        """Store what is new of these; returns whether anything was."""
        found = False
        for one in finished:
            known = self._saved.get(one.path)
            if known is not None and known[1] == one.stood:
                continue
            try:
                blob = self._store.ingest(one.file)
            except AccessRefusedError:
                raise
            except UsageError:
                continue  # it is being written again, or it went
            if standing(one.file) != one.stood:
                continue
            entry = SavedFile(one.path, blob.digest, blob.size_bytes, one.modified_ns)
            found = found or known is None or known[0] != entry
            self._saved[one.path] = (entry, one.stood)
        return found

    def _listed(self) -> tuple[SavedFile, ...]:
        """What can be gone on from: what is saved and was not deleted; at least the newest."""
        saved = [one for one, _ in self._saved.values()]
        kept = [one for one in saved if (self._run_dir / one.path).exists()]
        if not kept and saved:
            kept = [max(saved, key=lambda one: (one.modified_ns, one.path))]
        return tuple(sorted(kept, key=lambda one: one.path))

    def _say(self, listed: tuple[SavedFile, ...], log: str | None) -> None:
        assert self._number is not None
        while True:
            self._number += 1
            progress = Progress(self._pod, self._number, now(), listed, log)
            try:
                key = progress_key(self._prefix, self._pod, self._number)
                self._store.create(key, progress.to_bytes())
            except ObjectExistsError:
                continue
            self._said = (listed, log)
            return
