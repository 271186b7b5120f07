"""The slots of every pipeline that came to no run: ``list --missed``, and a line below ``list``.

``--json`` prints ``slots``, newest first (pipeline, slot, outcome, reason, run_id), ``paused`` and ``more``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from launcher.cli.common import age, print_json
from launcher.cli.terminal import one_line, paint
from launcher.cli.view import View
from launcher.cron.schedule import parse_slot
from ledger import events as e
from ledger.slots import PipelineState, SlotFact

__all__ = ["list_missed", "paused_lines", "pipelines_of"]


def pipelines_of(view: View) -> list[PipelineState]:
    """Every pipeline, oldest first."""
    return [view.ws.journal.pipeline(name) for name in view.ws.journal.pipeline_names()]


def paused_lines(pipelines: list[PipelineState]) -> list[str]:
    """For each pipeline that is paused: for how long, and why."""
    return [
        f"{one.name}  {age(one.paused_at)}  {one_line(one.paused.reason)}"
        for one in pipelines
        if one.paused is not None
    ]


def list_missed(view: View, since: datetime | None, limit: int, *, as_json: bool) -> int:
    """Print them."""
    pipelines = pipelines_of(view)
    rows = sorted(_rows(view, pipelines), key=lambda row: str(row["slot"]), reverse=True)
    if since is not None:
        rows = [row for row in rows if parse_slot(row["slot"]) >= since]
    shown, more = rows[:limit], len(rows) > limit
    if as_json:
        paused = [{"pipeline": p.name, **_pause(p)} for p in pipelines if p.paused]
        print_json({"slots": shown, "paused": paused, "more": more})
        return 0
    for line in paused_lines(pipelines):
        click.echo(f"paused  {line} (launcher unpause {line.partition(' ')[0]})")
    for row in shown:
        why = f"  {one_line(row['reason'])}" if row["reason"] else ""
        click.echo(
            f"{row['slot']}  {age(row['slot'])}  {row['pipeline']}  {row['outcome'].replace('_', ' ')}{why}"
        )
    if not rows:
        click.echo("no slot was missed" if pipelines else "no pipeline yet: launcher cron --help")
    elif more:
        click.echo(paint(f"more: launcher list --missed -n {limit * 5}", dim=True))
    return 0


def _rows(view: View, pipelines: list[PipelineState]) -> Iterator[dict[str, Any]]:
    for pipeline in pipelines:
        for fact in pipeline.slots.values():
            if outcome := _outcome(view, fact):
                yield {
                    "pipeline": pipeline.name,
                    "slot": fact.slot,
                    "outcome": outcome,
                    "reason": getattr(fact, "reason", None),
                    "run_id": getattr(fact, "run_id", None),
                }


def _outcome(view: View, fact: SlotFact) -> str | None:
    """None where the slot has a run."""
    match fact:
        case e.SlotMissed():
            return "missed"
        case e.SlotPassedOver():
            return "passed_over"
    return None if view.run(fact.run_id).request is not None else "never_began"


def _pause(pipeline: PipelineState) -> dict[str, Any]:
    assert pipeline.paused is not None
    return {
        "since": pipeline.paused_at,
        "reason": pipeline.paused.reason,
        "failed": list(pipeline.paused.failed),
    }
