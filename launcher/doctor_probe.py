"""Jobs that try a profile from inside: place, images, store and code, before a run depends on them.

One Job for each kind of pod that the stages come to. Each is deleted when it is decided, and whatever else ends this;
should even that not come to pass, they end by themselves soon after. See ``k8s.probing``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from k8s import names
from k8s.client import Client
from k8s.errors import ClusterRefusedError, ClusterUnavailableError, K8sError
from k8s.names import Attempt
from k8s.outcome import Outcome, outcome
from k8s.probing import is_done, judged, probe_job
from k8s.watch import Mirror, Seen
from launcher.agent.task import Task, write_task
from launcher.doctor_cluster import StageLook
from launcher.errors import UsageError
from launcher.findings import Finding, failed, ok, warning
from launcher.pods import store_code
from launcher.storage.port import ObjectStore
from ledger.canonical import canonical_json

__all__ = ["probed", "task_of"]

Object = Mapping[str, Any]

_NOTHING: Final = f"sha256:{'0' * 64}"
_LIST_SECONDS: Final = 30.0
#: An image that cannot be had is asked for again by the kubelet; what it says then is what it said before.
_IMAGE_SECONDS: Final = 10.0
#: What waiting may well help: the profile is not wrong for it.
_PATIENT: Final = ("queued", "blocked", "unschedulable", "pending", "pulling", "unreachable")


@dataclass
class _Probe:
    stages: list[str]
    attempt: Attempt
    manifest: Object
    image_error_since: float | None = None

    @property
    def words(self) -> str:
        return ", ".join(self.stages)


def probed(client: Client, wanted: Sequence[StageLook], *, seconds: int) -> Iterator[Finding]:
    """One finding for each kind of pod, as they are decided; all within about ``seconds``."""
    probes = _kinds(wanted, seconds)
    if not probes:
        return
    about = probes[0].attempt
    selector, start = names.selector(about.project, about.run_id), names.name_start(about.run_id)
    mirror = Mirror(client, selector, lambda name: name.startswith(start))
    mirror.open()
    try:
        mirror.ready(_LIST_SECONDS)
        left = []
        for probe in probes:
            try:
                client.create_or_adopt_job(probe.manifest, probe.attempt)
                left.append(probe)
            except K8sError as exc:
                yield failed("probe", f"{probe.words}: {exc}", "see above", UsageError)
        yield from _watched(mirror, left, time.monotonic() + seconds, seconds)
    finally:
        mirror.close()
        _take_away(client, selector)


def task_of(store: ObjectStore, root: Path, run_id: str, *own: Path) -> tuple[str, Finding]:
    """The digest of what a probe's fetch is to bring, stored with the project's code; and what to say of the code.

    ``own``: folders of ours, no part of it. Raises UnavailableError.
    """
    try:
        code: str | None = store_code(store, root, *own)
        said = ok("code", f"stored as {code}; the probes fetch it")
    except UsageError as exc:
        code, said = None, warning("code", f"not fetched by a probe: {exc.message}", exc.hint)
    task = Task(
        run_id=run_id,
        stage="llm_on",
        attempt=1,
        index=1,
        spec_digest=_NOTHING,
        command="true",
        run_dir=run_id,
        log=f"{run_id}/log",
        code=code,
    )
    return write_task(store, task), said


def _kinds(wanted: Sequence[StageLook], seconds: int) -> list[_Probe]:
    """Pods that are the same are tried once."""
    found: dict[bytes, _Probe] = {}
    for one in wanted:
        manifest = probe_job(one.job, seconds=seconds)
        key = canonical_json(manifest["spec"]["template"]["spec"])
        found.setdefault(key, _Probe([], one.attempt, manifest)).stages.append(one.stage)
    return list(found.values())


def _watched(
    mirror: Mirror, left: list[_Probe], deadline: float, seconds: int
) -> Iterator[Finding]:
    seen = mirror.seen()
    while left:
        over = time.monotonic() > deadline
        for probe in [*left]:
            if found := _decided(probe, seen, over, seconds):
                left.remove(probe)
                yield found
        if left:
            seen = mirror.wait(seen.number, min(1.0, max(deadline - time.monotonic(), 0.01)))


def _decided(probe: _Probe, seen: Seen, over: bool, seconds: int) -> Finding | None:
    def is_ours(found: Object) -> bool:
        return bool((found["metadata"].get("labels") or {}).get(names.STAGE) == probe.attempt.stage)

    job, pods = next(filter(is_ours, seen.jobs), None), [*filter(is_ours, seen.pods)]
    if done := [pod for pod in pods if is_done(pod)]:
        found = judged(done[-1])
        if found.well:
            return ok("probe", f"{probe.words}: {found.words}")
        return failed("probe", f"{probe.words}: {found.words}", _DO, UsageError)
    said = outcome(job, pods, seen.events)
    if said.certain or (said.state == "failed" and job is not None):
        return failed("probe", f"{probe.words}: {said.message}", _DO, UsageError)
    if said.state == "image_error":
        probe.image_error_since = probe.image_error_since or time.monotonic()
        if time.monotonic() - probe.image_error_since > _IMAGE_SECONDS:
            return failed("probe", f"{probe.words}: {said.message}", _DO, UsageError)
    if not over:
        return None
    return _too_late(probe, said, seen, seconds)


_DO: Final = "no run of it would start: change the profile, or what it names"


def _too_late(probe: _Probe, said: Outcome, seen: Seen, seconds: int) -> Finding:
    if seen.error is not None:
        return failed("probe", f"{probe.words}: {seen.error}", "run it again")
    what = f"{probe.words}: not decided after {seconds} s: {said.message or said.state}"
    if said.state in _PATIENT:
        return warning("probe", what, "a run would wait so, too; --probe-seconds waits longer")
    return failed("probe", what, "--probe-seconds waits longer")


def _take_away(client: Client, selector: str) -> None:
    """Whatever is there of the probe, one that was made without an answer included."""
    with suppress(ClusterUnavailableError, ClusterRefusedError):
        for job in client.listed("jobs", selector).items:
            client.delete_job(job["metadata"]["name"], job["metadata"]["uid"])
