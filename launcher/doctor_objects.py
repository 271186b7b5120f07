"""What a profile names in its namespace and cluster: is each of it there, and fit for it. See ``launcher.doctor``.

What we may not look at is said once a kind, as a warning: a run does without our looking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from k8s.errors import ClusterRefusedError
from k8s.inquiry import Inquiry
from k8s.needs import Needs
from k8s.permissions import LOOK
from launcher.errors import UsageError
from launcher.findings import Finding, failed, ok, warning

__all__ = ["may_look", "named", "unseen"]

Object = dict[str, Any]
#: What becomes of one thing by name: what is good about it, or a finding.
Judged = str | Finding

_ROLE: Final = "docs/policies/doctor-role.yaml grants it, to look only"
_PULL_TYPES: Final = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")


def may_look(inquiry: Inquiry, kind: str) -> Finding | None:
    """None where we may look at a kind; else what to say instead of the looking."""
    permission = next(one for one in LOOK if one.resource == kind)
    return None if inquiry.may(permission) else unseen(kind, permission.words)


def unseen(name: str, words: str) -> Finding:
    """A check that needs what we may not do."""
    return warning(_TITLES.get(name, name), f"not looked at: may not {words}", _ROLE)


#: What doctor calls each kind.
_TITLES: Final = {
    "configmaps": "config maps",
    "localqueues": "queue",
    "namespaces": "namespace",
    "nodes": "nodes",
    "persistentvolumeclaims": "claims",
    "priorityclasses": "priority",
    "resourcequotas": "quota",
    "limitranges": "limits",
    "runtimeclasses": "runtime",
    "secrets": "secrets",
    "serviceaccounts": "account",
}


def named(inquiry: Inquiry, needs: Needs, *, store_claim: str | None) -> Iterator[Finding]:
    """One line for each kind of which all is well, one for each thing that is not."""

    def there(kind: str, thing: str) -> Callable[[str], Judged]:
        def judge(name: str) -> Judged:
            if inquiry.found(kind, name) is not None:
                return name
            do = f"kubectl get {kind} shows what there is"
            return failed(_TITLES[kind], f"there is no {thing} {name}", do, UsageError)

        return judge

    def pull_secret(name: str) -> Judged:
        found = inquiry.found("secrets", name)
        if found is None:
            do = "kubectl create secret docker-registry makes one; without it private images are not pulled"
            return failed(
                "secrets", f"there is no Secret {name}, to pull images with", do, UsageError
            )
        if found.get("type") not in _PULL_TYPES:
            do = "kubectl create secret docker-registry makes one"
            what = f"the Secret {name}, to pull images with, is of type {found.get('type')}"
            return failed("secrets", what, do, UsageError)
        return name

    def secret(name: str) -> Judged:
        keys, wanted = inquiry.secret_keys(name), needs.secrets[name]
        if keys is None:
            do = "kubectl create secret generic makes one; no pod starts without it"
            return failed("secrets", f"there is no Secret {name}", do, UsageError)
        if lacking := sorted(wanted - keys):
            what = f"the Secret {name} has no key {', '.join(lacking)}"
            there_are = f"it has {', '.join(sorted(keys))}" if keys else "it is empty"
            return failed("secrets", what, there_are, UsageError)
        return f"{name} ({', '.join(sorted(wanted))})" if wanted else name

    def claim(name: str) -> Judged:
        found = inquiry.found("persistentvolumeclaims", name)
        if found is None:
            what = f"there is no PersistentVolumeClaim {name}"
            return failed("claims", what, "kubectl get pvc shows what there is", UsageError)
        class_name = (found.get("spec") or {}).get("storageClassName")
        kind = _class(inquiry, class_name) if class_name else None
        return judged_claim(found, kind, written=name in needs.written, store=name == store_claim)

    yield from _kind(
        inquiry,
        "serviceaccounts",
        needs.service_accounts,
        there("serviceaccounts", "ServiceAccount"),
    )
    yield from _kind(
        inquiry,
        "priorityclasses",
        needs.priority_classes,
        there("priorityclasses", "PriorityClass"),
    )
    yield from _kind(
        inquiry, "runtimeclasses", needs.runtime_classes, there("runtimeclasses", "RuntimeClass")
    )
    yield from _kind(inquiry, "secrets", needs.secrets, secret, needs.pull_secrets, pull_secret)
    yield from _kind(inquiry, "configmaps", needs.config_maps, there("configmaps", "ConfigMap"))
    yield from _kind(inquiry, "persistentvolumeclaims", needs.claims, claim)
    yield from _queues(inquiry, needs.queues)


def _kind(
    inquiry: Inquiry,
    kind: str,
    names: Iterable[str],
    judge: Callable[[str], Judged],
    more: Iterable[str] = (),
    judge_more: Callable[[str], Judged] | None = None,
) -> Iterator[Finding]:
    asked = [(one, judge) for one in sorted(names)]
    asked += [(one, judge_more or judge) for one in sorted(more)]
    if not asked:
        return
    if said := may_look(inquiry, kind):
        yield said
        return
    good: list[str] = []
    for name, how in asked:
        try:
            found = how(name)
        except ClusterRefusedError as exc:
            if exc.status != 403:
                raise
            yield unseen(kind, f"get {kind} {name}")
            continue
        if isinstance(found, Finding):
            yield found
        else:
            good.append(found)
    if good:
        yield ok(_TITLES[kind], ", ".join(good))


# --- claims ---


def _class(inquiry: Inquiry, name: str) -> Object | None:
    try:
        return inquiry.found("storageclasses", name)
    except ClusterRefusedError:
        return None


def judged_claim(found: Object, kind: Object | None, *, written: bool, store: bool) -> Judged:
    """A PersistentVolumeClaim; ``kind`` is its StorageClass, where that is known."""
    name, status = found["metadata"]["name"], found.get("status") or {}
    modes = status.get("accessModes") or (found.get("spec") or {}).get("accessModes") or []
    phase = status.get("phase")
    if phase == "Lost":
        return failed("claims", f"{name} has lost its volume", "kubectl describe pvc", UsageError)
    if found["metadata"].get("deletionTimestamp"):
        return failed("claims", f"{name} is being deleted", "wait, and make it again", UsageError)
    waits = (kind or {}).get("volumeBindingMode") == "WaitForFirstConsumer"
    if phase != "Bound" and not waits:
        do = f"kubectl describe pvc {name} says why; pods wait for it"
        if kind is None:
            return warning("claims", f"{name} is {phase}: no volume is bound to it yet", do)
        return failed("claims", f"{name} is {phase}: no volume is bound to it", do)
    if written and set(modes) == {"ReadOnlyMany"}:
        do = "say read_only: true of the volume, or take another claim"
        return failed(
            "claims", f"{name} is ReadOnlyMany, and it is mounted to be written", do, UsageError
        )
    if store and "ReadWriteMany" not in modes:
        what = (
            f"{name}, the store, is {', '.join(modes)}: pods of one node alone reach it at a time"
        )
        return warning("claims", what, "take a ReadWriteMany claim, or pin all stages to one node")
    return f"{name} ({'bound' if phase == 'Bound' else 'bound when a pod first wants it'})"


# --- queues ---


def _queues(inquiry: Inquiry, names: Iterable[str]) -> Iterator[Finding]:
    names = sorted(names)
    if not names:
        return
    if not inquiry.has_kueue():
        what = f"the cluster has no Kueue: a Job of the queue {', '.join(names)} stays suspended for ever"
        yield failed("queue", what, "install Kueue, or leave queue out of the profile", UsageError)
        return
    if said := may_look(inquiry, "localqueues"):
        yield said
        return
    for name in names:
        found = inquiry.local_queue(name)
        if found is None:
            what = f"there is no LocalQueue {name} in {inquiry.namespace}"
            yield failed("queue", what, "kubectl get localqueues shows what there is", UsageError)
            continue
        yield judged_queue(name, found)


def judged_queue(name: str, found: Object) -> Finding:
    """A LocalQueue that is there."""
    said = {one["type"]: one for one in (found.get("status") or {}).get("conditions") or ()}
    active, policy = said.get("Active"), (found.get("spec") or {}).get("stopPolicy")
    if policy and policy != "None":
        return warning("queue", f"{name} is stopped ({policy})", "its Jobs wait until it goes on")
    if active and active["status"] != "True":
        why = active.get("message") or active.get("reason")
        return warning("queue", f"{name} takes nothing now: {why}", "its Jobs wait until it does")
    return ok("queue", f"{name}, of {(found.get('spec') or {}).get('clusterQueue')}")
