"""promote, rollback, release, pointers, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher import clock
from launcher.cli.common import (
    age,
    confirm,
    home_option,
    json_option,
    print_json,
    project_root,
    short_id,
    workspace,
)
from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.project import pointer_name
from launcher.promotion import Moved
from launcher.refs import find_run, resolve_digest
from launcher.storage.pointer import PointerHistory
from launcher.usage import measure
from launcher.workspace import Workspace, translated
from ledger.events import Generation
from ledger.projections.promotion import rollback_command as undo_command
from ledger.projections.storage_alert import human_bytes

__all__ = [
    "pointers_command",
    "promote_command",
    "pull_command",
    "release_command",
    "rollback_command",
]


@click.command("promote", help="Make a run's student live, by hand.")
@click.argument("run")
@click.argument("target")
@click.option("--reason", metavar="TEXT", help="Kept with the generation.")
@click.option("--take-over", is_flag=True, help="Take a pointer that belongs to another project.")
@click.option("--deep", is_flag=True, help="Hash the checkpoint again before it goes live.")
@click.option(
    "--expect-generation",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if generation N is live now; else exit 3.",
)
@home_option
def promote_command(
    run: str,
    target: str,
    reason: str | None,
    take_over: bool,
    deep: bool,
    expect_generation: int | None,
    home: str | None,
) -> int:
    name = pointer_name(target, project_root())
    ws = workspace(home, writing=True)
    with translated():
        state = ws.journal.run(find_run(ws.journal, run))
        if state.status != "succeeded":
            raise UsageError(f"run {state.run_id} is {state.status}, not succeeded")
        moved = ws.promoter.promote(
            state,
            name,
            automatic=False,
            reason=reason,
            take_over=take_over,
            deep=deep,
            expect_generation=expect_generation,
        )
        if moved.outcome == "moved" and moved.generation is not None:
            measured = measure(ws, run_id=state.run_id)
            ws.journal.record_storage(measured, moved.generation.promotion_id)
        ws.documents.write(state.run_id)
    _say_moved(moved)
    return 0


def _say_moved(moved: Moved) -> None:
    body = moved.generation
    assert body is not None
    if moved.outcome == "unchanged":
        click.echo(f"{body.name} g{body.generation} has this checkpoint already: nothing to do")
        return
    click.echo(f"live    {_line(body)}")
    if moved.backup:
        click.echo(f"backup  {moved.backup}")
    undo = undo_command(body.name, body.previous.generation)
    if undo:
        click.echo(f"undo    {undo}")


def _line(body: Generation) -> str:
    what = short_id(body.run_id) if body.run_id else body.kind
    size = f"  {human_bytes(body.size_bytes)}" if body.size_bytes is not None else ""
    return f"{body.name} g{body.generation} = {what}{size}  {(body.digest or 'nothing')[:19]}…"


@click.command("rollback", help="Put the previous checkpoint back at once, and hold the pointer.")
@click.argument("target")
@click.option(
    "--to", metavar="GENERATION|RUN|DIGEST", help="Which one; default the newest good one before."
)
@click.option("--reason", metavar="TEXT", help="Kept with the generation.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@home_option
def rollback_command(
    target: str, to: str | None, reason: str | None, yes: bool, home: str | None
) -> int:
    name = pointer_name(target, project_root())
    try:
        ws = workspace(home, writing=True, rolling_back=name)
    except (IntegrityError, UnavailableError, UsageError) as exc:
        return _rollback_without_ledger(name, to, reason, yes, home, exc)
    with translated():
        history = ws.promoter.settle(name, rolling_back=True)
        chosen = _choose(history, name, to)
        live = history.live
        if live is not None and live.digest == chosen.digest:
            click.echo(f"live    {_line(live)}")
            click.echo("this checkpoint is live already: nothing to do")
            return 0
        _show_choice(ws, live, chosen)
        confirm("Roll back?", yes=yes)
        moved = ws.promoter.rollback(name, chosen, reason=reason, base=history.latest)
        for body in (live, chosen):
            if body is not None and body.run_id and ws.journal.run(body.run_id).request:
                ws.documents.write(body.run_id)
    _say_rolled_back(moved, chosen, live)
    return 0


def _choose(history: PointerHistory, name: str, to: str | None) -> Generation:
    if history.live is None:
        raise UsageError(f"{name} has no generation", "launcher pointers shows what there is")
    return history.rollback_target(to)


def _show_choice(ws: Workspace, live: Generation | None, chosen: Generation) -> None:
    if live is not None:
        click.echo(
            f"live  {_line(live)}  {_metric(ws, live)}promoted {age(live.time)} ago by {live.actor}"
        )
    click.echo(f"  to  {_line(chosen)}  {_metric(ws, chosen)}made {age(chosen.time)} ago")
    blob = ws.store.stat_blob(chosen.digest) if chosen.digest else None
    if blob is None:
        raise IntegrityError(f"blob {chosen.digest} is not in {ws.store.where}")
    click.echo(f"blob present, {human_bytes(blob.size_bytes)}")


def _metric(ws: Workspace, body: Generation) -> str:
    if not body.run_id:
        return ""
    rate = ws.journal.run(body.run_id).metrics.get("success_rate")
    return f"success_rate {rate:.3f}  " if rate is not None else ""


def _say_rolled_back(moved: Moved, chosen: Generation, left: Generation | None) -> None:
    body = moved.generation
    assert body is not None
    if moved.outcome == "unchanged":
        click.echo("this checkpoint is live already: nothing to do")
        return
    click.echo(f"live: {body.name} g{body.generation} = checkpoint of g{chosen.generation}")
    if moved.backup:
        click.echo(f"backup  {moved.backup}")
    click.echo(
        f"automatic promotions of {body.name} are held; when fixed: launcher release {body.name}"
    )
    if left is not None:
        click.echo(f"undo: launcher rollback {body.name} --to {left.generation}")


def _rollback_without_ledger(
    name: str, to: str | None, reason: str | None, yes: bool, home: str | None, why: LauncherError
) -> int:
    """The ledger is damaged, away or of a newer version: the store alone is enough to go back."""
    from launcher.standalone import StoreRollback, open_store

    store, settings, root = open_store(home)
    rollback = StoreRollback(store, root=root, project=settings.project, actor=settings.actor)
    history = rollback.history(name)
    if history.live is None:
        raise why
    chosen = _choose(history, name, to)
    click.echo(f"launcher: without the ledger: {why}", err=True)
    if history.live.digest == chosen.digest:
        click.echo("this checkpoint is live already: nothing to do")
        return 0
    confirm(f"Roll {name} back to g{chosen.generation}?", yes=yes)
    body = rollback.apply(
        name, chosen, reason=reason, promotion_id=clock.new_id(), time=clock.now()
    )
    click.echo(f"live: {body.name} g{body.generation} = checkpoint of g{chosen.generation}")
    click.echo("the ledger imports this when it is back")
    return 0


@click.command("release", help="End the hold that a rollback left; promotes nothing.")
@click.argument("target")
@click.option("--reason", metavar="TEXT", help="Kept in the ledger.")
@home_option
def release_command(target: str, reason: str | None, home: str | None) -> int:
    name = pointer_name(target, project_root())
    ws = workspace(home, writing=True)
    with translated():
        holder = ws.promoter.release(name, reason=reason)
    click.echo(f"{name} is released (it was held since g{holder.generation}); nothing was promoted")
    return 0


@click.command("pointers", help="What each pointer names; with TARGET its whole history.")
@click.argument("target", required=False)
@click.option("--at", metavar="TIME", help="As it was at this moment (RFC 3339).")
@json_option
@home_option
def pointers_command(target: str | None, at: str | None, as_json: bool, home: str | None) -> int:
    until = _moment(at)
    ws = workspace(home, writing=False)
    with translated():
        names = [pointer_name(target, project_root())] if target else ws.promoter.pointers.names()
        rows = [_history_row(ws, name, until) for name in names]
    if target and not rows[0]["generations"]:
        raise UsageError(f"{target} has no generation", "launcher pointers shows what there is")
    if as_json:
        print_json(
            rows[0]
            if target
            else [{k: v for k, v in r.items() if k != "generations"} for r in rows]
        )
    elif target:
        _print_history(rows[0])
    else:
        for row in rows:
            _print_live(row)
        if not rows:
            click.echo("no pointer yet: submit --promotion-target, or launcher promote RUN TARGET")
    return 0


def _moment(at: str | None) -> Any:
    try:
        return clock.parse_time(at) if at else None
    except ValueError as exc:
        raise UsageError(f"--at {at!r} is no RFC 3339 time, such as 2026-01-31T02:00:00Z") from exc


def _history_row(ws: Workspace, name: str, until: Any) -> dict[str, Any]:
    history = ws.promoter.history(name)
    bodies = [b for b in history.generations if until is None or clock.parse_time(b.time) <= until]
    then = PointerHistory(name, bodies)
    released = ws.journal.pointer(name).released
    holder = then.held_by(released)
    return {
        "name": name,
        "live": then.live.model_dump(mode="json") if then.live else None,
        "held": holder is not None,
        "held_by": holder.generation if holder else None,
        "generations": [body.model_dump(mode="json") for body in bodies],
        "withdrawn": sorted(then.withdrawn()),
    }


def _print_live(row: dict[str, Any]) -> None:
    if row["live"] is None:
        click.echo(f"{row['name']}  nothing yet")
        return
    body = Generation(**row["live"])
    held = f"  held by {body.actor} {age(body.time)} ago" if row["held"] else ""
    click.echo(_line(body) + held)


def _print_history(row: dict[str, Any]) -> None:
    click.echo(row["name"])
    for raw in reversed(row["generations"]):
        body = Generation(**raw)
        state = (
            "live" if raw == row["live"] else "withdrawn" if body.origin in row["withdrawn"] else ""
        )
        what = short_id(body.run_id) if body.run_id else "-"
        why = f'  "{body.reason}"' if body.reason else ""
        of = f" of g{body.origin}" if body.kind in ("rollback", "fence") else ""
        click.echo(
            f"g{body.generation:<4} {body.kind + of:<16} {what:<22} {(body.digest or '-')[7:19]:<12} "
            f"{age(body.time):>4} ago  {body.actor}  {state}{why}".rstrip()
        )
    if row["held"]:
        click.echo(f"held; when fixed: launcher release {row['name']}")


@click.command("pull", help="Fetch a checkpoint to DEST: verified, and there whole or not at all.")
@click.argument("ref")
@click.argument("dest")
@json_option
@home_option
def pull_command(ref: str, dest: str, as_json: bool, home: str | None) -> int:
    ws = workspace(home, writing=False)
    place = project_root() / dest
    with translated():
        if not ref.startswith(("run:", "pointer:", "sha256:")):
            raise UsageError(f"{ref!r} is no ref", "run:RUN, pointer:NAME or sha256:<hex>")
        found = resolve_digest(ref, ws.journal, ws.store)
        if place.is_dir():
            place = place / (
                Path(found.shown).name if ref.startswith("run:") else "student" + found.suffix
            )
        ws.store.fetch_blob(found.digest, place)
    if as_json:
        print_json(
            {"ref": ref, "path": str(place), "digest": found.digest, "size_bytes": found.size_bytes}
        )
    else:
        click.echo(f"{place}  {human_bytes(found.size_bytes)}  {found.digest[:19]}…  verified")
    return 0
