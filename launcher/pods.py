"""What a stage is told in a pod: the same words as on this machine, with the paths that they have there.

What lies under the project root lies under /workspace there, at the same relative path; what lies outside of it,
below /workspace/outside. The task, a blob that the Job names, says what is brought there and what is kept of it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from k8s.containers import WORKSPACE
from k8s.profile_text import ReadProfile
from launcher.agent.pod_code import pack
from launcher.agent.task import Input, Limits, Private, Task, write_task
from launcher.config import Config
from launcher.errors import UsageError
from launcher.executors.pod_spec import PodSpec
from launcher.pipeline import LOG_NUMBER, log_name
from launcher.places import own_paths
from launcher.project import relative_to_project
from launcher.storage.bucket_url import is_bucket
from launcher.storage.port import ObjectStore
from launcher.tokens import stage_environment, substitute
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState

__all__ = ["pod_spec", "store_code"]

_OUTSIDE: Final = "outside"
_CODE_LIMIT_BYTES: Final = 200_000_000
_GIT_SECONDS: Final = 60


def store_code(store: ObjectStore, root: Path, *without: Path) -> str:
    """Store the project's tracked and unignored files as one blob; returns its digest.

    Files and folders of ``without`` are left out.

    Raises UsageError: no git checkout, or more than 200 MB.
    """
    paths = [p for p in _listed(root) if not any((root / p).is_relative_to(one) for one in without)]
    size = sum((root / p).lstat().st_size for p in paths)
    if size > _CODE_LIMIT_BYTES:
        raise UsageError(
            f"the code of {root} is {size:,} bytes, more than {_CODE_LIMIT_BYTES:,}",
            "name what pods do not need in .gitignore, or --code image",
        )
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "code.tar")
        pack(root, paths, packed)
        return store.ingest(packed).digest


def _listed(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", "ls-files", "-z"]
    try:
        done = subprocess.run(
            [*command, "--cached", "--others", "--exclude-standard", "--", "."],
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise UsageError(f"git cannot say which files {root} has: {exc}", "--code image") from exc
    if done.returncode != 0:
        raise UsageError(f"{root} is no git checkout, so its code is not known", "--code image")
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    places = [(name, root / name) for name in names]
    return [name for name, place in places if place.is_symlink() or place.is_file()]


def pod_spec(
    ws: Workspace,
    config: Config,
    state: RunState,
    stage: e.StageName,
    attempt: int,
    *,
    profile: ReadProfile,
) -> PodSpec:
    """Everything that a pod needs for an attempt; its task is stored. Raises UnavailableError."""
    request, plan = state.request, state.stages[stage].plan
    assert request is not None
    root = Path(request.project_root)
    folder = _place(ws.documents.run_dir(request), root)
    own = _own(state, stage, attempt, folder)
    tag_file = own["RELABEL_TAG_FILE"] if stage == "relabel" else None
    task = Task(
        run_id=state.run_id,
        stage=stage,
        attempt=attempt,
        index=LOG_NUMBER[stage],
        spec_digest=plan.spec_digest,
        command=substitute(plan.command or "", own),
        run_dir=_inside(folder),
        log=_inside(f"{folder}/logs/{log_name(stage, attempt)}"),
        code=request.provenance.code_digest,
        inputs=tuple(_inputs(request, root)),
        private=tuple(_private(request, root)),
        previous_manifests=tuple(
            s.manifest_digest for s in state.stages.values() if s.manifest_digest
        ),
        collect_exclude=tuple(substitute(p, own) for p in config.collect_exclude),
        student_glob=substitute(config.student_glob, own) if config.student_glob else None,
        tag_file=_inside(tag_file) if tag_file else None,
        timeout_seconds=plan.timeout_seconds,
        limits=Limits(collect=float(profile.stages[stage].collect_deadline_seconds)),
    )
    plain = {n: v for n, v in config.variables.items() if n not in config.secret_names}
    return PodSpec(
        run_id=state.run_id,
        stage=stage,
        attempt=attempt,
        index=task.index,
        command=task.command,
        cwd=WORKSPACE,
        environment=stage_environment({}, plain, own),
        run_dir=folder,
        log_path=f"{WORKSPACE}/{task.log}",
        store=ws.store.where if is_bucket(ws.store.where) else "",
        home=str(ws.home),
        previous_manifests=task.previous_manifests,
        collect_exclude=task.collect_exclude,
        student_glob=task.student_glob,
        tag_file=tag_file,
        timeout_seconds=plan.timeout_seconds,
        grace_seconds=float(profile.stages[stage].grace_seconds),
        spec_digest=plan.spec_digest,
        project=request.project,
        task=write_task(ws.store, task),
        secrets=frozenset(config.secret_names),
        private=tuple(one.path for one in task.private),
    )


def _own(state: RunState, stage: e.StageName, attempt: int, folder: str) -> dict[str, str | None]:
    request = state.request
    assert request is not None
    root, student = Path(request.project_root), state.student

    def place(given: e.InputRef | None) -> str | None:
        return _place(given.path, root) if given else None

    tag_file = request.relabel_tag_file
    return {
        **own_paths(state.run_id, Path(folder)),
        "STAGE": stage,
        "ATTEMPT": str(attempt),
        "TEACHER_CHECKPOINT": place(request.teacher_checkpoint),
        "TEACHER_SCORECARD": place(request.teacher_scorecard),
        "RELABEL_TAG_FILE": _place(tag_file, root) if tag_file else None,
        "STUDENT_CHECKPOINT": _place(student.path, root) if student else None,
        "RESUME_CHECKPOINT": None,
    }


def _inputs(request: e.RunRequested, root: Path) -> list[Input]:
    """Each place once: a teacher may be among the further inputs."""
    found: dict[str, Input] = {}
    for given in request.given:
        if given.stored:
            path = _inside(_place(given.path, root))
            one = Input(path=path, digest=given.digest, size_bytes=given.size_bytes)
            found.setdefault(path, one)
    return list(found.values())


def _private(request: e.RunRequested, root: Path) -> list[Private]:
    """Where their commands look for them: in the project's place, or else where they are on this machine, too."""
    found: dict[str, Private] = {}
    for given in request.given:
        if not given.stored:
            shown = relative_to_project(root / given.path, root)
            path = shown if shown.startswith("/") else f"{WORKSPACE}/{shown}"
            one = Private(path=path, digest=given.digest, size_bytes=given.size_bytes)
            found.setdefault(path, one)
    return list(found.values())


def _place(path: str | Path, root: Path) -> str:
    """Where something of this machine lies in a pod."""
    shown = relative_to_project(root / path, root)
    inside = f"{_OUTSIDE}{shown}" if shown.startswith("/") else shown
    return f"{WORKSPACE}/{inside}"


def _inside(place: str) -> str:
    return place.removeprefix(f"{WORKSPACE}/")
