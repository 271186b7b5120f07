"""The picture of a comparison: success rates with their intervals, and how soon levels are solved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from examples.minigrid.play import Episode
from examples.minigrid.stage import replace_bytes

__all__ = ["draw"]

_COLOURS: Final = ("#9aa1ad", "#6b7fa3", "#1f6f5c")
_INK: Final = "#2b2f36"
_MAX_STEPS: Final = 64
_STYLE: Final[Any] = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#c9ccd2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": "#e8eaee",
    "axes.axisbelow": True,
}


def draw(
    path: Path,
    played: Mapping[str, Sequence[Episode]],
    results: Mapping[str, Mapping[str, Any]],
    scorecard: Mapping[str, Any],
) -> None:
    """Write a PNG; the policies in the order given, at most three."""
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), width_ratios=(4, 5))
        _rates(left, results, scorecard["success_rate"])
        _solved_by(right, played)
        count = next(iter(results.values()))["episodes"]
        figure.suptitle(
            f"BabyAI-GoToLocal-v0, {count} held-out levels, planner off",
            x=0.012,
            ha="left",
            fontsize=13,
            fontweight="bold",
        )
        figure.tight_layout(rect=(0, 0, 1, 0.97), w_pad=3)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=130)
        plt.close(figure)
    replace_bytes(path, png.getvalue())


def _rates(axes: Axes, results: Mapping[str, Mapping[str, Any]], reference: float) -> None:
    rates = [r["success_rate"] for r in results.values()]
    below = [r["success_rate"] - r["success_rate_low"] for r in results.values()]
    above = [r["success_rate_high"] - r["success_rate"] for r in results.values()]
    places = range(len(rates))
    axes.bar(places, rates, color=_COLOURS, width=0.62)
    axes.errorbar(places, rates, [below, above], fmt="none", ecolor=_INK, capsize=4, lw=1.2)
    for x, r in zip(places, results.values(), strict=True):
        axes.text(x, 0.035, f"{r['success_rate']:.0%}", ha="center", color="white", weight="bold")
    axes.axhline(reference, color="#c0702a", ls="--", lw=1.2)
    axes.text(-0.42, reference + 0.02, "teacher with its planner", color="#c0702a", fontsize=9)
    axes.set_xticks(list(places), [name.replace(" ", "\n", 1) for name in results])
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.set_title("Levels solved (95 % interval)")


def _solved_by(axes: Axes, played: Mapping[str, Sequence[Episode]]) -> None:
    limits = range(_MAX_STEPS + 1)
    for (name, episodes), colour in zip(played.items(), _COLOURS, strict=True):
        shares = [sum(e.success and e.steps <= n for e in episodes) / len(episodes) for n in limits]
        axes.plot(limits, shares, color=colour, lw=2.4, label=name, drawstyle="steps-post")
    axes.set_xlim(0, _MAX_STEPS)
    axes.set_ylim(0, 1.1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks(range(0, _MAX_STEPS + 1, 16))
    axes.set_xlabel("steps")
    axes.tick_params(length=0)
    axes.grid()
    axes.legend(frameon=False, loc="center right", reverse=True)
    axes.set_title("Levels solved within so many steps")
