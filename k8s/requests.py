"""What a pod asks for, counted as Kubernetes counts it. Pure.

1. Containers and sidecars add up. A plain init container runs beside the sidecars before it alone: the most that any
   of them takes then counts where it is more. A runtime class's overhead comes on top.
2. A container that says only a limit asks for as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final, Literal

from k8s.quantity import amount

__all__ = [
    "Amounts",
    "amounts",
    "containers_of",
    "listed",
    "pod_amounts",
    "shown",
    "with_runtime_class",
]

Object = Mapping[str, Any]
Amounts = dict[str, Fraction]
#: What a container asks for, or may not exceed.
Kind = Literal["requests", "limits"]

_BYTES: Final = ("memory", "ephemeral-storage", "storage", "hugepages-")
_UNITS: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def amounts(quantities: Object | None) -> Amounts:
    """Resource names with what they are of; what is no quantity counts as nothing."""
    return {name: _number(value) for name, value in (quantities or {}).items()}


def _number(value: object) -> Fraction:
    try:
        return amount(str(value))
    except ValueError:
        return Fraction(0)


def containers_of(spec: Object) -> Iterator[Object]:
    """Init containers, sidecars among them, then the others."""
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def container_amounts(container: Object, kind: Kind) -> Amounts:
    """Of one container."""
    said = container.get("resources") or {}
    limits = amounts(said.get("limits"))
    return {**limits, **amounts(said.get("requests"))} if kind == "requests" else limits


def pod_amounts(spec: Object, kind: Kind = "requests") -> Amounts:
    """Of a whole pod; what is not in it is nothing."""
    total: Amounts = {}
    for one in spec.get("containers") or ():
        total = _sum(total, container_amounts(one, kind))
    beside: Amounts = {}
    most: Amounts = {}
    for one in spec.get("initContainers") or ():
        own = _sum(beside, container_amounts(one, kind))
        if one.get("restartPolicy") == "Always":
            total = _sum(total, container_amounts(one, kind))
            beside = own
        most = _most(most, own)
    return _sum(_most(total, most), amounts(spec.get("overhead")))


def with_runtime_class(spec: Object, found: Object | None) -> dict[str, Any]:
    """``spec`` with the overhead, node selector and tolerations that its RuntimeClass brings."""
    if found is None:
        return dict(spec)
    scheduling, overhead = found.get("scheduling") or {}, found.get("overhead") or {}
    return {
        **spec,
        "overhead": overhead.get("podFixed") or {},
        "nodeSelector": {**(spec.get("nodeSelector") or {}), **(scheduling.get("nodeSelector") or {})},
        "tolerations": [*(spec.get("tolerations") or ()), *(scheduling.get("tolerations") or ())],
    }  # fmt: skip


def _sum(one: Amounts, other: Amounts) -> Amounts:
    return {name: one.get(name, Fraction()) + other.get(name, Fraction()) for name in one | other}


def _most(one: Amounts, other: Amounts) -> Amounts:
    return {
        name: max(one.get(name, Fraction()), other.get(name, Fraction())) for name in one | other
    }


# --- for a person ---


def shown(resource: str, number: Fraction) -> str:
    """``64Gi``, ``500m``, ``4``: an amount of ``resource``, rounded down where it is not short otherwise."""
    if not resource.rpartition(".")[2].startswith(_BYTES):
        return str(number) if number.denominator == 1 else f"{int(number * 1000)}m"
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    tenths = int(number * 10)
    return f"{tenths // 10}{f'.{tenths % 10}' if tenths % 10 else ''}{_UNITS[unit]}"


def listed(found: Amounts, names: Sequence[str] | None = None) -> str:
    """``4 cpu, 16Gi memory and 1 nvidia.com/gpu``; only those of ``names``, where it is given."""
    parts = [
        f"{shown(n, found.get(n, Fraction()))} {n}" for n in (found if names is None else names)
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
