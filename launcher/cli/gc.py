"""gc."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from launcher import clock
from launcher.audit.report import counted
from launcher.cli.common import (
    age,
    confirm,
    home_option,
    json_option,
    print_json,
    settings,
    short_id,
    workspace,
)
from launcher.errors import IntegrityError, UsageError
from launcher.retention.collect import Collected, check_clocks, collect
from launcher.retention.look import Look
from launcher.retention.plan import Plan, TrashDay, make_plan
from launcher.retention.reach import DAY_SECONDS, Policy
from launcher.workspace import Workspace, translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["gc_command"]

#: So many runs, and so many refusals, are shown on a screen; --json has all.
_SHOWN: Final = 10


@click.command(
    "gc",
    help="Move what nothing needs any more to the trash, and empty the trash that lay there long enough. "
    "Shows what it would do, unless --apply.",
)
@click.option("--apply", is_flag=True, help="Do it; asks first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--grace-days",
    type=click.FloatRange(0, 3600),
    help="How long an ended run and the trash are kept: LAUNCHER_GC_GRACE_DAYS, else 7.",
)
@click.option(
    "--keep-generations",
    type=click.IntRange(1),
    help="How many generations of each pointer stay ready for a rollback: LAUNCHER_GC_KEEP, else all.",
)
@click.option(
    "--run-dirs",
    is_flag=True,
    help="Instead: remove local run folders whose contents are all safe in the store.",
)
@json_option
@home_option
def gc_command(
    run_dirs: bool,
    apply: bool,
    yes: bool,
    grace_days: float | None,
    keep_generations: int | None,
    as_json: bool,
    home: str | None,
) -> int:
    """Exit 4 where something could not be read and everything was kept; 2 where the store refused to delete."""
    if run_dirs:
        if keep_generations is not None:
            raise UsageError(
                "--keep-generations is about the store, --run-dirs about local folders"
            )
        from launcher.cli.run_dirs import collect_run_dirs

        return collect_run_dirs(
            apply=apply, yes=yes, grace_days=grace_days, as_json=as_json, home=home
        )
    chosen = settings(home)
    days = chosen.gc_grace_days if grace_days is None else grace_days
    policy = Policy(days * DAY_SECONDS, keep_generations or chosen.gc_keep)
    ws = workspace(home, writing=apply)
    with translated():
        if apply:
            check_clocks(ws, _now())
        look = Look(ws, policy)
        plan = make_plan(ws, look, _now(), shares=True)
        if apply and not plan.seen.doubts and not plan.is_nothing:
            return _apply(ws, look, plan, yes=yes, as_json=as_json)
        # Where there is nothing to do, what a killed one had no time to say is said all the same.
        done = collect(ws, look, _now) if apply and not plan.seen.doubts else None
    if as_json:
        print_json(_as_json(ws, plan, done))
    else:
        _print(ws, plan)
        if not plan.seen.doubts and not plan.is_nothing:
            click.echo("dry run: nothing was moved or emptied; launcher gc --apply does it")
    if plan.seen.doubts:
        raise IntegrityError(
            f"everything is kept: {plan.seen.doubts[0]}",
            "launcher audit; what cannot be read may name anything",
        )
    return 0


def _now() -> float:
    return clock.parse_time(clock.now()).timestamp()


def _apply(ws: Workspace, look: Look, plan: Plan, *, yes: bool, as_json: bool) -> int:
    if not as_json:
        _print(ws, plan)
    elif not yes:
        raise UsageError("--json does not ask", "add --yes")
    emptying = sum(len(day.blobs) for day in plan.emptying)
    confirm(
        f"Move {counted(len(plan.moving), 'blob')} ({human_bytes(plan.moving_bytes)}) to the trash, "
        f"and delete {counted(emptying, 'blob')} that lay there long enough?",
        yes=yes,
    )
    done = collect(ws, look, _now)
    if as_json:
        print_json(_as_json(ws, plan, done))
    else:
        _print_done(done)
    for digest, why in list(done.refused.items())[:_SHOWN]:
        click.echo(f"warning: {digest} was not deleted: {why}", err=True)
    if done.refused:
        raise UsageError(
            f"{ws.store.where} refused to delete {counted(len(done.refused), 'blob')}; nothing is lost",
            "gc needs s3:DeleteObject on blobs/ and trash/; a lock ends by itself",
        )
    return 0


# --- a screen -----------------------------------------------------------------------------------------


def _print(ws: Workspace, plan: Plan) -> None:
    days = plan.policy.grace_seconds / DAY_SECONDS
    kept = plan.policy.keep_generations
    generations = "every generation" if kept is None else f"{counted(kept, 'generation')} of each"
    runs = plan.seen.facts.runs
    click.echo(f"store  {ws.store.where}")
    click.echo(
        f"keeps  {len(plan.seen.needed.runs)} of {counted(len(runs), 'run')} "
        f"(open, ended in the last {days:g} days, or behind a kept generation), {generations} "
        f"of {counted(len(plan.seen.facts.pointers), 'pointer')}"
    )
    for doubt in plan.seen.doubts:
        click.echo(f"doubt  {doubt}: it may name anything, so everything is kept")
    click.echo(f"{'':<19}  {'kept':>15}  {'to the trash':>15}")
    for name, (stays, goes) in plan.classes().items():
        if stays or goes:
            click.echo(f"{name:<19}  {stays:>15,}  {goes:>15,}")
    total = sum(blob.size_bytes for blob in plan.blobs)
    click.echo(f"{'together':<19}  {total - plan.moving_bytes:>15,}  {plan.moving_bytes:>15,}")
    for share in plan.shares[:_SHOWN]:
        click.echo(
            f"run {short_id(share.run_id)}: ended {age(share.ended_at)} ago, "
            f"{counted(share.objects, 'blob')}, {human_bytes(share.size_bytes)} to the trash"
        )
    if len(plan.shares) > _SHOWN:
        click.echo(f"… and {len(plan.shares) - _SHOWN} more runs: --json")
    for day in plan.trash:
        click.echo(f"trash of {day.date}: {_said_of(day)}")
    left = plan.leavings
    if len(left):
        click.echo(
            f"left by ended processes: {counted(len(left.uploads), 'unfinished upload')}, "
            f"{counted(len(left.temporaries), 'hidden file')}, {counted(len(left.locks), 'old lock')}"
        )
    for note in plan.notes:
        click.echo(f"note   {note}")
    if plan.is_nothing and not plan.seen.doubts:
        click.echo("nothing to do")


def _said_of(day: TrashDay) -> str:
    size = sum(blob.size_bytes for blob in day.blobs)
    said = f"{counted(len(day.blobs), 'blob')}, {human_bytes(size)}"
    if day.needed:
        said += f", {len(day.needed)} of them needed again"
    if day.is_due:
        return f"{said}; to be emptied now"
    if day.waits_for:
        return f"{said}; waits for the end of run {', '.join(day.waits_for[:3])}"
    return f"{said}; to be emptied from {_time(day.due)} on"


def _print_done(done: Collected) -> None:
    click.echo(
        f"moved {counted(len(done.moved), 'blob')} ({human_bytes(done.moved_bytes)}) to the trash, "
        f"{len(done.moved_back)} back; deleted {len(done.emptied)} ({human_bytes(done.emptied_bytes)}); "
        f"took {counted(done.leavings, 'leaving')} of ended processes"
    )


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- json ---------------------------------------------------------------------------------------------


def _as_json(ws: Workspace, plan: Plan, done: Collected | None) -> dict[str, Any]:
    return {
        "store": ws.store.where,
        "grace_days": plan.policy.grace_seconds / DAY_SECONDS,
        "keep_generations": plan.policy.keep_generations,
        "doubts": list(plan.seen.doubts),
        "kept_runs": [{"run_id": r, "why": why} for r, why in plan.seen.needed.runs.items()],
        "bytes_by_class": {
            name: {"kept": stays, "moving": goes} for name, (stays, goes) in plan.classes().items()
        },
        "moving": {
            "objects": len(plan.moving),
            "size_bytes": plan.moving_bytes,
            "digests": sorted(blob.digest for blob in plan.moving),
        },
        "runs": [
            {
                "run_id": s.run_id,
                "ended_at": s.ended_at,
                "objects": s.objects,
                "size_bytes": s.size_bytes,
            }
            for s in plan.shares
        ],
        "trash": [
            {
                "date": day.date,
                "objects": len(day.blobs),
                "size_bytes": sum(blob.size_bytes for blob in day.blobs),
                "needed_again": len(day.needed),
                "due": _time(day.due),
                "waits_for": list(day.waits_for),
                "emptying": day.is_due,
            }
            for day in plan.trash
        ],
        "left": {
            "uploads": len(plan.leavings.uploads),
            "temporaries": len(plan.leavings.temporaries),
            "locks": len(plan.leavings.locks),
        },
        "notes": list(plan.notes),
        "done": None
        if done is None
        else {
            "moved": len(done.moved),
            "moved_bytes": done.moved_bytes,
            "moved_back": len(done.moved_back),
            "emptied": len(done.emptied),
            "emptied_bytes": done.emptied_bytes,
            "refused": dict(done.refused),
            "leavings": done.leavings,
        },
    }
