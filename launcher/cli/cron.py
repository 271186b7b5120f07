"""cron, pause, unpause: the runs of a pipeline, one for each slot of its schedule.

It may be killed anywhere and called any number of times for a slot: look, decide (``launcher.cron.steps``), do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Final

import click

from launcher import clock
from launcher.cli.common import home_option, workspace
from launcher.cli.driving import driving
from launcher.cli.executing import client_in, on_pods
from launcher.cli.runs import config_of, drive, end_run, submit_command
from launcher.cli.terminal import one_line
from launcher.cron.schedule import Schedule, parse_slot, slot_text
from launcher.cron.steps import (
    Attach,
    Cancel,
    Finish,
    Leave,
    Overlap,
    Plan,
    Say,
    next_step,
    pause_due,
)
from launcher.errors import ConflictError, UsageError
from launcher.runner import NO_CODE, exit_code_of
from launcher.workspace import Workspace, translated
from ledger import events as e
from ledger.ids import check_pipeline_name
from ledger.slots import PipelineState, SlotFact

__all__ = ["cron_command", "pause_command", "slot_line", "unpause_command"]

#: What a slot's run is called, and where it is kept, is for ``cron`` to say.
_OWN: Final = ("--run-id", "--slot", "--home", "--store", "--dry-run", "-o")
#: After these a CronJob's pod is replaced, for its next one may do better; a run's own code says no such thing.
_REPLACED: Final = (5, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
_EXAMPLE: Final = """\b
Example, a line of a crontab:
  0 2 * * *  cd /srv/game && launcher cron nightly --schedule '0 2 * * *' -- \\
    --config configs/self_distill/mine.env --teacher-checkpoint pointer:student --promotion-target student

What follows the -- is what `launcher submit` takes."""


@click.command(
    "cron",
    help="Run a pipeline's slot: one run for each, whoever comes, however often.",
    epilog=_EXAMPLE,
)
@click.argument("pipeline")
@click.argument("submit_flags", nargs=-1, type=click.UNPROCESSED, metavar="-- FLAGS...")
@click.option(
    "--schedule", metavar="LINE", required=True, help="Five fields, or @daily: what names slots."
)
@click.option("--timezone", metavar="ZONE", default="UTC", show_default=True, help="Of LINE.")
@click.option(
    "--slot", metavar="TIME", help="The slot that it is for; by default the newest one of LINE."
)
@click.option(
    "--slot-of-job",
    metavar="NAME",
    help="In a pod of a CronJob: the slot for which its Job, NAME, was made.",
)
@click.option(
    "--overlap",
    type=click.Choice(["forbid", "queue", "replace"]),
    default="forbid",
    show_default=True,
    help="While the run before is open: pass the slot over, wait, or cancel that run.",
)
@click.option(
    "--pause-after",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="N",
    help="Pause the pipeline after N failures in a row; 0: never.",
)
@home_option
def cron_command(
    pipeline: str,
    submit_flags: tuple[str, ...],
    schedule: str,
    timezone: str,
    slot: str | None,
    slot_of_job: str | None,
    overlap: Overlap,
    pause_after: int,
    home: str | None,
) -> int:
    _refuse_own(submit_flags)
    if slot and slot_of_job:
        raise UsageError("--slot and --slot-of-job both say which slot", "one of them")
    plan = Plan(Schedule(schedule, timezone), overlap, pause_after)
    with translated():
        check_pipeline_name(pipeline)
        wanted = _wanted(plan.schedule, slot, slot_of_job)
        os.environ.setdefault("LAUNCHER_ACTOR", f"cron {pipeline}")
        comer = _Comer(workspace(home, writing=True), pipeline, plan, home)
        code = comer.come(wanted, submit_flags)
    return NO_CODE if slot_of_job and code in _REPLACED else code


def _wanted(schedule: Schedule, slot: str | None, job: str | None) -> str:
    """The slot that was asked for."""
    if job is not None:
        from launcher.cron.job_slot import slot_of_job

        return slot_of_job(client_in(), job, schedule)
    return slot_text(parse_slot(slot)) if slot else schedule.newest(clock.parse_time(clock.now()))


class _Comer:
    """Whoever comes for a slot."""

    def __init__(self, ws: Workspace, pipeline: str, plan: Plan, home: str | None) -> None:
        self.ws, self.pipeline, self.plan, self.home = ws, pipeline, plan, home

    def come(self, slot: str, submit_flags: Sequence[str]) -> int:
        """Until the slot is settled and its run, if it has one, at its end; returns the exit code."""
        while True:
            state = self.ws.journal.pipeline(self.pipeline)
            match next_step(state, slot, self.plan, self._status):
                case Say(facts=facts):
                    self._say(state, facts)
                case Finish(run_id=run_id):
                    click.echo(f"{slot} waits for {run_id}, which is still open")
                    self._finish(run_id)
                case Cancel(run_id=run_id):
                    self._cancel(run_id, slot)
                case Leave(fact=fact, earlier=earlier):
                    click.echo(slot_line(fact))
                    code = 3 if isinstance(fact, e.SlotPassedOver) and fact.cause == "paused" else 0
                    return self._finish(earlier) if earlier else code
                case Attach(run_id=run_id):
                    return self._run(run_id, slot, submit_flags)

    def _run(self, run_id: str, slot: str, submit_flags: Sequence[str]) -> int:
        try:
            if self._status(run_id) == "unknown":
                code = self._submit([*submit_flags, "--run-id", run_id, "--slot", slot])
            else:
                code = self._finish(run_id)
        except ConflictError:
            if self._status(run_id) == "unknown":
                raise
            code = self._finish(run_id)  # another one requested it a moment ago
        state = self.ws.journal.pipeline(self.pipeline)
        if pause := pause_due(state, self.plan, self._status):
            self._say(state, (pause,))
        return code

    def _submit(self, arguments: list[str]) -> int:
        own = ["--home", self.home] if self.home else []
        parent = click.get_current_context()
        with submit_command.make_context("submit", [*arguments, *own], parent=parent) as ctx:
            return int(submit_command.invoke(ctx))

    def _finish(self, run_id: str) -> int:
        """Drive a run to its end, or its promotion; whoever else does so does no harm."""
        state = self.ws.journal.run(run_id)
        if state.status != "open":
            promotion = state.request.promotion if state.request else None
            if state.status != "succeeded" or promotion is None:
                return exit_code_of(state)
        config = config_of(self.ws, state, {} if on_pods(state) else os.environ)
        with driving(self.ws, run_id):
            return drive(self.ws, config, run_id)

    def _cancel(self, run_id: str, slot: str) -> None:
        state = self.ws.journal.run(run_id)
        state = end_run(self.ws, state, f"replaced by the run of {slot}")
        click.echo(f"{run_id} is {state.status}: {slot} replaces it")

    def _status(self, run_id: str) -> str:
        return self.ws.journal.run(run_id).status

    def _say(self, state: PipelineState, facts: tuple[e.EventData, ...]) -> None:
        """Append what was decided on ``state``; nothing where others have gone on since: then look again."""

        def propose(newest: PipelineState) -> tuple[e.EventData, ...]:
            return facts if newest.version == state.version else ()

        after = self.ws.journal.record_pipeline(self.pipeline, propose)
        for fact in facts:
            if isinstance(fact, e.SlotMissed) and after.slots.get(fact.slot) == fact:
                click.echo(slot_line(fact))
            elif isinstance(fact, e.PipelinePaused) and after.paused == fact:
                click.echo(
                    f"{self.pipeline} is paused: {fact.reason}; when it is mended: launcher unpause {self.pipeline}",
                    err=True,
                )


def slot_line(fact: SlotFact) -> str:
    """What became of a slot, in a line."""
    match fact:
        case e.SlotClaimed():
            return f"{fact.slot}  {fact.run_id}"
        case e.SlotMissed():
            return f"{fact.slot}  missed: nobody came for it"
    return f"{fact.slot}  passed over: {one_line(fact.reason)}"


def _refuse_own(flags: Sequence[str]) -> None:
    for flag in flags:
        name = flag.partition("=")[0]
        if name in _OWN:
            raise UsageError(f"{name} does not go with cron's own", "launcher cron --help")


@click.command("pause", help="Let a pipeline start no runs until it is unpaused.")
@click.argument("pipeline")
@click.option("--reason", metavar="TEXT", required=True, help="Kept in the ledger, and shown.")
@home_option
def pause_command(pipeline: str, reason: str, home: str | None) -> int:
    with translated():
        ws = workspace(home, writing=True)
        before = ws.journal.pipeline(pipeline)
        if before.paused is not None:
            raise ConflictError(
                f"{pipeline} is paused already, since {before.paused_at}: {before.paused.reason}"
            )
        paused = e.PipelinePaused(reason=reason, follows=before.turn)
        ws.journal.record_pipeline(pipeline, lambda _: [paused])
    click.echo(f"{pipeline} is paused; to let it go on: launcher unpause {pipeline}")
    return 0


@click.command("unpause", help="Let a pipeline go on after a pause, its own or a person's.")
@click.argument("pipeline")
@click.option("--reason", metavar="TEXT", help="Kept in the ledger.")
@home_option
def unpause_command(pipeline: str, reason: str | None, home: str | None) -> int:
    with translated():
        ws = workspace(home, writing=True)
        before = ws.journal.pipeline(pipeline)
        if before.paused is None or before.turn is None:
            raise ConflictError(f"{pipeline} is not paused")
        ended = e.PipelineUnpaused(reason=reason, follows=before.turn)
        ws.journal.record_pipeline(pipeline, lambda _: [ended])
    click.echo(f"{pipeline} goes on with its next slot (it was paused: {before.paused.reason})")
    return 0
