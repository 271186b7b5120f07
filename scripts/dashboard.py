"""Writes charts/distill-ledger/files/dashboard.json, Grafana's, from the panels below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["DASHBOARD", "document"]

DASHBOARD: Final = (
    Path(__file__).resolve().parents[1] / "charts" / "distill-ledger" / "files" / "dashboard.json"
)

_GREEN, _RED, _ORANGE, _YELLOW, _GREY, _BLUE = (
    "#56A64B",
    "#E02F44",
    "#FF780A",
    "#E0B400",
    "#8E8E8E",
    "#3274D9",
)
#: One colour for one outcome, wherever it is drawn; by the label that tells it, or the name of a line.
_COLORS: Final = {
    "{{status}}": {
        "succeeded": _GREEN,
        "failed": _RED,
        "cancelled": _GREY,
        "waiting": _YELLOW,
        "running": _BLUE,
    },
    "{{outcome}}": {"claimed": _GREEN, "missed": _RED, "overlap": _YELLOW, "paused": _ORANGE},
    "{{kind}}": {"promotion": _GREEN, "rollback": _ORANGE, "adoption": _BLUE, "fence": _GREY},
    "refused": {"refused": _RED},
    "quota": {"quota": _RED},
}
_M: Final = "distill_ledger_"
_DAY: Final = 86400
_THIRD: Final = 8
Query = tuple[str, str]


def _increase(metric: str, by: str) -> str:
    """How much a counter grew in the window; not in whole numbers, since Prometheus extrapolates."""
    return f"sum by ({by}) (increase({_M}{metric}{{}}[$window]))"


def _number(metric: str, by: str) -> Query:
    """How many in the window, by a label."""
    return f"round({_increase(metric, by)})", "{{" + by + "}}"


def _panels() -> list[dict[str, Any]]:
    """A row of figures, then what happened, what it took, and what it left."""
    window = "in the last $window"

    def since(metric: str, selector: str = "") -> str:
        return f"time() - {_M}{metric}_timestamp_seconds{{{selector}}}"

    def mean(metric: str) -> str:
        total, count = (_increase(f"{metric}_{part}", "stage") for part in ("sum", "count"))
        return f"{total} / ({count} > 0)"

    pipelines = 'pipeline!=""'
    in_store = 'class!~"run folders|backups"'
    success = since("pipeline_newest_success", pipelines)
    failures = f"{_M}pipeline_failures_in_a_row{{{pipelines}}}"
    refused = f"round(sum(increase({_M}promotion_refusals_total{{}}[$window])))"
    broke = f"round(sum(increase({_M}watch_restarts_total{{}}[$window])))"
    gpu_hours = f"{_increase('gpu_seconds_total', 'stage')} / 3600"
    figures = [
        _stat("Live for", 3, "s", since("pointer_live"), "{{pointer}}", (8 * _DAY, _ORANGE)),
        _stat("Generation", 3, "none", f"{_M}pointer_generation{{}}", "{{pointer}}"),
        _stat("Held", 2, "none", f"sum({_M}pointer_held{{}})", "pointers", (1, _ORANGE)),
        _stat("Last success", 3, "s", success, "{{pipeline}}", (1.5 * _DAY, _RED)),
        _stat("Failed in a row", 3, "none", failures, "{{pipeline}}", (1, _RED)),
        _stat("Paused", 2, "none", f"sum({_M}pipeline_paused{{}})", "pipelines", (1, _RED)),
        _stat("Audit findings", 3, "none", f"sum({_M}audit_findings{{}})", "all", (1, _RED)),
        _stat("Last audit", 2, "s", since("audit"), "ago", (8 * _DAY, _ORANGE)),
        _stat("Watches broken", 3, "none", broke, "all"),
    ]
    happened = [
        _graph(
            f"Runs that ended {window}",
            "none",
            _number("runs_total", "status"),
            stack=True,
        ),
        _graph(
            f"Slots settled {window}",
            "none",
            _number("slots_total", "outcome"),
            stack=True,
        ),
        _graph(
            f"Promotions {window}",
            "none",
            _number("promotions_total", "kind"),
            (refused, "refused"),
            stack=True,
        ),
    ]
    took = [
        _graph(f"What a stage took, mean {window}", "s", (mean("stage_run_seconds"), "{{stage}}")),
        _graph(
            f"What it waited before, mean {window}", "s", (mean("stage_wait_seconds"), "{{stage}}")
        ),
        _graph(
            "Stages now",
            "none",
            (f"sum by (status) ({_M}stage_attempts_open{{}})", "{{status}}"),
            stack=True,
        ),
    ]
    left = [
        _graph(f"GPU-hours {window}", "none", (gpu_hours, "{{stage}}"), stack=True),
        _graph(
            "Stored, against the quota",
            "bytes",
            (f"sum by (class) ({_M}stored_bytes{{{in_store}}}) > 0", "{{class}}"),
            (f"max({_M}quota_bytes{{}})", "quota"),
            stack=True,
        ),
        _graph(
            "Since the newest event, and since a stage waits",
            "s",
            (since("newest_event"), "newest event"),
            (since("stage_waiting_since"), "{{stage}} waits"),
        ),
    ]
    return _placed([(4, figures), (7, happened), (7, took), (7, left)])


def _placed(rows: list[tuple[int, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Each panel with its number and place; a row is 24 wide."""
    panels: list[dict[str, Any]] = []
    y = 0
    for height, row in rows:
        x = 0
        for panel in row:
            width = panel.pop("width")
            place = {"x": x, "y": y, "w": width, "h": height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **panel})
            x += width
        y += height
    return panels


def _stat(
    title: str,
    width: int,
    unit: str,
    expr: str,
    legend: str,
    bad: tuple[float, str] | None = None,
) -> dict[str, Any]:
    """A figure for each series; from ``bad`` on in another colour."""
    steps: list[dict[str, Any]] = [{"color": _GREEN, "value": None}]
    if bad:
        steps.append({"color": bad[1], "value": bad[0]})
    several = "{{" in legend
    return {
        **_panel("stat", title, width, [(expr, legend)], instant=True),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "decimals": 0 if unit == "none" else 1,
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value_and_name" if several else "value",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    }


def _graph(title: str, unit: str, *queries: Query, stack: bool = False) -> dict[str, Any]:
    """Lines over time; stacked where parts make a whole. A quota is a line above the rest."""
    overrides = [
        _override(name, {"color": {"mode": "fixed", "fixedColor": color}})
        for _, legend in queries
        for name, color in _COLORS.get(legend, {}).items()
    ]
    if any(legend == "quota" for _, legend in queries):
        dashed = {"fill": "dash", "dash": [8, 6]}
        alone = {"custom.stacking": {"mode": "none"}, "custom.fillOpacity": 0}
        overrides.append(_override("quota", {**alone, "custom.lineStyle": dashed}))
    return {
        **_panel("timeseries", title, _THIRD, queries),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "color": {"mode": "palette-classic"},
                "custom": {
                    "drawStyle": "line",
                    "lineWidth": 2,
                    "fillOpacity": 35 if stack else 0,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if stack else "none"},
                },
            },
            "overrides": overrides,
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _override(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _panel(
    kind: str, title: str, width: int, queries: Sequence[Query], *, instant: bool = False
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {
            "refId": "ABCDEFGH"[number],
            "datasource": source,
            "expr": expr,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
        }
        for number, (expr, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "width": width,
        "datasource": source,
        "targets": targets,
    }


def document() -> str:
    """The whole file."""
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "window",
            "label": "Window",
            "type": "interval",
            "query": "1h,6h,1d,7d,30d",
            "current": {"text": "1d", "value": "1d"},
        },
    ]
    dashboard = {
        "uid": "distill-ledger",
        "title": "distill-ledger",
        "description": "What launcher exporter says: docs/metrics.md. Written by scripts/dashboard.py.",
        "tags": ["distill-ledger"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": _panels(),
    }
    return json.dumps(dashboard, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(document())
