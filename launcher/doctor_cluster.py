"""Is a cluster fit for a profile: reached, allowed, room for each stage, everything there that it names.

Rules, beside those of ``launcher.doctor``:

1. It asks and makes nothing; the API server is asked to admit what a run would make, and forgets it (``dryRun=All``).
2. What is looked at are the stages' own Jobs, made as a run makes them, with a command that does nothing.
3. What we may not look at is a warning: a run does without our looking. One trouble is said once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from k8s.containers import StageJob
from k8s.errors import ClusterRefusedError, ClusterUnavailableError, ProfileError
from k8s.fitting import Fit, fit
from k8s.inquiry import Inquiry
from k8s.manifest import job_manifest
from k8s.names import Attempt
from k8s.needs import together
from k8s.permissions import RUN, Permission
from k8s.profile_text import ReadProfile
from k8s.quotas import outside_limits, over_quota, with_limit_ranges
from k8s.requests import listed, pod_amounts, with_runtime_class
from launcher.doctor_objects import may_look, named, unseen
from launcher.errors import UsageError
from launcher.findings import Finding, failed, ok, warning
from ledger.events import StageName

__all__ = ["StageLook", "look", "stage_looks"]

Object = dict[str, Any]

_NATIVE_SIDECARS: Final = (1, 29)
_RUN_ID: Final = "doctor"
_NOTHING: Final = f"sha256:{'0' * 64}"
_LEVEL: Final = "pod-security.kubernetes.io/enforce"
_ROLE: Final = "docs/policies/launcher-role.yaml grants what a run takes"


@dataclass(frozen=True, slots=True)
class StageLook:
    """A stage, the Job that a run would make of it, and its pod with what the cluster adds as far as that is known."""

    stage: StageName
    attempt: Attempt
    job: Object
    spec: Object


def stage_looks(
    read: ReadProfile,
    stages: Sequence[StageName],
    *,
    project: str,
    store: str | None,
    run_id: str = _RUN_ID,
    task: str = _NOTHING,
) -> list[StageLook]:
    """The Jobs of ``stages``; a stage without an image is left out. Raises UsageError."""
    made = []
    for stage in stages:
        if read.stages[stage].image is None:
            continue
        attempt = Attempt(project, run_id, stage, 1, task)
        job = StageJob(attempt, "true", "/workspace/log", task, store)
        try:
            manifest = job_manifest(job, read, stage)
        except ProfileError as exc:
            raise UsageError(str(exc)) from exc
        made.append(StageLook(stage, attempt, manifest, manifest["spec"]["template"]["spec"]))
    return made


def look(
    inquiry: Inquiry, looks: Sequence[StageLook], *, store_claim: str | None, driver: str
) -> Iterator[Finding]:
    """Every finding about the cluster; few where it is not reached or has no such namespace.

    ``store_claim``: the claim that the store is on, if it is. ``driver``: the service account of ``submit --detach``.
    """
    try:
        yield from _look(inquiry, looks, store_claim, driver)
    except ClusterUnavailableError as exc:
        yield failed("cluster", str(exc), "run it again; kubectl cluster-info says more")
    except ClusterRefusedError as exc:
        do = "look at KUBECONFIG and its context: kubectl auth whoami"
        yield failed("cluster", str(exc), do, UsageError)


def _look(
    inquiry: Inquiry, looks: Sequence[StageLook], store_claim: str | None, driver: str
) -> Iterator[Finding]:
    number = inquiry.version()
    who = inquiry.who()
    yield ok("cluster", f"{inquiry.address}{f', as {who}' if who else ''}")
    yield version(number)
    needs = together(one.job for one in looks)
    there, about = _namespace(inquiry, needs.host_path)
    yield about
    yield from permissions(inquiry.may)
    if not there:
        return
    yield from _driver(inquiry, driver)
    things = list(named(inquiry, needs, store_claim=store_claim))
    yield from things
    ranges = _had(lambda: inquiry.every("limitranges"))
    looks = [_as_admitted(inquiry, one, ranges or []) for one in looks]
    room = [*_limits(inquiry, looks, ranges), *_quota(inquiry, looks)]
    yield from room
    yield from _nodes(inquiry, looks)
    # A pod is refused for what was said above, too, and that is not said twice.
    pods = all(one.state != "failed" for one in (about, *things)) and all(
        one.state == "ok" for one in room
    )
    yield from _admission(inquiry, looks, pods=pods)


# --- the cluster ---


def version(text: str) -> Finding:
    """``text`` as the API server says it."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    if found and (int(found[1]), int(found[2])) < _NATIVE_SIDECARS:
        what = f"Kubernetes {text} has no native sidecars"
        return failed("version", what, "Kubernetes 1.29 or newer is needed", UsageError)
    return ok("version", f"Kubernetes {text}")


def _namespace(inquiry: Inquiry, host_path: bool) -> tuple[bool, Finding]:
    """(whether it is there, as far as we know; what is said of it)."""
    try:
        found = inquiry.own_namespace()
    except ClusterRefusedError as exc:
        if exc.status != 403:
            raise
        return True, unseen("namespaces", f"get namespaces ({inquiry.namespace})")
    if found is None:
        do = f"kubectl create namespace {inquiry.namespace}, or another namespace in the profile"
        return False, failed("namespace", f"{inquiry.namespace} is not there", do, UsageError)
    if found["metadata"].get("deletionTimestamp"):
        what = f"{inquiry.namespace} is being deleted"
        return False, failed("namespace", what, "wait, and make it again", UsageError)
    return True, pod_security(found, host_path)


def pod_security(namespace: Object, host_path: bool) -> Finding:
    """By the level that the namespace enforces; our pods are restricted, but for a folder of the node."""
    name = namespace["metadata"]["name"]
    level = (namespace["metadata"].get("labels") or {}).get(_LEVEL, "privileged")
    if host_path and level != "privileged":
        what = f"{name} has pod security {level}, and the profile mounts a folder of the node"
        return failed(
            "namespace", what, "take a claim instead of host_path, or another namespace", UsageError
        )
    return ok("namespace", f"{name}, pod security {level}")


def permissions(may: Callable[[Permission], bool]) -> Iterator[Finding]:
    """What a run takes; one line for each that is missing."""
    missing = [one for one in RUN if not may(one)]
    for one in missing:
        yield failed("permissions", f"may not {one.words}: {one.why}", _ROLE, UsageError)
    if not missing:
        yield ok("permissions", f"all {len(RUN)} that a run takes")


def _driver(inquiry: Inquiry, account: str) -> Iterator[Finding]:
    """Whether a run may be left to a driver in the cluster; nothing else needs it."""
    if said := may_look(inquiry, "serviceaccounts"):
        yield replace(said, name="driver")
        return
    if inquiry.found("serviceaccounts", account) is None:
        what = f"no ServiceAccount {account}, which submit --detach alone needs: docs/policies/driver.yaml"
        yield ok("driver", what)
        return
    missing = [one for one in RUN if inquiry.may_account(account, one) is False]
    for one in missing:
        do = "docs/policies/driver.yaml binds it to what a run takes; only submit --detach needs it"
        yield warning("driver", f"{account} may not {one.words}: {one.why}", do)
    if not missing:
        yield ok("driver", f"{account}, for submit --detach")


# --- room ---


def _as_admitted(inquiry: Inquiry, given: StageLook, ranges: Sequence[Object]) -> StageLook:
    """Its pod with what a runtime class and limit ranges add, as far as we may look."""
    spec = given.spec
    if name := spec.get("runtimeClassName"):
        spec = with_runtime_class(spec, _had(lambda: inquiry.found("runtimeclasses", name)))
    return replace(given, spec=with_limit_ranges(spec, ranges))


def _had(asked: Callable[[], Any]) -> Any:
    try:
        return asked()
    except ClusterRefusedError:
        return None


def _limits(
    inquiry: Inquiry, looks: Sequence[StageLook], ranges: Sequence[Object] | None
) -> Iterator[Finding]:
    if ranges is None:
        yield unseen("limitranges", "list limitranges")
        return
    outside = [(one.stage, words) for one in looks for words in outside_limits(one.spec, ranges)]
    for words, stages in _by_words(outside).items():
        do = "change resources in the profile; kubectl describe limitrange"
        yield failed("limits", f"{stages}: {words}", do, UsageError)


def _quota(inquiry: Inquiry, looks: Sequence[StageLook]) -> Iterator[Finding]:
    if said := may_look(inquiry, "resourcequotas"):
        yield said
        return
    quotas = inquiry.every("resourcequotas")
    short = [(one.stage, found) for one in looks for found in over_quota(one.spec, quotas)]
    for found, stages in _by_words(short).items():
        if found.never:
            do = "no waiting helps: ask for less, or for a larger quota"
            yield failed("quota", f"{stages} {found.words}", do, UsageError)
        else:
            do = "its pod waits until others give some back: kubectl describe quota"
            yield warning("quota", f"{stages} {found.words}", do)
    if not short:
        yield ok("quota", f"{len(quotas)} in the namespace, with room" if quotas else "none")


def _by_words(found: Sequence[tuple[StageName, Any]]) -> dict[Any, str]:
    """What is said of several stages is said once, with their names."""
    stages: dict[Any, list[str]] = {}
    for stage, words in found:
        stages.setdefault(words, []).append(stage)
    return {words: ", ".join(names) for words, names in stages.items()}


def _nodes(inquiry: Inquiry, looks: Sequence[StageLook]) -> Iterator[Finding]:
    if said := may_look(inquiry, "nodes"):
        yield said
        return
    nodes = inquiry.every("nodes")
    for one in looks:
        yield place(one.stage, one.spec, fit(one.spec, nodes), len(nodes))


def place(stage: str, spec: Mapping[str, Any], found: Fit, nodes: int) -> Finding:
    """Where a stage's pod could go, of so many nodes."""
    asked = listed({name: number for name, number in pod_amounts(spec).items() if number})
    asked = f"asks for {asked}" if asked else "asks for nothing"
    if found.miss is not None:
        if found.scaled:
            return warning(stage, found.miss, "unless a node that is made for it is another one")
        do = "change the stage in the profile: no node of the cluster can ever take it"
        return failed(stage, found.miss, do, UsageError)
    if not found.nodes:
        name, why = found.away[0]
        return warning(
            stage, f"{asked}; only {name} could take it, and it {why}", "kubectl get nodes"
        )
    of = f"{len(found.nodes)} of {nodes} nodes" if nodes > 1 else f"the one node, {found.nodes[0]},"
    return ok(stage, f"{asked}; {of} could take it")


# --- admission ---


def _admission(inquiry: Inquiry, looks: Sequence[StageLook], *, pods: bool) -> Iterator[Finding]:
    """Whether the API server would take each Job, and its pod where we may ask that."""
    if not inquiry.may(RUN[0]):
        return
    pods = pods and inquiry.may(Permission("create", "pods"))
    refused: list[tuple[StageName, str]] = []
    for one in looks:
        said = inquiry.refused("jobs", one.job)
        if said is None and pods:
            said = inquiry.refused("pods", _pod(one))
        if said is not None:
            refused.append((one.stage, said))
    for words, stages in _by_words(refused).items():
        do = "a policy of the cluster or the namespace says so: change the profile, or the policy"
        yield failed("admission", f"{stages}: {words}", do, UsageError)
    if not refused and looks:
        kinds = "Jobs and pods" if pods else "Jobs"
        yield ok("admission", f"the API server would take the {kinds} (asked with dryRun=All)")


def _pod(of: StageLook) -> Object:
    template = of.job["spec"]["template"]
    about = {**template["metadata"], "name": of.job["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]}
