"""Draws the dashboard's panels from what a Prometheus answers, for docs: no Grafana is needed for a picture.

    python -m scripts.dashboard_picture http://127.0.0.1:9090 FROM TO WINDOW PICTURE.png

FROM and TO are Unix times, WINDOW is a duration of Prometheus (``5m``). Takes matplotlib (the extra ``demo``).
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scripts.dashboard import DASHBOARD

__all__ = ["Source", "draw"]

_PAGE, _CARD, _INK, _DIM, _GRID = "#F4F5F5", "#FFFFFF", "#24292E", "#6E7781", "#E4E7E7"
_PALETTE: Final = ("#3274D9", "#56A64B", "#E0B400", "#8F3BB8", "#FF780A", "#37872D", "#8E8E8E")
_STEPS: Final = 240
#: Pixels of a cell of the dashboard's grid of 24, and between two panels.
_CELL, _ROW, _GAP = 64, 42, 12
_DPI: Final = 100


@dataclass(frozen=True)
class Source:
    """A Prometheus, and the time that is looked at (Unix)."""

    url: str
    start: float
    end: float
    window: str

    def now(self, target: dict[str, Any]) -> list[tuple[str, float]]:
        """(name, value) of each series at the end."""
        found = self._ask("query", target, time=self.end)
        return [(_named(target, one["metric"]), float(one["value"][1])) for one in found]

    def over_time(self, target: dict[str, Any]) -> list[tuple[str, list[Any], list[float]]]:
        """(name, moments, values) of each series; a moment without a value is NaN."""
        step = (self.end - self.start) / _STEPS
        found = self._ask("query_range", target, start=self.start, end=self.end, step=step)
        moments = [self.start + step * i for i in range(_STEPS + 1)]
        series = []
        for one in found:
            said = {round((float(at) - self.start) / step): float(v) for at, v in one["values"]}
            values = [said.get(i, float("nan")) for i in range(_STEPS + 1)]
            series.append((_named(target, one["metric"]), moments, values))
        return series

    def _ask(self, what: str, target: dict[str, Any], **more: float) -> list[dict[str, Any]]:
        expr = target["expr"].replace("$window", self.window)
        query = urllib.parse.urlencode({"query": expr, **more})
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{query}", timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def _named(target: dict[str, Any], labels: dict[str, str]) -> str:
    name: str = target["legendFormat"]
    for label, value in labels.items():
        name = name.replace("{{" + label + "}}", value)
    return name


def draw(source: Source, picture: Path) -> None:
    """Every panel in its place."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * _ROW
    size = (24 * _CELL / _DPI, height / _DPI)
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK})
    figure = plt.figure(figsize=size, dpi=_DPI, facecolor=_PAGE)
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] * _CELL + _GAP / 2, at["y"] * _ROW + _GAP / 2
        width, tall = at["w"] * _CELL - _GAP, at["h"] * _ROW - _GAP
        box = (left / (24 * _CELL), 1 - (top + tall) / height, width / (24 * _CELL), tall / height)
        card = figure.add_axes(box, facecolor=_CARD)
        card.set(xticks=[], yticks=[], xlim=(0, width), ylim=(tall, 0))
        card.spines[:].set_color(_GRID)
        title = panel["title"].replace("$window", source.window)
        card.text(10, 18, title, fontsize=9, fontweight="bold", color=_INK, va="center")
        if panel["type"] == "stat":
            _stat(card, panel, source, width, tall)
        else:
            inner = (
                (left + 56) / (24 * _CELL), 1 - (top + tall - 58) / height,
                (width - 72) / (24 * _CELL), (tall - 94) / height,
            )  # fmt: skip
            _graph(figure.add_axes(inner, facecolor=_CARD), panel, source)
    figure.savefig(picture, dpi=_DPI, facecolor=_PAGE)
    plt.close(figure)


def _stat(card: Axes, panel: dict[str, Any], source: Source, width: float, tall: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    found = [one for target in panel["targets"] for one in source.now(target)]
    named = panel["options"]["textMode"] == "value_and_name"
    shown = _UNITS[defaults["unit"]]
    if not found:
        card.text(width / 2, tall * 0.6, "no data", color=_DIM, ha="center", va="center")
    for number, (name, value) in enumerate(found):
        x = width * (2 * number + 1) / (2 * len(found))
        steps = defaults["thresholds"]["steps"]
        color = [s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1]
        big = 17 if len(found) > 1 else 20
        y = tall * (0.53 if named else 0.6)
        card.text(x, y, shown(value), fontsize=big, color=color, ha="center", va="center")
        if named:
            card.text(x, tall * 0.83, name, fontsize=8.5, color=_DIM, ha="center", va="center")


def _graph(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    colors, alone = _overrides(panel)
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    series = [
        one
        for target in panel["targets"]
        for one in source.over_time(target)
        if not stacked or any(value > 0 for value in one[2])  # a line at 0 hides the one below
    ]
    palette = iter(_PALETTE * 4)
    below = [0.0] * (_STEPS + 1)
    for name, moments, values in sorted(series, key=lambda one: one[0] in alone):
        color = colors.get(name) or next(palette)
        times = [datetime.fromtimestamp(at) for at in moments]
        if name in alone or not stacked:
            style = (0, (6, 4)) if name in alone else "-"
            axes.plot(times, values, color=color, linewidth=1.6, linestyle=style, label=name)
            continue
        top = [
            low + (0.0 if value != value else value)
            for low, value in zip(below, values, strict=True)
        ]
        axes.fill_between(times, below, top, color=color, alpha=0.35, linewidth=0)
        axes.plot(times, top, color=color, linewidth=1.4, label=name)
        below = top
    _dress(axes, _UNITS[defaults["unit"]], source)


def _overrides(panel: dict[str, Any]) -> tuple[dict[str, str], set[str]]:
    """The colours that are fixed by name, and the lines that are not stacked."""
    colors: dict[str, str] = {}
    alone: set[str] = set()
    for override in panel["fieldConfig"]["overrides"]:
        name = override["matcher"]["options"]
        for one in override["properties"]:
            if one["id"] == "color":
                colors[name] = one["value"]["fixedColor"]
            elif one["id"] == "custom.stacking":
                alone.add(name)
    return colors, alone


def _dress(axes: Axes, shown: Callable[[float], str], source: Source) -> None:
    start, end = (datetime.fromtimestamp(at) for at in (source.start, source.end))
    axes.set_xlim(start, end)
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-6))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=_DIM, labelsize=8)
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.06, -0.14), ncols=4, frameon=False,
            fontsize=8, handlelength=1.2, columnspacing=1.2, labelspacing=0.25, labelcolor=_DIM,
        )  # fmt: skip
    else:
        axes.text(0.5, 0.5, "no data", color=_DIM, ha="center", transform=axes.transAxes)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


_UNITS: Final[dict[str, Callable[[float], str]]] = {
    "s": _duration,
    "bytes": _bytes,
    "none": lambda value: f"{value:.3g}",
}


def main() -> int:
    url, start, end, window, picture = sys.argv[1:]
    draw(Source(url, float(start), float(end), window), Path(picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
