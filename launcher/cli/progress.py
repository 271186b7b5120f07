"""What ``submit`` and ``resume`` show while a run goes on. On a terminal a living line; else one fact a line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from launcher.cli.common import duration, seconds_between, short_id
from launcher.runner import RunOutcome
from launcher.workspace import Workspace
from ledger.decider import RunState, StageState
from ledger.projections.promotion import rollback_command
from ledger.projections.storage_alert import human_bytes

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Screen", "last_lines", "say_end"]

_MARKS = {
    "succeeded": ("✓", "green"),
    "reused": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("-", "bright_black"),
    "running": ("●", "yellow"),
    "submitted": ("●", "yellow"),
    "intended": ("●", "yellow"),
    "pending": ("·", "bright_black"),
}


def mark(status: str) -> str:
    """A stage's mark on a terminal, its state in words elsewhere."""
    if not sys.stdout.isatty():
        return status
    sign, colour = _MARKS[status]
    return click.style(sign, fg=colour)


def last_lines(log: Path, count: int, limit_bytes: int = 64 * 1024) -> list[str]:
    """The last ``count`` lines of a log that may be gigabytes or not UTF-8; [] if it is absent."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    printable = ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
    return printable[-count:]


class Screen:
    """The progress of one run; a context manager that leaves the terminal as it was."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self._status: Status | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear()

    def opening(self, state: RunState) -> None:
        """The first line: which run, from which teacher and code."""
        request = state.request
        if request is None:
            return
        parts = [f"run {state.run_id}"]
        if request.teacher_checkpoint:
            parts.append(f"teacher {request.teacher_checkpoint.ref}")
        commit, dirty = request.provenance.source_commit, request.provenance.dirty
        if commit:
            parts.append(f"code {commit[:7]}" + (f" +{dirty} dirty" if dirty else ""))
        click.echo("  ".join(parts))

    def stage_began(self, state: RunState, stage: StageState, log: Path) -> None:
        if not sys.stdout.isatty():
            again = f" attempt {stage.attempt}" if stage.attempt > 1 else ""
            click.echo(f"{stage.plan.name} started{again}")

    def stage_waits(self, state: RunState, stage: StageState, log: Path) -> None:
        if not sys.stdout.isatty():
            return
        from rich.markup import escape
        from rich.status import Status

        spent = duration(seconds_between(stage.started_at, None) or 0)
        tail = (last_lines(log, 1) or [""])[0][:100]
        text = f"{stage.plan.name:<8} {spent:>7}  [dim]{escape(tail)}[/dim]"
        if self._status is None:
            self._status = Status(text)
            self._status.start()
        else:
            self._status.update(text)

    def stage_ended(self, state: RunState, stage: StageState, log: Path) -> None:
        self._clear()
        click.echo(stage_line(state, stage))
        if stage.status == "failed":
            for line in last_lines(log, 10):
                click.echo(f"  | {line}")

    def note(self, text: str) -> None:
        self._clear()
        click.echo(text, err=True)

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def stage_line(state: RunState, stage: StageState) -> str:
    """``✓ retrain  18m30s  student 1.9 MB`` and the like."""
    spent = seconds_between(stage.started_at, stage.completed_at)
    shown = duration(spent) if spent is not None and stage.attempt else ""
    return f" {mark(stage.status)} {stage.plan.name:<8} {shown:>7}  {_facts(state, stage)}".rstrip()


def _facts(state: RunState, stage: StageState) -> str:
    if stage.status == "failed":
        last = stage.failures[-1]
        return f"{last.cause}: {last.message}"
    if stage.status == "skipped":
        return stage.reason or ""
    facts = []
    if stage.status == "succeeded":
        if stage.plan.name == "retrain" and state.student:
            facts.append(f"student {human_bytes(state.student.size_bytes)}")
        if stage.plan.name == "relabel" and state.tags and state.tags.tag_file:
            facts.append(
                f"tags {state.tags.tag_file}" if state.tags.digest else "no tag file was written"
            )
        if stage.plan.name == "llm_off" and "success_rate" in state.metrics:
            facts.append(f"success_rate {state.metrics['success_rate']:.3f}")
    return "  ".join(facts)


def say_end(ws: Workspace, outcome: RunOutcome) -> None:
    """The last lines: what is live now, or stage, cause and exit code; and what to type next."""
    state, short = outcome.state, short_id(outcome.state.run_id)
    if state.status == "succeeded":
        _say_promotion(outcome)
        where = ws.documents.run_dir(state.request) if state.request else ""
        click.echo(f"{short} succeeded  {where}")
        return
    end = state.end
    stage = getattr(end, "stage", None) or "-"
    cause = getattr(end, "cause", "cancelled")
    if state.status == "failed":
        click.echo(f"log     launcher logs {short} {stage}", err=True)
    click.echo(
        f"launcher: {short} {state.status}: stage={stage} cause={cause} "
        f"exit_code={outcome.exit_code}",
        err=True,
    )


def _say_promotion(outcome: RunOutcome) -> None:
    if outcome.promotion_error is not None:
        click.echo(f"launcher: not promoted: {outcome.promotion_error}", err=True)
        return
    moved = outcome.promotion
    if moved is None:
        return
    if moved.outcome == "refused" or moved.generation is None:
        click.echo(f"launcher: not promoted: {moved.reason}", err=True)
        return
    body = moved.generation
    click.echo(f"live    {body.name} g{body.generation} = {short_id(outcome.state.run_id)}")
    undo = rollback_command(body.name, body.previous.generation)
    if undo:
        click.echo(f"undo    {undo}")
