"""Where a run's stages are run: what ``submit`` is asked for, and the runner that a run's request names.

All that belongs to a cluster is imported where a run needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import request
from launcher.cli.common import project_root
from launcher.config import Config
from launcher.errors import IntegrityError, UsageError
from launcher.executors.local import LocalExecutor
from launcher.pipeline import log_name, with_infrastructure_retries
from launcher.progress import Progress
from launcher.runner import Runner
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import RunRequested
from ledger.run_state import StageState

if TYPE_CHECKING:
    from k8s.client import Client
    from k8s.profile_text import ReadProfile
    from launcher.executors.kubernetes import KubernetesExecutor

__all__ = [
    "client_of",
    "executor_of",
    "jobs_yaml",
    "on_cluster",
    "on_pods",
    "profile_in",
    "profile_of",
    "refuse_mixed",
    "runner_for",
]


def refuse_mixed(
    executor: str,
    *,
    profile: str | None,
    code: str,
    detach: bool,
    output: str | None,
    dry_run: bool,
) -> None:
    """Refuse flags that do not go together. Raises UsageError."""
    cluster = executor == "kubernetes"
    if cluster and profile is None:
        raise UsageError("--executor kubernetes needs --profile", "configs/profiles/ has some")
    clusters = {
        "--profile": profile is not None,
        "--code": code != "project",
        "--detach": detach,
    }
    for flag, given in clusters.items():
        if given and not cluster:
            raise UsageError(f"{flag} needs --executor kubernetes")
    if output is not None and not (cluster and dry_run):
        raise UsageError("-o yaml needs --executor kubernetes and --dry-run")


def on_pods(state: RunState) -> bool:
    """Whether the run's stages are Jobs."""
    return state.request is not None and state.request.executor == "kubernetes"


def on_cluster(
    ws: Workspace, config: Config, wanted: RunRequested, profile: str, *, code: str, dry_run: bool
) -> RunRequested:
    """``wanted`` with where it runs; its profile and code are stored, so that any machine can go on with it.

    Every Job is made once, so that what is wrong with one is said before anything starts. Raises UsageError.
    """
    from launcher.pods import store_code

    data = _profile_bytes(profile)
    read = _parsed(data, profile, wanted)
    if not dry_run:
        client_of(read)
    store = request.hashing(ws.store) if dry_run else ws.store
    private = [ws.root / one.path for one in wanted.given if not one.stored]
    places = (ws.home, ws.root / wanted.output_root, *private)
    digest = store_code(store, ws.root, *places) if code == "project" else None
    known = {"code_digest": digest, "profile_digest": store.ingest_bytes(data).digest}
    retries = {name: stage.infrastructure_retries for name, stage in read.stages.items()}
    made = wanted.model_copy(
        update={
            "executor": "kubernetes",
            "stages": with_infrastructure_retries(wanted.stages, retries),
            "provenance": wanted.provenance.model_copy(update=known),
        }
    )
    jobs_yaml(ws, config, made, profile)
    return made


def jobs_yaml(ws: Workspace, config: Config, wanted: RunRequested, profile: str | None) -> str:
    """The first attempt of each stage as ``kubectl apply`` takes it. A later stage's task will name more inputs."""
    from k8s.yaml_text import to_yaml
    from launcher.pods import pod_spec

    assert profile is not None
    read = profile_in(profile, wanted)
    dry = replace(ws, store=request.hashing(ws.store))
    stages = {plan.name: StageState(plan) for plan in wanted.stages}
    state = RunState(f"run/{wanted.run_id}", status="open", request=wanted, stages=stages)
    specs = [
        pod_spec(dry, config, state, plan.name, 1, profile=read)
        for plan in wanted.stages
        if plan.command
    ]
    return "---\n".join(to_yaml(spec.manifest(read)) for spec in specs)


def runner_for(ws: Workspace, config: Config, state: RunState, screen: Progress) -> Runner:
    """The runner of a run, whichever machine began it."""
    wanted = state.request
    if wanted is None or not on_pods(state):
        return Runner(ws, LocalExecutor(ws.store, ws.home), config, screen)
    from launcher.pods import pod_spec

    executor = executor_of(ws, wanted, say=screen.note)
    spec_of = partial(pod_spec, profile=executor.profile)
    return Runner(ws, executor, config, screen, spec_of=spec_of, remote=True)


def executor_of(
    ws: Workspace,
    wanted: RunRequested,
    *,
    say: Callable[[str], None] = lambda _: None,
    looks_only: bool = False,
    logs: Path | None = None,
) -> KubernetesExecutor:
    """The executor of a run whose stages are Jobs. ``logs``: where logs go as they come, not the run's own folder."""
    from launcher.executors.kubernetes import KubernetesExecutor

    folder = logs or ws.documents.run_dir(wanted) / "logs"
    read = profile_of(ws, wanted)
    return KubernetesExecutor(
        ws.store,
        ws.home,
        project=wanted.project,
        profile=read,
        connect=partial(client_of, read),
        live_log=lambda _, stage, attempt: folder / log_name(stage, attempt),  # type: ignore[arg-type]
        say=say,
        looks_only=looks_only,
    )


def profile_of(ws: Workspace, wanted: RunRequested) -> ReadProfile:
    """The profile that a run was requested with. Raises IntegrityError, UnavailableError."""
    digest = wanted.provenance.profile_digest
    if digest is None:
        raise IntegrityError(f"run {wanted.run_id} names no profile")
    return _parsed(ws.store.read_blob(digest), f"the profile of {wanted.run_id}", wanted)


def profile_in(file: str, wanted: RunRequested) -> ReadProfile:
    """The profile in a file, for a run that is not requested yet. Raises UsageError."""
    return _parsed(_profile_bytes(file), file, wanted)


def client_of(read: ReadProfile) -> Client:
    """Of the namespace that a profile names. Asks nothing yet. Raises UsageError where nothing leads to a cluster."""
    return client_in(read.profile.namespace)


def client_in(namespace: str | None = None) -> Client:
    """As ``client_of``; None: the namespace is the context's own, or this pod's."""
    from k8s.client import Client
    from k8s.errors import K8sError

    try:
        return Client.connect(namespace)
    except K8sError as exc:
        raise UsageError(str(exc)) from exc


def _profile_bytes(profile: str) -> bytes:
    from k8s.errors import ProfileError
    from k8s.profile_file import read_profile

    path = project_root() / profile
    try:
        read_profile(path, stages=())
        return path.read_bytes()
    except ProfileError as exc:
        raise UsageError(str(exc).replace(str(path), profile, 1)) from exc
    except OSError as exc:
        raise UsageError(f"{profile} cannot be read: {exc.strerror}") from exc


def _parsed(data: bytes, name: str, wanted: RunRequested) -> ReadProfile:
    from k8s.errors import ProfileError
    from k8s.profile_text import parse_profile

    stages = [plan.name for plan in wanted.stages if plan.command]
    try:
        return parse_profile(data.decode("utf-8-sig"), name, stages=stages)
    except ProfileError as exc:
        raise UsageError(str(exc)) from exc
