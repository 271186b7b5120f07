"""Whether a pod could ever run on one of these nodes, and what is missing where it is nearest. Pure.

It compares with what a node has for pods in all, not with what is free now: the scheduler says that of a run, and
waiting helps there. What passes by itself (a cordon, a node that is not ready) is told apart from what does not.
Pod affinity, spread and volumes' places are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from k8s.requests import Amounts, amounts, listed, pod_amounts, shown

__all__ = ["Fit", "fit"]

Object = Mapping[str, Any]

#: Taints that come and go with a node's state.
_PASSING: Final = {
    "node.kubernetes.io/unschedulable": "is cordoned",
    "node.kubernetes.io/not-ready": "is not ready",
    "node.kubernetes.io/unreachable": "does not answer",
    "node.kubernetes.io/memory-pressure": "is short of memory now",
    "node.kubernetes.io/disk-pressure": "is short of disk now",
    "node.kubernetes.io/pid-pressure": "is short of process ids now",
    "node.kubernetes.io/network-unavailable": "has no network yet",
    "node.cloudprovider.kubernetes.io/uninitialized": "is not set up yet",
}
#: Nodes that say so come as they are asked for: what none has now, one may have later.
_SCALERS: Final = ("karpenter.sh/", "cluster-autoscaler.kubernetes.io/")
#: How far off a miss is: a taint or a label is one line in the profile, a device that is not there is a machine.
_LABEL, _TAINT, _SHORT, _NONE = 1, 1, 2, 4


@dataclass(frozen=True, slots=True)
class Fit:
    """``nodes`` that could take the pod, by name; ``away``: those that could but for what passes, and why.

    ``miss``: why none ever can, in words; None where one can. ``scaled``: a machine that none is now may be made.
    """

    nodes: tuple[str, ...] = ()
    away: tuple[tuple[str, str], ...] = ()
    miss: str | None = None
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class _Miss:
    """One thing that a node lacks. ``resource``: the name, and what the node has of it."""

    weight: int
    words: str
    resource: tuple[str, Fraction] | None = None


def fit(spec: Object, nodes: Sequence[Object]) -> Fit:
    """Which of ``nodes``, as the API has them, could take a pod of ``spec``."""
    asked = {"pods": Fraction(1), **{k: v for k, v in pod_amounts(spec).items() if v}}
    fitting: list[str] = []
    away: list[tuple[str, str]] = []
    missing: list[tuple[Object, list[_Miss]]] = []
    for node in sorted(nodes, key=lambda one: str(one["metadata"]["name"])):
        name = str(node["metadata"]["name"])
        if misses := [*_labels(spec, node), *_taints(spec, node), *_resources(asked, node)]:
            missing.append((node, misses))
        elif passing := _passing(spec, node):
            away.append((name, passing))
        else:
            fitting.append(name)
    scaled = any(_is_scaled(node) for node in nodes)
    if fitting or away:
        return Fit(tuple(fitting), tuple(away), scaled=scaled)
    return Fit(miss=_nearest(asked, missing), scaled=scaled)


def _nearest(asked: Amounts, missing: Sequence[tuple[Object, list[_Miss]]]) -> str:
    if not missing:
        return "there are no nodes"

    def distance(one: tuple[Object, list[_Miss]]) -> tuple[int, Fraction]:
        short = [miss.resource for miss in one[1] if miss.resource]
        had = sum((has / asked[name] for name, has in short), Fraction())
        return sum(miss.weight for miss in one[1]), -had

    node, misses = min(missing, key=distance)
    name, short = node["metadata"]["name"], [miss.resource for miss in misses if miss.resource]
    parts = []
    if short:
        wanted = listed(asked, [resource for resource, _ in short])
        has = " and ".join(shown(resource, count) for resource, count in short)
        who = "the largest node" if len(misses) == 1 else f"the nearest node, {name},"
        parts = [f"asks for {wanted}; {who} has {has}"]
    if others := [miss.words for miss in misses if not miss.resource]:
        told = " and ".join(others)
        parts.append(told if parts else f"no node takes it; the nearest, {name}, {told}")
    return ", and ".join(parts)


# --- resources ---


def _resources(asked: Amounts, node: Object) -> Iterator[_Miss]:
    status = node.get("status") or {}
    has = amounts(status.get("allocatable") or status.get("capacity"))
    for name, wanted in asked.items():
        found = has.get(name, Fraction())
        if found < wanted:
            yield _Miss(_SHORT if found else _NONE, "", (name, found))


# --- labels ---


def _labels(spec: Object, node: Object) -> Iterator[_Miss]:
    labels = node["metadata"].get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            yield _Miss(_LABEL, _label_words(key, labels, f"{value}"))
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return
    # One term is enough; one without a rule matches no node.
    terms = [one for one in required.get("nodeSelectorTerms") or () if any(one.values())]
    misses = [list(_term(term, node)) for term in terms]
    if not misses:
        yield _Miss(_LABEL, "is asked for by an affinity without a term")
    else:
        yield from min(misses, key=len)


def _term(term: Object, node: Object) -> Iterator[_Miss]:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    for rules, values in (("matchExpressions", labels), ("matchFields", fields)):
        for rule in term.get(rules) or ():
            if not _holds(rule, values):
                operator, wanted = (
                    rule.get("operator"),
                    ", ".join(map(str, rule.get("values") or ())),
                )
                yield _Miss(
                    _LABEL, _label_words(rule["key"], values, f"{operator} {wanted}".strip())
                )


def _holds(rule: Object, labels: Object) -> bool:
    value, wanted = labels.get(rule["key"]), [str(one) for one in rule.get("values") or ()]
    match rule.get("operator"):
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                left, right = int(str(value)), int(wanted[0])
            except (ValueError, IndexError):
                return False
            return left > right if operator == "Gt" else left < right
        case _:
            return False


def _label_words(key: str, labels: Object, wanted: str) -> str:
    if key in labels:
        return f"has the label {key}={labels[key]}, not {wanted}"
    return f"has no label {key} ({wanted} is asked for)"


# --- taints ---


def _taints(spec: Object, node: Object) -> Iterator[_Miss]:
    for taint in _untolerated(spec, node):
        if taint["key"] not in _PASSING:
            value = f"={taint['value']}" if taint.get("value") else ""
            words = f"has the taint {taint['key']}{value}:{taint['effect']}, which is not tolerated"
            yield _Miss(_TAINT, words)


def _passing(spec: Object, node: Object) -> str | None:
    taints = [one for one in _untolerated(spec, node) if one["key"] in _PASSING]
    return next((_PASSING[one["key"]] for one in taints), None)


def _untolerated(spec: Object, node: Object) -> list[Object]:
    said = node.get("spec") or {}
    taints = [*(said.get("taints") or ())]
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if said.get("unschedulable") and all(one["key"] != cordon["key"] for one in taints):
        taints.append(cordon)
    tolerations = spec.get("tolerations") or ()
    return [
        taint
        for taint in taints
        if taint["effect"] != "PreferNoSchedule"
        and not any(_tolerates(one, taint) for one in tolerations)
    ]


def _tolerates(toleration: Object, taint: Object) -> bool:
    key, effect = toleration.get("key"), toleration.get("effect")
    if (effect and effect != taint["effect"]) or (key and key != taint["key"]):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def _is_scaled(node: Object) -> bool:
    about = node["metadata"]
    said = (*(about.get("labels") or ()), *(about.get("annotations") or ()))
    return any(one.startswith(_SCALERS) for one in said)
