"""list: what is live, and the newest runs with what became of them.

``--json`` prints one object: ``live`` (see ``launcher.cli.live``), ``runs`` (newest first: run_id, status,
attended, requested_at, ended_at, stages, metrics, metric_before, held, cost, result, note) and ``more``, whether
there are others that ``-n`` left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Final

import click

from launcher import clock
from launcher.cli.common import age, home_option, json_option, print_json, workspace
from launcher.cli.live import live_json, live_lines
from launcher.cli.spending import cost_json, gpu_hours, held_json, run_cost
from launcher.cli.terminal import is_terminal, mark, one_line, paint
from launcher.cli.view import METRIC, View
from launcher.errors import UsageError
from launcher.workspace import translated
from ledger.decider import RunState
from ledger.held import added, gpu_seconds, run_held
from ledger.run_state import SETTLED_WELL

__all__ = ["list_command"]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: Runs are in the order of their requests; a clock that was set back spoils their times by less than this.
_CLOCK_SLACK: Final = timedelta(days=1)
_STATE_COLOURS: Final = {
    "failed": "red",
    "running": "yellow",
    "waiting": "yellow",
    "left alone": "red",
}


@click.command(
    "list",
    help="The newest runs, and what became of them.",
    epilog="\b\nExamples:\n  launcher list --failed --since 7d\n  launcher list -n 100 --json",
)
@click.option("--failed", is_flag=True, help="Only failed ones.")
@click.option("--missed", is_flag=True, help="Instead: slots of pipelines that came to no run.")
@click.option(
    "--since", metavar="AGE|TIME", help="Only those requested since: 90m, 12h, 7d, 2026-06-11."
)
@click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@json_option
@home_option
def list_command(
    failed: bool, missed: bool, since: str | None, limit: int, as_json: bool, home: str | None
) -> int:
    if failed and missed:
        raise UsageError("--failed is about runs, --missed about slots that have none")
    moment = parse_since(since, clock.parse_time(clock.now())) if since else None
    view = View(workspace(home, writing=False))
    with translated():
        if missed:
            from launcher.cli.slots import list_missed

            return list_missed(view, moment, limit, as_json=as_json)
        found = list(islice(_chosen(view, failed=failed, since=moment), limit + 1))
        runs, more = found[:limit], len(found) > limit
        if as_json:
            rows = [_row(view, state) for state in runs]
            print_json({"live": live_json(view), "runs": rows, "more": more})
            return 0
        for line in live_lines(view):
            click.echo(line)
        if runs:
            _print_table(view, runs)
    if not runs:
        click.echo(_nothing(view, failed=failed, since=since))
    elif more:
        given = [*(["--failed"] if failed else []), *([f"--since {since}"] if since else [])]
        click.echo(paint(" ".join(["more: launcher list", *given, f"-n {limit * 5}"]), dim=True))
    return 0


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that ``7d`` (so long ago) or RFC 3339 text names. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    try:
        if found:
            return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        return clock.parse_time(text)
    except (ValueError, OverflowError) as exc:
        raise UsageError(
            f"--since {text!r} is no age and no time", "90m, 12h, 7d, 2w, 2026-06-11"
        ) from exc


def _chosen(view: View, *, failed: bool, since: datetime | None) -> Iterator[RunState]:
    def asked_at(state: RunState) -> datetime:
        return clock.parse_time(state.requested_at or "")

    runs = (s for s in view.newest() if s.requested_at is not None)
    if since is not None:
        oldest = since - _CLOCK_SLACK
        runs = (s for s in takewhile(lambda s: asked_at(s) >= oldest, runs) if asked_at(s) >= since)
    return (s for s in runs if not failed or s.status == "failed")


def _nothing(view: View, *, failed: bool, since: str | None) -> str:
    if not view.run_ids:
        return f"no run yet in {view.ws.ledger.where}: launcher submit starts one"
    return f"no {'failed ' if failed else ''}run{f' since {since}' if since else ''}"


def _row(view: View, state: RunState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "status": state.status,
        "attended": view.attended(state),
        "machine": view.elsewhere(state),
        "requested_at": state.requested_at,
        "ended_at": state.ended_at,
        "stages": {name: stage.status for name, stage in state.stages.items()},
        "metrics": dict(sorted(state.metrics.items())),
        "metric_before": view.metric_before(state),
        "held": held_json(run_held(state)),
        "cost": cost_json(run_cost(view.ws.settings.prices, state)),
        "result": view.result(state),
        "note": state.request.note if state.request else None,
    }


# --- the table ----------------------------------------------------------------------------------

_COLUMNS: Final[Sequence[tuple[str, Callable[[View, RunState], str]]]] = (
    ("RUN", lambda v, s: v.name(s.run_id) if is_terminal() else s.run_id),
    ("AGE", lambda v, s: age(s.requested_at)),
    ("STATE", lambda v, s: _status(v, s)),
    ("STAGES", lambda v, s: _stages(s)),
    ("METRIC", lambda v, s: _metric(v, s)),
    ("GPU-h", lambda v, s: _gpu_hours(s)),
    ("COST", lambda v, s: _cost(v, s)),
    ("RESULT", lambda v, s: one_line(v.result(s))),
)
#: Shown only where there is something to show.
_OPTIONAL: Final = frozenset({"GPU-h", "COST"})


def _print_table(view: View, runs: Sequence[RunState]) -> None:
    columns = [[name, *(cell(view, s) for s in runs)] for name, cell in _COLUMNS]
    shown = [c for c in columns if c[0] not in _OPTIONAL or any(c[1:])]
    table = [list(row) for row in zip(*shown, strict=True)]
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in shown]
    for number, row in enumerate(table):
        cells = [
            cell + " " * (width - len(click.unstyle(cell)))
            for cell, width in zip(row, widths, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        click.echo(paint(line, dim=True) if number == 0 else line)
    if len(runs) > 1:
        _print_sum(view, runs)


def _print_sum(view: View, runs: Sequence[RunState]) -> None:
    """Of the runs that are shown, where there is anything to sum."""
    held, prices = added(run_held(state) for state in runs), view.ws.settings.prices
    parts = [f"{gpu_hours(gpu_seconds(held))} GPU-h"] if gpu_seconds(held) else []
    cost = prices.cost(held) if prices else None
    if cost is not None and cost.amount:
        parts.append(str(cost))
    if parts:
        click.echo(paint("  ".join(["sum of these:", *parts]), dim=True))


def _gpu_hours(state: RunState) -> str:
    seconds = gpu_seconds(run_held(state))
    return gpu_hours(seconds) if seconds else ""


def _cost(view: View, state: RunState) -> str:
    """``4.12 EUR``; with a + where some of its GPUs have no price."""
    cost = run_cost(view.ws.settings.prices, state)
    if cost is None or not (cost.amount or cost.unpriced):
        return ""
    return f"{cost}{' +' if cost.unpriced else ''}"


def _status(view: View, state: RunState) -> str:
    shown: str = state.status
    if shown == "open":
        shown = view.going(state)
    return paint(shown, _STATE_COLOURS.get(shown))


def _stages(state: RunState) -> str:
    """A mark for each stage; where nothing is drawn how many of them are settled well."""
    stages = list(state.stages.values())
    if is_terminal():
        return "".join(mark(stage.status) for stage in stages)
    return f"{sum(s.status in SETTLED_WELL for s in stages)}/{len(stages)}"


def _metric(view: View, state: RunState) -> str:
    rate, before = state.metrics.get(METRIC), view.metric_before(state)
    if rate is None:
        return "-"
    if before is None:
        return f"{rate:.3f}"
    return f"{rate:.3f} {_difference(rate - before)}"


def _difference(change: float) -> str:
    """``+.004``, ``-.060``."""
    text = f"{change:+.3f}"
    return text.replace("0.", ".", 1) if abs(change) < 0.9995 else text
