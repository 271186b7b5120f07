"""What ``submit`` and ``resume`` show while a run goes on. On a terminal a living line; else one fact a line.

1. A line for the run, one for each stage when it ends, and as the very last line, on success and failure
   alike, ``stage=… cause=… exit_code=…``. What a stage waits for is on the living line; elsewhere it is a line
   of its own, once for each thing that lasts for longer than a moment.
2. A screen that goes away (a closed pipe, a full disk behind ``>``) ends nothing: the run goes on without it.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from launcher.agent.protocol import AttemptPaths
from launcher.agent.transfer import transfer_of
from launcher.cli.common import duration
from launcher.cli.kept import kept_lines
from launcher.cli.logfile import last_lines
from launcher.cli.stages import remaining, stage_line, stage_seconds
from launcher.cli.terminal import echo, facts, is_terminal, mark, one_line, paint
from launcher.cli.view import View
from launcher.cli.waits import waits_line
from launcher.executors.port import Running
from launcher.runner import RunOutcome
from launcher.workspace import Workspace
from ledger.decider import RunState, StageState
from ledger.events import RunCancelled, RunFailed
from ledger.projections.promotion import rollback_command
from ledger.projections.storage_alert import human_bytes
from ledger.run_state import SETTLED_WELL

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["Screen", "say_end"]

_LOG_LINES = 10
#: A pod passes through several states in its first second; only what lasts is worth a line.
_LASTS_SECONDS = 2.0


class Screen:
    """The progress of one run; a context manager that leaves the terminal as it was."""

    def __init__(self, ws: Workspace) -> None:
        self.ws, self.view = ws, View(ws)
        self._live: Live | None = None
        self._usual: dict[str, tuple[float, int] | None] = {}
        #: What the stage waits for, since when this screen knows it (monotonic), and whether it was said.
        self._waits = ("", 0.0, False)

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
        """The first line: which run, from which teacher and code; then the stages that ended before."""
        echo("  ".join(self._opening(state)))
        if state.status == "open" and is_terminal():
            echo(paint(self._leaving(state), dim=True))
        for stage in state.stages.values():
            if stage.status in SETTLED_WELL:
                echo(stage_line(self.ws.store, state, stage))

    def _leaving(self, state: RunState) -> str:
        """What Ctrl-C does."""
        back = self.view.back_to(state)
        if not self.view.has_jobs(state):
            return f"Ctrl-C stops the stage; closing the terminal does not: {back}"
        stop = f"launcher cancel {self.view.name(state.run_id)}"
        if self.view.driver_job(state) is not None:
            return f"Ctrl-C leaves it to its driver; to stop it: {stop}"
        return f"Ctrl-C leaves: the stage goes on in its Job, what follows waits for {back}; to stop it: {stop}"

    def _opening(self, state: RunState) -> list[str]:
        request = state.request
        name = self.view.name(state.run_id) if is_terminal() else state.run_id
        parts = [f"run {paint(name, bold=True)}"]
        if request is None:
            return parts
        if request.teacher_checkpoint:
            number = self.view.teacher_generation(state)
            at = f" g{number}" if number else ""
            parts.append(f"teacher {request.teacher_checkpoint.ref}{at}")
        commit, dirty = request.provenance.source_commit, request.provenance.dirty
        if commit:
            parts.append(f"code {commit[:7]}" + (f" +{dirty} dirty" if dirty else ""))
        return parts

    # --- what the runner tells ---

    def stage_began(self, state: RunState, stage: StageState, log: Path) -> None:
        if not is_terminal():
            again = f"  attempt {stage.attempt}" if stage.attempt > 1 else ""
            echo(f"{stage.plan.name}  started{again}")

    def stage_waits(self, state: RunState, stage: StageState, log: Path, seen: Running) -> None:
        if not is_terminal():
            self._say_once(stage, seen)
            return
        try:
            self._draw(self._living(state, stage, log, seen))
        except OSError:
            self._live = None

    def stage_ended(self, state: RunState, stage: StageState, log: Path) -> None:
        self._clear()
        echo(stage_line(self.ws.store, state, stage))
        if stage.status == "failed":
            for line in last_lines(log, _LOG_LINES):
                echo(paint(f"  | {line}", dim=True))

    def note(self, text: str) -> None:
        self._clear()
        echo(text, err=True)

    def _say_once(self, stage: StageState, seen: Running) -> None:
        words, since, said = self._waits
        now = time.monotonic()
        if seen.waits_for != words:
            self._waits = (seen.waits_for, now, False)
        elif words and not said and now - since >= _LASTS_SECONDS:
            self._waits = (words, since, True)
            echo(f"{stage.plan.name}  {waits_line(words, seen.since)}")

    # --- the living line ---

    def _living(self, state: RunState, stage: StageState, log: Path, seen: Running) -> list[str]:
        spent = stage_seconds(stage) or 0.0
        again = f"  attempt {stage.attempt}" if stage.attempt > 1 else ""
        left = waits_line(seen.waits_for, seen.since) or self._left(state, stage, spent)
        left = self._storing(state, stage) or left
        first = f" {mark('running')} {stage.plan.name:<8} {duration(spent):>7}{again}  {left}"
        return [first, *(f"   {line}" for line in last_lines(log, 1))]

    def _storing(self, state: RunState, stage: StageState) -> str:
        """How far its outputs are on their way to the store; nothing while the command runs, or that is quick."""
        paths = AttemptPaths(self.ws.home, state.run_id, stage.plan.name, stage.attempt)
        now = transfer_of(paths)
        if now is None:
            return ""
        of = f"{human_bytes(now.done_bytes)} of {human_bytes(now.total_bytes)}"
        return f"storing {of}, {human_bytes(int(now.rate))}/s"

    def _left(self, state: RunState, stage: StageState, spent: float) -> str:
        name = stage.plan.name
        if name not in self._usual:
            self._usual[name] = self.view.usual_seconds(state, name)
        return remaining(self._usual[name], spent)

    def _draw(self, lines: list[str]) -> None:
        from rich.live import Live
        from rich.text import Text

        text = Text("\n", no_wrap=True, overflow="ellipsis").join(
            Text.from_ansi(line if at == 0 else paint(line, dim=True))
            for at, line in enumerate(lines)
        )
        if self._live is None:
            self._live = Live(text, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(text, refresh=True)

    def _clear(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


# --- the end ------------------------------------------------------------------------------------


def say_end(ws: Workspace, outcome: RunOutcome) -> None:
    """The last lines: what is live now, or what to type next; then stage, cause and exit code."""
    state, name = outcome.state, View(ws).name(outcome.state.run_id)
    ending = f"{name} {state.status}: {_verdict(outcome)}exit_code={outcome.exit_code}"
    if state.status == "succeeded":
        _say_promotion(outcome, name)
        if state.request:
            echo(f"folder  {ws.documents.run_dir(state.request)}")
    for line in kept_lines(ws.store, state, name):
        echo(line)
    if isinstance(state.end, RunFailed):
        for line in facts(
            "next", (f"launcher status {name}", f"launcher logs {name} {state.end.stage}")
        ):
            echo(line)
    if outcome.exit_code:
        echo(f"launcher: {ending}", err=True)
    else:
        echo(paint(ending, dim=True))


def _verdict(outcome: RunOutcome) -> str:
    """What went wrong, and a space; nothing where nothing did."""
    end = outcome.state.end
    if isinstance(end, RunFailed):
        return f"stage={end.stage} cause={end.cause} "
    if isinstance(end, RunCancelled):
        return f"stage={end.stage or '-'} cause=cancelled "
    if outcome.exit_code:
        moved = outcome.promotion
        return f"stage=promotion cause={(moved.cause if moved else None) or 'race'} "
    return ""


def _say_promotion(outcome: RunOutcome, name: str) -> None:
    moved, error = outcome.promotion, outcome.promotion_error
    if error is not None:
        echo(f"launcher: not promoted: {one_line(str(error))}", err=True)
    if moved is None:
        return
    if moved.outcome == "refused" or moved.generation is None:
        echo(f"launcher: not promoted: {one_line(moved.reason or moved.cause or '')}", err=True)
        return
    body = moved.generation
    echo(f"live    {body.name} g{body.generation} = {name}")
    undo = rollback_command(body.name, body.previous.generation)
    echo(f"undo    {undo}" if undo else f"next    launcher pointers {shlex.quote(body.name)}")
