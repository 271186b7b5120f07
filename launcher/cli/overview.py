"""What ``launcher`` alone shows: what is live, what goes on, what failed last, what to type next."""

from __future__ import annotations

from itertools import islice
from typing import Final

import click

from launcher.cli.common import duration, workspace
from launcher.cli.live import live_lines, release_commands
from launcher.cli.next_steps import next_commands
from launcher.cli.slots import paused_lines, pipelines_of
from launcher.cli.stages import stage_seconds
from launcher.cli.status import state_line
from launcher.cli.terminal import fact, facts, one_line
from launcher.cli.view import View, waits_in_cluster
from launcher.cli.waits import looks, waits_line
from launcher.workspace import translated
from ledger.decider import RunState

__all__ = ["overview"]

#: So far back it looks for what failed or goes on.
_LOOKED_AT: Final = 20
#: So many runs are asked for in their clusters, for at most so long.
_ASKED_FOR: Final = 3
_ASK_SECONDS: Final = 3.0


def overview() -> None:
    """Print it."""
    view = View(workspace(None, writing=False))
    with translated():
        for line in _lines(view):
            click.echo(line)


def _lines(view: View) -> list[str]:
    if not view.run_ids:
        flags = "--config FILE --teacher-checkpoint REF --teacher-scorecard FILE"
        lines = [f"no run yet in {view.ws.ledger.where}"]
        return lines + facts("next", [f"launcher submit {flags}", "launcher --help"])
    recent = list(islice(view.newest(), _LOOKED_AT))
    newest = recent[0]
    going = [s for s in recent if s.status == "open"]
    failed = next((s for s in recent if s.status == "failed"), None)
    lines = live_lines(view, followers=True) or ["nothing is live yet"]
    for state in going:
        lines += fact("now", f"{state_line(view, state)}{_stage_now(state)}")
    asked = [s for s in going if waits_in_cluster(s)][:_ASKED_FOR]
    for found in looks(view.ws, asked, _ASK_SECONDS):
        if found and found.waits_for:
            lines += fact("waits", f"{found.stage}  {waits_line(found.waits_for, found.since)}")
    if newest.status not in ("open", "failed"):
        result = one_line(view.result(newest))
        lines += fact("last", "  ".join(filter(None, (state_line(view, newest), result))))
    if failed is not None:
        lines += fact("failed", state_line(view, failed))
    paused = paused_lines(pipelines_of(view))
    for line in paused:
        lines += fact("paused", line)
    return lines + _next(view, newest, failed, [line.partition(" ")[0] for line in paused])


def _stage_now(state: RunState) -> str:
    current = state.current()
    spent = stage_seconds(current) if current is not None else None
    return f"  {current.plan.name} {duration(spent)}" if current and spent is not None else ""


def _next(view: View, newest: RunState, failed: RunState | None, paused: list[str]) -> list[str]:
    commands = [*release_commands(view), *(f"launcher unpause {name}" for name in paused)]
    if newest.status == "open":
        commands = [*next_commands(view, newest), *commands]
    if failed is not None:
        commands.append(f"launcher status {view.name(failed.run_id)}")
    if not commands:
        commands.append(f"launcher status {view.name(newest.run_id)}")
    commands.append("launcher list")
    return facts("next", commands)
