"""What a stage is given: its command with our tokens replaced, its environment, its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.config import Config
from launcher.executors.port import StageSpec
from launcher.pipeline import LOG_NUMBER, log_name
from launcher.request import own_paths
from launcher.tokens import stage_environment, substitute
from launcher.workspace import Workspace
from ledger import events as e
from ledger.decider import RunState

__all__ = ["log_path", "run_dir", "stage_spec"]


def run_dir(ws: Workspace, state: RunState) -> Path:
    """The run's own folder, absolute."""
    assert state.request is not None
    return ws.documents.run_dir(state.request)


def log_path(ws: Workspace, state: RunState, stage: e.StageName, attempt: int) -> Path:
    """An attempt's log, absolute."""
    return run_dir(ws, state) / "logs" / log_name(stage, attempt)


def stage_spec(
    ws: Workspace, config: Config, state: RunState, stage: e.StageName, attempt: int
) -> StageSpec:
    """Everything that an executor needs for an attempt; inputs that are not here are fetched.

    ``config`` holds the secret values. Raises IntegrityError, UnavailableError (an input).
    """
    request, plan = state.request, state.stages[stage].plan
    assert request is not None
    root, folder = Path(request.project_root), run_dir(ws, state)
    own = _own(ws, state, stage, attempt)
    tag_file = root / request.relabel_tag_file if request.relabel_tag_file else None
    if tag_file is not None and stage == "relabel":
        tag_file.parent.mkdir(parents=True, exist_ok=True)
    done = [s.manifest_digest for s in state.stages.values() if s.manifest_digest]
    return StageSpec(
        run_id=state.run_id,
        stage=stage,
        attempt=attempt,
        index=LOG_NUMBER[stage],
        command=substitute(plan.command or "", own),
        cwd=str(root),
        environment=stage_environment(os.environ, config.variables, own),
        run_dir=str(folder),
        log_path=str(log_path(ws, state, stage, attempt)),
        store=ws.store.where,
        home=str(ws.home),
        previous_manifests=tuple(done),
        collect_exclude=tuple(substitute(p, own) for p in config.collect_exclude),
        student_glob=substitute(config.student_glob, own) if config.student_glob else None,
        tag_file=str(tag_file) if tag_file and stage == "relabel" else None,
        timeout_seconds=plan.timeout_seconds,
        grace_seconds=ws.settings.grace_seconds,
        spec_digest=plan.spec_digest,
        patience_seconds=ws.settings.outlast_seconds,
    )


def _own(
    ws: Workspace, state: RunState, stage: e.StageName, attempt: int
) -> Mapping[str, str | None]:
    request = state.request
    assert request is not None
    root, student = Path(request.project_root), state.student

    def place(given: e.InputRef | None) -> str | None:
        return str(_fetched(ws, given, root)) if given else None

    tag_file = request.relabel_tag_file
    return {
        **own_paths(state.run_id, run_dir(ws, state)),
        "STAGE": stage,
        "ATTEMPT": str(attempt),
        "TEACHER_CHECKPOINT": place(request.teacher_checkpoint),
        "TEACHER_SCORECARD": place(request.teacher_scorecard),
        "RELABEL_TAG_FILE": str(root / tag_file) if tag_file else None,
        "STUDENT_CHECKPOINT": str(root / student.path) if student else None,
        "RESUME_CHECKPOINT": None,
    }


def _fetched(ws: Workspace, given: e.InputRef, root: Path) -> Path:
    """Where an input lies. One that was named by run, pointer or digest is brought from the store.

    So is one that lay in another run's folder, where that was retired while this run was being requested.
    """
    path = root / given.path
    if not path.exists():
        by_name = given.ref.startswith(("run:", "pointer:", "sha256:"))
        if by_name or _went_with_its_folder(ws, path):
            ws.store.fetch_blob(given.digest, path)
    return path


def _went_with_its_folder(ws: Workspace, path: Path) -> bool:
    known = set(ws.journal.run_ids())
    above = [ws.journal.run(folder.name) for folder in path.parents if folder.name in known]
    return any(ws.documents.folders.is_retired(state) for state in above)
