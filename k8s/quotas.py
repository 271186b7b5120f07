"""What a namespace's ResourceQuotas and LimitRanges make of a pod, as their admission reckons it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from k8s.requests import (
    Amounts,
    amounts,
    container_amounts,
    containers_of,
    pod_amounts,
    shown,
)

__all__ = ["Short", "outside_limits", "over_quota", "with_limit_ranges"]

Object = Mapping[str, Any]

#: What a quota on it makes every container say, as the API server has it.
_MUST_SAY: Final = {
    "cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    "requests.cpu": ("requests", "cpu"),
    "requests.memory": ("requests", "memory"),
    "limits.cpu": ("limits", "cpu"),
    "limits.memory": ("limits", "memory"),
}
_PLAIN: Final = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True)
class Short:
    """What a quota does not allow. ``never``: however much others give back."""

    words: str
    never: bool


# --- quotas ---


def over_quota(spec: Object, quotas: Sequence[Object]) -> list[Short]:
    """What ``quotas`` have against one pod of ``spec`` and its Job, most final first."""
    found = [short for quota in quotas if _counts(quota, spec) for short in _over(quota, spec)]
    return sorted(found, key=lambda one: not one.never)


def _over(quota: Object, spec: Object) -> Iterator[Short]:
    name, status = quota["metadata"]["name"], quota.get("status") or {}
    hard = amounts(status.get("hard") or (quota.get("spec") or {}).get("hard"))
    used, taken = amounts(status.get("used")), _taken(spec)
    for resource, limit in hard.items():
        wanted = taken.get(resource, Fraction())
        if silent := list(_silent(resource, spec)):
            what = f"{'.'.join(_MUST_SAY[resource])}"
            words = f"the quota {name} wants {what} said of every container; {', '.join(silent)} says none"
            yield Short(words, never=True)
        elif wanted > limit:
            yield Short(
                f"asks for {shown(resource, wanted)} {resource}, and the quota {name} "
                f"allows {shown(resource, limit)}",
                never=True,
            )
        elif wanted and wanted + used.get(resource, Fraction()) > limit:
            free = max(limit - used.get(resource, Fraction()), Fraction())
            yield Short(
                f"asks for {shown(resource, wanted)} {resource}, and of the {shown(resource, limit)} "
                f"of the quota {name} {shown(resource, free)} is free now",
                never=False,
            )


def _taken(spec: Object) -> Amounts:
    """What one Job and its pod take, by the names that quotas have for it."""
    requests, limits = pod_amounts(spec), pod_amounts(spec, "limits")
    return {
        **{name: requests[name] for name in _PLAIN if name in requests},
        **{f"requests.{name}": number for name, number in requests.items()},
        **{f"limits.{name}": number for name, number in limits.items()},
        **{name: Fraction(1) for name in ("pods", "count/pods", "count/jobs.batch")},
    }


def _silent(resource: str, spec: Object) -> Iterator[str]:
    """The containers that do not say what a quota on ``resource`` makes them say."""
    kind, name = _MUST_SAY.get(resource, ("", ""))
    for one in containers_of(spec) if kind else ():
        if name not in container_amounts(one, "requests" if kind == "requests" else "limits"):
            yield str(one["name"])


def _counts(quota: Object, spec: Object) -> bool:
    """Whether a quota is about such pods, by its scopes."""
    said = quota.get("spec") or {}
    rules = [{"scopeName": one, "operator": "Exists"} for one in said.get("scopes") or ()]
    rules += (said.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_in_scope(rule, spec) for rule in rules)


def _in_scope(rule: Object, spec: Object) -> bool:
    says_something = any(container_amounts(one, "requests") for one in containers_of(spec))
    match rule["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return not says_something
        case "NotBestEffort":
            return says_something
        case "PriorityClass":
            return _of_class(rule, str(spec.get("priorityClassName") or ""))
        case _:
            return False


def _of_class(rule: Object, name: str) -> bool:
    values = rule.get("values") or ()
    match rule.get("operator"):
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "DoesNotExist":
            return not name
        case _:
            return bool(name)


# --- limit ranges ---


def with_limit_ranges(spec: Object, ranges: Sequence[Object]) -> dict[str, Any]:
    """``spec`` with what LimitRanges give to containers that do not say it themselves."""
    made: dict[str, Any] = deepcopy(dict(spec))
    for one in containers_of(made):
        own = dict(one.get("resources") or {})
        # As the API server does first: who says only a limit asks for as much.
        requests = {**(own.get("limits") or {}), **(own.get("requests") or {})}
        limits = dict(own.get("limits") or {})
        for item in _items(ranges, "Container"):
            requests = {**(item.get("defaultRequest") or {}), **requests}
            limits = {**(item.get("default") or {}), **limits}
        one["resources"] = {"requests": requests, "limits": limits}  # type: ignore[index]
    return made


def outside_limits(spec: Object, ranges: Sequence[Object]) -> list[str]:
    """What LimitRanges refuse about a pod of ``spec``, which has their defaults already; in words."""
    found: list[str] = []
    for item in _items(ranges, "Container"):
        for one in containers_of(spec):
            sides = container_amounts(one, "requests"), container_amounts(one, "limits")
            found += (f"its container {one['name']} {said}" for said in _outside(item, *sides))
    for item in _items(ranges, "Pod"):
        sides = pod_amounts(spec), pod_amounts(spec, "limits")
        found += _outside(item, *sides)
    return list(dict.fromkeys(found))


def _outside(item: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    where = f"the limit range {item['of']}"
    for name, least in amounts(item.get("min")).items():
        has = requests.get(name)
        if has is None:
            yield f"asks for no {name}, and {where} wants at least {shown(name, least)}"
        elif has < least:
            yield f"asks for {shown(name, has)} {name}, and {where} wants at least {shown(name, least)}"
    for name, most in amounts(item.get("max")).items():
        has = limits.get(name)
        if has is None:
            yield f"has no limit of {name}, and {where} wants one of at most {shown(name, most)}"
        elif max(has, requests.get(name, has)) > most:
            yield f"asks for {shown(name, has)} {name}, and {where} allows {shown(name, most)}"
    for name, ratio in amounts(item.get("maxLimitRequestRatio")).items():
        has, asked = limits.get(name), requests.get(name)
        if has and asked and has / asked > ratio:
            yield f"may take {float(has / asked):g} times the {name} it asks for, and {where} allows {ratio}"


def _items(ranges: Sequence[Object], kind: str) -> Iterator[Object]:
    for one in ranges:
        for item in (one.get("spec") or {}).get("limits") or ():
            if item["type"] == kind:
                yield {**item, "of": one["metadata"]["name"]}
