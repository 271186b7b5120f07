"""What the init container does: the workspace of one attempt, from the store.

Rules:

1. Everything is verified by digest while it streams in, and has its name when it is right and not before.
2. What is there already and is right stays: run again, it goes on where it ended.
3. Nothing is written outside the workspace, nor through a symlink in it.
4. What is never stored is brought by a volume of the profile; here it is only compared with its digest.
5. A pod that replaces one that was disrupted gets what that one saved: checkpoints with their times, the log,
   and in the handover folder the ``resume`` file, the path of the newest.
5. A pod of an attempt that has its result starts no command: one that Kubernetes makes because it did not see the
   end of the first, or that a launcher asks for which slept for too long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from launcher.agent.pod_code import unpack
from launcher.agent.pod_door import Given
from launcher.agent.pod_progress import Progress, newest_progress
from launcher.agent.task import Private, Task, read_task
from launcher.clock import new_id
from launcher.errors import ConflictError, IntegrityError, UnavailableError
from launcher.retry import outlasted
from launcher.storage.blobs import digest_file
from launcher.storage.manifest import Manifest, merged
from launcher.storage.opening import open_store
from launcher.storage.placing import place_of
from launcher.storage.port import TEMPORARY_PREFIX, BlobDamagedError, BlobMissingError

__all__ = ["RESUME", "Fetch"]

#: The file of the handover folder that names the checkpoint to go on from.
RESUME: Final = "resume"
_FOLDERS: Final = ("logs", "checkpoints", "artifacts", "metadata")
#: Fetching waits for the network, not for us.
_THREADS: Final = 8
_SMALL_BYTES: Final = 1024 * 1024
#: How long a store that is away is waited for before the task, which says how long it may be, could be read.
_FIRST_SECONDS: Final = float(os.environ.get("LAUNCHER_FETCH_SECONDS") or 300.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file: its place, and what is to be there; the size is None where nobody said it."""

    place: Path
    name: str
    digest: str
    size_bytes: int | None = None
    executable: bool = False
    modified_ns: int | None = None

    @property
    def is_small(self) -> bool:
        return self.size_bytes is not None and self.size_bytes <= _SMALL_BYTES


class Fetch:
    """One pod's fetching. ``say`` hears why it waits."""

    def __init__(self, asked: Given, say: Callable[[str], None]) -> None:
        self._asked, self._say = asked, say
        self._store = open_store(asked.store)
        self._workspace = Path(os.path.realpath(asked.workspace))
        self._seconds = _FIRST_SECONDS

    def run(self) -> str:
        """All of it; returns what was done, in a line. Raises IntegrityError, UnavailableError, ConflictError."""
        task = self._patiently(lambda: read_task(self._store, self._asked.task))
        self._seconds = task.limits.fetch
        if self._patiently(lambda: self._store.exists(task.key("result.json"))):
            of = f"{task.stage} attempt {task.attempt} of {task.run_id}"
            raise ConflictError(f"{of} has its result already; nothing is started again")
        run_dir = place_of(self._workspace, task.run_dir)
        try:
            for one in task.private:
                self._check_private(one)
            self._code(task)
            self._files([self._input(one) for one in self._inputs(task)])
            self._files(self._earlier(task, run_dir))
            for name in _FOLDERS:
                (run_dir / name).mkdir(parents=True, exist_ok=True)
            (self._workspace / task.cwd).mkdir(parents=True, exist_ok=True)
            if task.tag_file:
                place_of(self._workspace, task.tag_file).parent.mkdir(parents=True, exist_ok=True)
            return self._resume(task, run_dir)
        except OSError as exc:
            raise UnavailableError(f"{exc.filename or self._workspace}: {exc.strerror}") from exc

    # --- its parts ---

    def _code(self, task: Task) -> None:
        if task.code is None:
            return
        packed = self._workspace / f".code-{task.code.removeprefix('sha256:')[:16]}.tar"
        self._fetch(_Wanted(packed, "the code", task.code))
        unpack(packed, self._workspace)
        packed.unlink()

    def _check_private(self, one: Private) -> None:
        place, what = Path(f"{self._asked.private}{one.path}"), f"{one.path} (INPUTS_PRIVATE)"
        hint = "the profile's volumes have to hold what the run was requested with"
        if not place.is_file():
            raise IntegrityError(f"{what} is not on its volume", hint)
        if place.stat().st_size != one.size_bytes or digest_file(place).digest != one.digest:
            raise IntegrityError(f"{what} is another file on its volume", hint)

    def _inputs(self, task: Task) -> Sequence[tuple[str, str, int | None, bool]]:
        return [(one.path, one.digest, one.size_bytes, one.executable) for one in task.inputs]

    def _input(self, one: tuple[str, str, int | None, bool]) -> _Wanted:
        path, digest, size, executable = one
        return _Wanted(place_of(self._workspace, path), path, digest, size, executable)

    def _earlier(self, task: Task, run_dir: Path) -> list[_Wanted]:
        """What lies in the run's folder after the stages before."""
        manifests = [self._manifest(digest) for digest in task.previous_manifests]
        return [
            _Wanted(place_of(run_dir, path), path, entry.digest, entry.size_bytes)
            for path, entry in sorted(merged(manifests).items())
        ]

    def _manifest(self, digest: str) -> Manifest:
        data = self._patiently(lambda: self._store.read_blob(digest))
        try:
            return Manifest.from_bytes(data)
        except ValueError as exc:
            raise IntegrityError(f"blob {digest}: {exc}", "launcher audit") from exc

    def _resume(self, task: Task, run_dir: Path) -> str:
        """What a pod of this very attempt saved before this one."""
        prefix = task.key("progress")
        saved = self._patiently(lambda: newest_progress(self._store, prefix))
        if saved is None:
            return "all is there"
        wanted = [
            _Wanted(
                place_of(run_dir, one.path),
                one.path,
                one.digest,
                one.size_bytes,
                modified_ns=one.modified_ns,
            )
            for one in saved.checkpoints
        ]
        if saved.log_digest:
            wanted.append(_Wanted(place_of(self._workspace, task.log), task.log, saved.log_digest))
        self._files(wanted)
        return self._hand_over(saved, run_dir)

    def _hand_over(self, saved: Progress, run_dir: Path) -> str:
        newest = saved.newest
        if newest is None:
            return "all is there, and the log that this attempt had"
        part = self._asked.handover / f"{RESUME}.part"
        part.write_bytes(os.fsencode(place_of(run_dir, newest.path)))
        part.replace(self._asked.handover / RESUME)
        return f"all is there; it goes on from {newest.path}, saved {saved.saved_at}"

    # --- files ---

    def _files(self, wanted: Sequence[_Wanted]) -> None:
        """Small ones several at once, big ones one by one, each in parts: so memory is bounded.

        The first error ends it.
        """
        latest = {one.place: one for one in wanted}
        small = [one for one in latest.values() if one.is_small]
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                for _ in pool.map(self._fetch, small):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
        for one in latest.values():
            if not one.is_small:
                self._fetch(one)

    def _fetch(self, one: _Wanted) -> None:
        if not _is_there(one):
            try:
                self._patiently(lambda: self._bring(one))
            except (BlobMissingError, BlobDamagedError) as exc:
                raise IntegrityError(f"{one.name}: {exc.message}", "launcher audit") from exc
        if one.executable:
            one.place.chmod(one.place.stat().st_mode | 0o111)
        if one.modified_ns is not None:
            os.utime(one.place, ns=(one.modified_ns, one.modified_ns))

    def _bring(self, one: _Wanted) -> None:
        if not one.is_small:
            self._store.fetch_blob(one.digest, one.place)
            return
        # One request, and no wait for a disk that goes with the pod.
        data = self._store.read_blob(one.digest, _SMALL_BYTES)
        one.place.parent.mkdir(parents=True, exist_ok=True)
        part = one.place.with_name(f"{TEMPORARY_PREFIX}{new_id()}")
        try:
            part.write_bytes(data)
            part.replace(one.place)
        finally:
            part.unlink(missing_ok=True)

    def _patiently(self, step: Callable[[], T]) -> T:
        return outlasted(
            step,
            seconds=self._seconds,
            is_passing=lambda exc: isinstance(exc, UnavailableError),
            before_wait=lambda exc: self._say(f"it waits for the store: {exc}"),
        )


def _is_there(one: _Wanted) -> bool:
    place = one.place
    if place.is_symlink() or not place.is_file():
        return False
    if one.size_bytes is not None and place.stat().st_size != one.size_bytes:
        return False
    return digest_file(place).digest == one.digest
