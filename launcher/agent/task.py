"""What the agent in a pod is told: a task, an immutable blob of the store that the Job names by its digest.

Rules:

1. Paths are relative to the workspace, POSIX, and stay in it: what lay under the project root lies there again.
2. No secret has a value in it. The command stands here as the Job has it, for whoever looks into it later.
3. The digest of a task says all that was given: what is fetched is verified against what it names.
4. An agent that does not know all of a task does nothing (``format``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from launcher.agent.protocol import StageSpec
from launcher.errors import IntegrityError
from launcher.storage.port import ObjectStore
from ledger.canonical import canonical_json
from ledger.errors import LedgerError
from ledger.ids import check_digest, check_run_id

__all__ = ["Input", "Limits", "Private", "Task", "read_task", "stage_spec", "write_task"]

_LIMIT_BYTES: Final = 16 * 1024 * 1024


def _digest(value: str) -> str:
    try:
        return check_digest(value)
    except LedgerError as exc:
        raise ValueError(str(exc)) from exc


def _run_id(value: str) -> str:
    try:
        return check_run_id(value)
    except LedgerError as exc:
        raise ValueError(str(exc)) from exc


def _place(value: str) -> str:
    if "\0" in value or any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("a path inside the workspace, without '.', '..' and empty parts")
    return value


def _folder(value: str) -> str:
    return _place(value) if value != "." else value


def _absolute(value: str) -> str:
    if not value.startswith("/") or _place(value[1:]) != value[1:]:
        raise ValueError("an absolute path, without '.', '..' and empty parts")
    return value


Digest = Annotated[str, AfterValidator(_digest)]
Place = Annotated[str, AfterValidator(_place)]
Folder = Annotated[str, AfterValidator(_folder)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Input(_Strict):
    """A file that is brought before the command starts. ``executable``: it may be run."""

    path: Place
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    executable: bool = False


class Private(_Strict):
    """A file that is never stored: a volume has it in the command's container, under this absolute path."""

    path: Annotated[str, AfterValidator(_absolute)]
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class Limits(_Strict):
    """All in seconds.

    ``fetch``: how long a store that is away is waited for before the command; ``collect``: after it, as long as
    the wrapper waits; ``quiet``: how long a checkpoint that was not renamed into place is left alone.
    """

    fetch: Annotated[float, Field(ge=0)] = 300.0
    collect: Annotated[float, Field(ge=0)] = 3600.0
    quiet: Annotated[float, Field(ge=0)] = 10.0


class Task(_Strict):
    """One attempt at a stage, as its pod is to know it.

    ``code``: the digest of a tar (``pod_code``), None where the image has its own. ``previous_manifests`` oldest
    first. ``tag_file`` for the stage that writes it. ``cwd`` is ``.`` for the workspace itself. ``timeout_seconds``:
    the most that the command may take in one pod, collecting not counted.
    """

    format: Literal[1] = 1
    run_id: Annotated[str, AfterValidator(_run_id)]
    stage: Literal["llm_on", "relabel", "retrain", "llm_off"]
    attempt: Annotated[int, Field(ge=1)]
    index: Annotated[int, Field(ge=1)]
    spec_digest: Digest
    command: str
    cwd: Folder = "."
    run_dir: Place
    log: Place
    code: Digest | None = None
    inputs: tuple[Input, ...] = ()
    private: tuple[Private, ...] = ()
    previous_manifests: tuple[Digest, ...] = ()
    collect_exclude: tuple[str, ...] = ()
    student_glob: str | None = None
    tag_file: Place | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    limits: Limits = Limits()

    def key(self, name: str) -> str:
        """The store's key of one of this attempt's objects, such as ``result.json``."""
        return f"runs/{self.run_id}/{self.stage}/{self.attempt}/{name}"

    def to_bytes(self) -> bytes:
        """RFC 8785 JSON."""
        return canonical_json(self.model_dump(mode="json"))


def write_task(store: ObjectStore, task: Task) -> str:
    """Store ``task``; returns its digest. Writing it again is harmless. Raises UnavailableError."""
    return store.ingest_bytes(task.to_bytes()).digest


def read_task(store: ObjectStore, digest: str) -> Task:
    """The task of this digest, verified. Raises IntegrityError, UnavailableError."""
    data = store.read_blob(digest, _LIMIT_BYTES)
    try:
        return Task.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise IntegrityError(
            f"task {digest}: {where}: {first['msg']}", "is agent.image of the launcher's version?"
        ) from exc


def stage_spec(task: Task, workspace: Path, store: str) -> StageSpec:
    """The attempt as the collecting of outputs knows it, its paths in ``workspace``."""
    tag_file = str(workspace / task.tag_file) if task.tag_file else None
    return StageSpec(
        run_id=task.run_id,
        stage=task.stage,
        attempt=task.attempt,
        index=task.index,
        command=task.command,
        cwd=str(workspace / task.cwd),
        environment={},
        run_dir=str(workspace / task.run_dir),
        log_path=str(workspace / task.log),
        store=store,
        home=str(workspace),
        previous_manifests=task.previous_manifests,
        collect_exclude=task.collect_exclude,
        student_glob=task.student_glob,
        tag_file=tag_file,
        timeout_seconds=None,
        grace_seconds=0.0,
        spec_digest=task.spec_digest,
        patience_seconds=task.limits.collect,
    )
