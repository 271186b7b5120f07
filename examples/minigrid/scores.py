"""The numbers a comparison needs: a Wilson interval, and an exact paired test."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final

from scipy.stats import binomtest  # type: ignore[import-untyped]

__all__ = ["paired_p_value", "wilson_interval"]

_Z_95: Final = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927). Raises ValueError without trials."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    p, z2 = successes / trials, _Z_95**2
    middle = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_p_value(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """McNemar's exact two-sided test: both played the same levels; 1.0 where they never differ."""
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
