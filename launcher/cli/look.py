"""status, list, logs, and what ``launcher`` alone shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from launcher import clock
from launcher.cli.common import (
    age,
    duration,
    home_option,
    json_option,
    print_json,
    seconds_between,
    short_id,
    workspace,
)
from launcher.cli.progress import last_lines, stage_line
from launcher.errors import UsageError
from launcher.pipeline import log_name
from launcher.refs import find_run
from launcher.workspace import Workspace, translated
from ledger.decider import RunState, StageState
from ledger.events import STAGES, Generation, RunFailed
from ledger.projections.metadata import metadata_document
from ledger.projections.runs import fold_runs

__all__ = ["list_command", "logs_command", "overview", "status_command"]

_SIGNS = {"succeeded": "✓", "reused": "✓", "failed": "✗", "skipped": "-", "pending": "·"}


def _live(ws: Workspace) -> list[tuple[Generation, bool]]:
    """(live generation, held) of every pointer."""
    found = []
    for name in ws.promoter.pointers.names():
        history = ws.promoter.history(name)
        if history.live is not None:
            held = history.held_by(ws.journal.pointer(name).released) is not None
            found.append((history.live, held))
    return found


def _live_lines(ws: Workspace) -> list[str]:
    lines = []
    for body, held in _live(ws):
        what = short_id(body.run_id) if body.run_id else body.kind
        rate = ws.journal.run(body.run_id).metrics.get("success_rate") if body.run_id else None
        shown = f"  success_rate {rate:.3f}" if rate is not None else ""
        by = f"  held by {body.actor} {age(body.time)} ago" if held else ""
        lines.append(f"LIVE {body.name} g{body.generation} = {what}{shown}{by}")
    return lines


def overview() -> None:
    """What is live, what failed last, what to type next."""
    ws = workspace(None, writing=False)
    with translated():
        runs = fold_runs(ws.ledger.read_all())
        lines = _live_lines(ws)
    if not runs:
        click.echo("no run yet in " + ws.ledger.where)
        click.echo(
            "next  launcher submit --config FILE --teacher-checkpoint REF --teacher-scorecard FILE"
        )
        click.echo("      launcher --help")
        return
    for line in lines or [
        "nothing is live yet: submit --promotion-target, or launcher promote RUN TARGET"
    ]:
        click.echo(line)
    newest = list(runs.values())[-1]
    click.echo(f"last run {_run_line(ws, newest)}")
    failed = next((s for s in reversed(list(runs.values())) if s.status == "failed"), None)
    if failed is not None and failed is not newest:
        click.echo(f"failed   {_run_line(ws, failed)}")
    for line in _next(newest):
        click.echo(line)


def _next(state: RunState) -> list[str]:
    short = short_id(state.run_id)
    if state.status == "open":
        return [
            f"next  launcher logs {short} -f",
            f"      launcher resume {short}   (if its launcher died)",
        ]
    if state.status == "failed":
        stage = getattr(state.end, "stage", "")
        return [f"next  launcher status {short}", f"      launcher logs {short} {stage}"]
    return [f"next  launcher status {short}", "      launcher list"]


def _run_line(ws: Workspace, state: RunState) -> str:
    result = _result(ws, state)
    return f"{short_id(state.run_id)}  {state.status}  {age(state.requested_at)} ago{'  ' + result if result else ''}"


def _result(ws: Workspace, state: RunState) -> str:
    if state.status == "failed":
        end = state.end
        return f"{getattr(end, 'stage', '')}: {getattr(end, 'cause', '')}"
    if state.status != "succeeded":
        return ""
    live = {b.run_id: b for b, _ in _live(ws)}
    if state.run_id in live:
        body = live[state.run_id]
        return f"live as {body.name} g{body.generation}"
    for name in ws.journal.pointer_names():
        account = ws.journal.pointer(name)
        for _, refusal in account.refusals:
            if refusal.run_id == state.run_id:
                return f"not promoted: {getattr(refusal, 'cause', 'aborted')}"
        mine = [g for g in account.generations.values() if g.run_id == state.run_id]
        if mine:
            history = ws.promoter.history(name)
            gone = any(g.origin in history.withdrawn() for g in mine)
            return f"g{mine[0].generation}, {'rolled back' if gone else 'superseded'}"
    return ""


@click.command("status", help="What is live, or with RUN everything about it.")
@click.argument("run", required=False)
@json_option
@home_option
def status_command(run: str | None, as_json: bool, home: str | None) -> int:
    ws = workspace(home, writing=False)
    with translated():
        if run is None:
            known = ws.journal.run_ids()
            if not known:
                raise UsageError(f"no run yet in {ws.ledger.where}", "launcher submit starts one")
            run = known[-1]
        state = ws.journal.run(find_run(ws.journal, run))
        if as_json:
            print_json(_status_json(ws, state))
        else:
            _print_status(ws, state)
    return 0


def _status_json(ws: Workspace, state: RunState) -> dict[str, Any]:
    document = metadata_document(state, ws.ledger.root_at(state.position + 1))
    assert state.request is not None
    return {
        **document,
        "run_dir": str(ws.documents.run_dir(state.request)),
        "note": state.request.note,
        "labels": state.request.labels,
        "provenance": state.request.provenance.model_dump(mode="json"),
        "result": _result(ws, state),
    }


def _print_status(ws: Workspace, state: RunState) -> None:
    request = state.request
    assert request is not None
    spent = seconds_between(state.requested_at, state.ended_at) or 0
    where = f" in {state.end.stage}: {state.end.cause}" if isinstance(state.end, RunFailed) else ""
    click.echo(
        f"{short_id(state.run_id)}  {state.status}{where}  {duration(spent)}  by {state.actor}"
    )
    for stage in state.stages.values():
        click.echo(stage_line(state, stage))
    if request.note:
        click.echo(f"note  {request.note}")
    if state.status == "failed":
        _print_failure(ws, state)
    elif state.student is not None:
        click.echo(f"student  {state.student.path}  {state.student.digest[:19]}…")
        if state.student.also_matched:
            click.echo(f"         also matched: {', '.join(state.student.also_matched)}")
    result = _result(ws, state)
    if result and state.status == "succeeded":
        click.echo(f"result   {result}")
    for line in _live_lines(ws):
        click.echo(line)
    for line in _next(state):
        if not line.endswith(f"status {short_id(state.run_id)}"):
            click.echo(line)


def _print_failure(ws: Workspace, state: RunState) -> None:
    failed = state.current()
    if failed is None or not failed.failures:
        return
    click.echo(f"why   {failed.failures[-1].message}")
    for line in last_lines(_log_path(ws, state, failed), 5):
        click.echo(f"log   {line}")


def _log_path(ws: Workspace, state: RunState, stage: StageState) -> Path:
    assert state.request is not None
    name = log_name(stage.plan.name, max(1, stage.attempt))
    return ws.documents.run_dir(state.request) / "logs" / name


@click.command("list", help="The newest runs, and what became of them.")
@click.option("--failed", is_flag=True, help="Only failed ones.")
@click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@json_option
@home_option
def list_command(failed: bool, limit: int, as_json: bool, home: str | None) -> int:
    ws = workspace(home, writing=False)
    with translated():
        runs = [
            s
            for s in fold_runs(ws.ledger.read_all()).values()
            if not failed or s.status == "failed"
        ]
        shown = list(reversed(runs))[:limit]
        rows = [_row(ws, state) for state in shown]
        lines = _live_lines(ws)
    if as_json:
        print_json(rows)
        return 0
    for line in lines:
        click.echo(line)
    if not rows:
        click.echo("no run yet" if not failed else "no failed run")
        return 0
    widths = (max(len(short_id(r["run_id"])) for r in rows), 4, 10, 8, 8)
    click.echo(_columns(("RUN", "AGE", "STATE", "STAGES", "METRIC", "RESULT"), widths))
    for row in rows:
        rate = row["metrics"].get("success_rate")
        cells = (
            short_id(row["run_id"]),
            age(row["started_at"]),
            row["status"],
            row["marks"],
            f"{rate:.3f}" if rate is not None else "-",
            row["result"],
        )
        click.echo(_columns(cells, widths))
    if len(runs) > limit:
        click.echo(f"more: launcher list -n {len(runs)}")
    return 0


def _row(ws: Workspace, state: RunState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "status": state.status,
        "started_at": state.requested_at,
        "completed_at": state.ended_at,
        "stages": {name: stage.status for name, stage in state.stages.items()},
        "marks": "".join(_SIGNS.get(s.status, "●") for s in state.stages.values()),
        "metrics": dict(state.metrics),
        "result": _result(ws, state),
    }


def _columns(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    fixed = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*fixed, cells[-1]]).rstrip()


@click.command("logs", help="A stage's log, raw (default the newest stage's).")
@click.argument("run")
@click.argument("stage", required=False, type=click.Choice(STAGES))
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the stage ends.")
@click.option("--attempt", type=click.IntRange(min=1), help="Default the newest.")
@home_option
def logs_command(
    run: str, stage: str | None, follow: bool, attempt: int | None, home: str | None
) -> int:
    ws = workspace(home, writing=False)
    with translated():
        run_id = find_run(ws.journal, run)
        chosen = _chosen(ws.journal.run(run_id), stage)
        if chosen is None:
            raise UsageError(f"no stage of {run_id} has begun", f"launcher status {run}")
        number = attempt or chosen.attempt
        state = ws.journal.run(run_id)
        assert state.request is not None
        log = ws.documents.run_dir(state.request) / "logs" / log_name(chosen.plan.name, number)
        if log.exists():
            _stream(ws, run_id, chosen.plan.name, number, log, follow=follow)
        elif chosen.log_digest and number == chosen.attempt:
            sys.stdout.buffer.write(ws.store.read_blob(chosen.log_digest, 1 << 40))
        else:
            raise UsageError(f"{log} is not there and the store has no copy")
    return 0


def _chosen(state: RunState, stage: str | None) -> StageState | None:
    begun = [s for s in state.stages.values() if s.attempt]
    if stage is not None:
        return next((s for s in begun if s.plan.name == stage), None)
    return begun[-1] if begun else None


def _stream(
    ws: Workspace, run_id: str, stage: Any, attempt: int, log: Path, *, follow: bool
) -> None:
    out = sys.stdout.buffer
    with log.open("rb") as file:
        while True:
            over = not follow or _is_over(ws, run_id, stage, attempt)
            while chunk := file.read(1024 * 1024):
                out.write(chunk)
            out.flush()
            if over:
                return
            clock.sleep(0.2)


def _is_over(ws: Workspace, run_id: str, stage: Any, attempt: int) -> bool:
    state = ws.journal.run(run_id).stages[stage]
    return state.attempt > attempt or state.status in ("succeeded", "failed")
