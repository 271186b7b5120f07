"""What an open run's stage does in its cluster, looked up there. Only reading, and never for long.

The ledger is what a run is; the cluster merely tells why it takes so long. So whoever cannot be asked, or does not
answer in time, is said to be away, and everything else is shown all the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic, TypeVar

from launcher import clock
from launcher.cli.common import duration
from launcher.cli.terminal import fact, one_line, paint
from launcher.errors import LauncherError
from launcher.workspace import Workspace
from ledger.decider import RunState, StageState
from ledger.events import RunRequested

__all__ = [
    "ClusterLook",
    "cluster_lines",
    "look_with_driver",
    "looks",
    "under_way_in_cluster",
    "waits_line",
]

Object = dict[str, Any]
T = TypeVar("T")

#: For one answer of the API server, and for all of them.
_ANSWER_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 6.0
#: States after which nothing of an attempt comes by itself, and what that means for an open run.
_OVER: Final = {
    "absent": "there is no Job of it in the cluster",
    "completed": "it has ended, and nobody has put that on record yet",
    "failed": "it has failed, and nobody has put that on record yet",
}


@dataclass(frozen=True, slots=True)
class ClusterLook:
    """``state`` as in ``k8s.outcome``; ``since`` RFC 3339, as the cluster says it. ``error``: why nothing was seen."""

    stage: str
    attempt: int
    state: str | None = None
    waits_for: str | None = None
    since: str | None = None
    pod: str | None = None
    node: str | None = None
    error: str | None = None


def waits_line(words: str, since: str | None) -> str:
    """``waits 4m10s: its queue has not let it go``; empty where nothing is waited for."""
    if not words:
        return ""
    waited = _seconds(since)
    return f"waits{f' {duration(waited)}' if waited is not None else ''}: {one_line(words)}"


def cluster_lines(found: ClusterLook | None) -> list[str]:
    """For a screen: what is waited for and since when, else where it runs; or that the cluster cannot be asked."""
    if found is None:
        return []
    if found.error:
        return [paint(line, dim=True) for line in fact("cluster", one_line(found.error))]
    if not found.waits_for:
        at = f" on {found.node}" if found.node else ""
        return fact("pod", f"{found.pod}{at}") if found.pod else []
    waited = _seconds(found.since)
    since = f"  for {duration(waited)}, since {found.since}" if waited is not None else ""
    name = "cluster" if found.state in _OVER else "waits"
    return fact(name, f"{found.stage}: {one_line(found.waits_for)}{since}")


def under_way_in_cluster(state: RunState) -> tuple[RunRequested, StageState] | None:
    """The request of an open run and its stage of which a cluster has an attempt, or is about to; else None."""
    request, current = state.request, state.current()
    if request is None or request.executor != "kubernetes" or state.status != "open":
        return None
    if current is None or current.status not in ("intended", "submitted", "running"):
        return None
    return request, current


def looks(ws: Workspace, states: Sequence[RunState], seconds: float) -> list[ClusterLook | None]:
    """What the attempt under way of each does, as its cluster has it; None where no cluster has one.

    All are asked for at the same time: a cluster that is silent is waited for once.
    """
    over = time.monotonic() + seconds
    begun = [_Look(ws, state, seconds) for state in states]
    return [one.found(over) for one in begun]


def look_with_driver(
    ws: Workspace, state: RunState, driver_in: str | None, seconds: float = _LOOK_SECONDS
) -> tuple[ClusterLook | None, str | None]:
    """What ``looks`` finds, and why the Job in ``driver_in`` that the run was given drives it no more.

    The second is None where it does, where nobody can tell, and where the run was given none. Both are asked for at
    the same time.
    """
    over, request = time.monotonic() + seconds, state.request
    stage = _Look(ws, state, seconds)
    driver = _Asking(partial(_driver_end, request, driver_in)) if request and driver_in else None
    return stage.found(over), driver.answer(over) if driver else None


class _Asking(Generic[T]):
    """A question that is being asked, in a thread that nothing waits for in the end."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._answers: list[T] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(ask()), daemon=True)
        self._thread.start()

    def answer(self, over: float) -> T | None:
        """What it returned; None where it has not by that moment of the monotonic clock."""
        self._thread.join(max(over - time.monotonic(), 0.0))
        return self._answers[0] if self._answers else None


class _Look:
    """What an attempt does in its cluster, being asked for."""

    def __init__(self, ws: Workspace, state: RunState, seconds: float) -> None:
        self._asking: _Asking[ClusterLook] | None = None
        if under_way := under_way_in_cluster(state):
            request, current = under_way
            unseen = ClusterLook(current.plan.name, current.attempt)
            self._unseen = replace(unseen, error=f"it did not answer within {seconds:g} s")
            self._asking = _Asking(partial(_asked, ws, request, current, unseen))

    def found(self, over: float) -> ClusterLook | None:
        """What was found by then; None where no cluster has it."""
        return (self._asking.answer(over) or self._unseen) if self._asking else None


def _driver_end(request: RunRequested, namespace: str) -> str | None:
    from k8s import names
    from k8s.driver import DRIVER, driver_seen
    from k8s.errors import K8sError

    with suppress(K8sError):
        seen = driver_seen(*_of(namespace, request, f"{names.STAGE}={DRIVER}"))
        if seen is None:
            return "there is no such Job in the cluster"
        return None if seen.drives else seen.message or "it has ended"
    return None


def _asked(
    ws: Workspace, request: RunRequested, stage: StageState, unseen: ClusterLook
) -> ClusterLook:
    from k8s.errors import K8sError
    from k8s.outcome import outcome

    try:
        job, pods, events = _listed(ws, request, stage)
    except (K8sError, LauncherError) as exc:
        return replace(unseen, error=str(exc))
    said = outcome(job, pods, events)
    return replace(
        unseen,
        state=said.state,
        waits_for=_OVER.get(said.state, said.message) if said.gone else said.message or None,
        since=said.since,
        pod=said.pod.name if said.pod else None,
        node=said.pod.node if said.pod else None,
    )


def _listed(
    ws: Workspace, request: RunRequested, stage: StageState
) -> tuple[Object | None, Sequence[Object], Sequence[Object]]:
    """The attempt's Job, its pods, and the events about either. Raises K8sError, LauncherError."""
    from k8s import names

    chosen = f"{names.STAGE}={stage.plan.name},{names.ATTEMPT}={stage.attempt}"
    jobs, pods, events = _of(_namespace(ws, request, stage), request, chosen)
    return (jobs[0] if jobs else None), pods, events


def _of(
    namespace: str | None, request: RunRequested, chosen: str
) -> tuple[Sequence[Object], Sequence[Object], Sequence[Object]]:
    """The Jobs and pods of a run with the labels of ``chosen``, and the events about the Jobs and the last pod."""
    from k8s import names
    from k8s.client import Client

    client = Client.connect(namespace, answer_seconds=_ANSWER_SECONDS)
    labels = f"{names.selector(request.project, request.run_id)},{chosen}"
    pods = client.listed("pods", labels).items
    jobs = client.listed("jobs", labels).items
    events: list[Object] = []
    for one in (*jobs, *pods[-1:]):
        of = f"involvedObject.uid={one['metadata']['uid']}"
        events += client.listed("events", fields=of).items
    return jobs, pods, events


def _namespace(ws: Workspace, request: RunRequested, stage: StageState) -> str | None:
    """Where its Job was made, or is to be made; None: as the kubeconfig of this machine says."""
    if stage.handle is not None and stage.handle.namespace:
        return stage.handle.namespace
    from k8s.profile_text import parse_profile

    stored = ws.store.read_blob(request.provenance.profile_digest or "")
    read = parse_profile(stored.decode("utf-8-sig"), "its profile", stages=())
    return read.profile.namespace


def _seconds(since: str | None) -> float | None:
    if since is None:
        return None
    passed = clock.parse_time(clock.now()) - clock.parse_time(since)
    return max(passed.total_seconds(), 0.0)
