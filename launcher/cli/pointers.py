"""promote, release, pointers."""

from __future__ import annotations

from datetime import datetime
from shlex import quote
from typing import Any

import click

from launcher import clock
from launcher.cli.common import (
    age,
    home_option,
    json_option,
    print_json,
    project_root,
    settings,
    short_id,
    workspace,
)
from launcher.cli.following import Followers
from launcher.errors import IntegrityError, UnavailableError, UsageError
from launcher.followers import TargetBehindError
from launcher.journal import Journal
from launcher.places import check_place
from launcher.project import is_file_target, pointer_name
from launcher.promotion import Moved
from launcher.refs import find_run
from launcher.standalone import open_address, open_rollback
from launcher.storage.address import Address, parse_address
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.usage import measure
from launcher.workspace import Workspace, translated
from ledger.events import Generation, PointerReleased
from ledger.ids import pointer_stream
from ledger.projections.promotion import rollback_command as undo_command
from ledger.projections.storage_alert import human_bytes

__all__ = ["checkpoint_line", "pointers_command", "promote_command", "release_command"]


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
    name = _own_pointer(target, "a promotion", f"promote {quote(run)}")
    ws = workspace(home, writing=True)
    with translated():
        if is_file_target(name):
            check_place(ws, "the promotion target", name)
        state = ws.journal.run(find_run(ws.journal, run))
        if state.status != "succeeded":
            raise UsageError(f"run {state.run_id} is {state.status}, not succeeded")
        behind = None
        try:
            moved = ws.promoter.promote(
                state,
                name,
                automatic=False,
                reason=reason,
                take_over=take_over,
                deep=deep,
                expect_generation=expect_generation,
            )
        except TargetBehindError as exc:
            moved, behind = Moved("moved", name, ws.promoter.history(name).live), exc
        _say_moved(moved, ws.promoter.history(name).live)
        if moved.outcome == "moved" and moved.generation is not None:
            measured = measure(ws, run_id=state.run_id)
            ws.journal.record_storage(measured, moved.generation.promotion_id)
        ws.documents.write(state.run_id)
    if behind is not None:
        raise behind
    return 0


def _own_pointer(target: str, what: str, command: str) -> str:
    """The name of a pointer of this project. Raises UsageError."""
    root = project_root()
    address = parse_address(target, root)
    if address is not None:
        raise UsageError(
            f"{what} is a fact of the ledger, and {address} names a store alone",
            f"in the project: launcher {command} {quote(address.name)}",
        )
    return pointer_name(target, root)


def _say_moved(moved: Moved, live: Generation | None) -> None:
    body = moved.generation
    assert body is not None
    if moved.outcome == "unchanged":
        click.echo(f"{body.name} g{body.generation} has this checkpoint already: nothing to do")
        return
    if live is not None and live.generation != body.generation:
        click.echo(f"was live  {checkpoint_line(body)}")
        click.echo(f"live now  {checkpoint_line(live)}  {live.kind} by {live.actor}")
        return
    click.echo(f"live    {checkpoint_line(body)}")
    if moved.backup:
        click.echo(f"backup  {moved.backup}")
    undo = undo_command(body.name, body.previous.generation)
    if undo:
        click.echo(f"undo    {undo}")


def checkpoint_line(body: Generation, ws: Workspace | None = None) -> str:
    """``student g42 = 0611-7f3a  1.9 GB  success_rate 0.871  sha256:0123456789ab…``, metrics from the ledger."""
    parts = [
        f"{body.name} g{body.generation} = {short_id(body.run_id) if body.run_id else body.kind}"
    ]
    if body.size_bytes is not None:
        parts.append(human_bytes(body.size_bytes))
    if ws is not None and body.run_id:
        rate = ws.journal.run(body.run_id).metrics.get("success_rate")
        parts += [f"success_rate {rate:.3f}"] if rate is not None else []
    parts.append(f"{body.digest[:19]}…" if body.digest else "nothing")
    return "  ".join(parts)


@click.command("release", help="End the hold that a rollback left; promotes nothing.")
@click.argument("target")
@click.option("--reason", metavar="TEXT", help="Kept in the ledger.")
@home_option
def release_command(target: str, reason: str | None, home: str | None) -> int:
    name = _own_pointer(target, "a release", "release")
    ws = workspace(home, writing=True)
    with translated():
        holder = ws.promoter.release(name, reason=reason)
    click.echo(f"{name} is released (it was held since g{holder.generation}); nothing was promoted")
    return 0


@click.command(
    "pointers",
    help="What each pointer names; with TARGET its whole history; check: against the ledger.",
)
@click.argument("check", required=False, metavar="[check]")
@click.argument("target", required=False)
@click.option("--deep", is_flag=True, help="With check: hash the checkpoints.")
@click.option("--at", metavar="TIME", help="As it was at this moment (RFC 3339).")
@json_option
@home_option
def pointers_command(
    check: str | None,
    target: str | None,
    deep: bool,
    at: str | None,
    as_json: bool,
    home: str | None,
) -> int:
    """``pointers [TARGET]``, ``pointers check [TARGET]``."""
    from launcher.cli import pointer_check

    if check == "check":
        if at:
            raise UsageError("check compares what is there now", "without --at")
        return pointer_check.check(target, deep=deep, as_json=as_json, home=home)
    pointer_check.refuse_plain(deep)
    if target is not None:
        raise UsageError(f"{check!r} and {target!r}: one target", "launcher pointers check TARGET")
    target = check
    until = _moment(at)
    address = parse_address(target, project_root()) if target else None
    if address is not None:
        chosen: str | None = address.name
        pointers, journal = _addressed(address, home), None
    else:
        chosen = pointer_name(target, project_root()) if target else None
        pointers, journal = _sources(home)
    with translated():
        names = [chosen] if chosen else pointers.names()
        rows = [_history_row(pointers.history(name), journal, until) for name in names]
    followers = _note_followers(rows, pointers, chosen) if until is None else Followers({})
    if target and not rows[0]["generations"]:
        raise UsageError(f"{target} has no generation", "launcher pointers shows what there is")
    if as_json:
        brief = [{k: v for k, v in r.items() if k != "generations"} for r in rows]
        print_json(rows[0] if target else brief)
    else:
        _print_rows(rows, followers, history=target is not None)
    return 0


def _note_followers(
    rows: list[dict[str, Any]], pointers: Pointers, chosen: str | None
) -> Followers:
    """Add to each row who follows it; nobody is asked about where nothing is live."""
    if not any(row["live"] for row in rows):
        return Followers({})
    followers = Followers.of(pointers.store, chosen)
    for row in rows:
        if row["live"]:
            row["followers"] = followers.json(row["name"], row["live"]["generation"])
    return followers


def _print_rows(rows: list[dict[str, Any]], followers: Followers, *, history: bool) -> None:
    for row in rows:
        (_print_history if history else _print_live)(row)
        for line in followers.lines(row["name"], row["live"]["generation"] if row["live"] else 0):
            click.echo(line)
    for line in followers.unseen():
        click.echo(line)
    if not rows:
        click.echo("no pointer yet: submit --promotion-target, or launcher promote RUN TARGET")


def _addressed(address: Address, home: str | None) -> Pointers:
    click.echo("note: from the store alone: a release is in the ledger, and not shown", err=True)
    return open_address(address, root=project_root(), actor=settings(home).actor).pointers


def _sources(home: str | None) -> tuple[Pointers, Journal | None]:
    """The store's pointers and the ledger's account of releases; None where the ledger cannot be read."""
    try:
        ws = workspace(home, writing=False)
    except (IntegrityError, UnavailableError) as exc:
        click.echo(f"warning: {exc}; releases are not shown", err=True)
        return open_rollback(settings(home), project_root()).pointers, None
    return ws.promoter.pointers, ws.journal


def _moment(at: str | None) -> datetime | None:
    try:
        return clock.parse_time(at) if at else None
    except ValueError as exc:
        raise UsageError(f"--at {at!r} is no RFC 3339 time, such as 2026-01-31T02:00:00Z") from exc


def _history_row(
    history: PointerHistory, journal: Journal | None, until: datetime | None
) -> dict[str, Any]:
    then = _as_of(history, until)
    released = _released(journal, history.name, until) if journal else frozenset()
    holder = then.held_by(released)
    return {
        "name": then.name,
        "live": then.live.model_dump(mode="json") if then.live else None,
        "held": holder is not None,
        "held_by": holder.generation if holder else None,
        "followers": None,
        "generations": [body.model_dump(mode="json") for body in then.generations],
        "withdrawn": sorted(then.withdrawn()),
    }


def _as_of(history: PointerHistory, until: datetime | None) -> PointerHistory:
    """What was live at a moment. Numbers give the order; clocks only say how far to go."""
    if until is None:
        return history
    before = [g.generation for g in history.generations if clock.parse_time(g.time) <= until]
    return PointerHistory(history.name, history.generations[: max(before, default=0)])


def _released(journal: Journal, name: str, until: datetime | None) -> frozenset[int]:
    if until is None:
        return journal.pointer(name).released
    return frozenset(
        record.data.generation
        for record in journal.store.read_stream(pointer_stream(name))
        if isinstance(record.data, PointerReleased) and clock.parse_time(record.time) <= until
    )


def _print_live(row: dict[str, Any]) -> None:
    if row["live"] is None:
        click.echo(f"{row['name']}  nothing yet")
        return
    body = Generation(**row["live"])
    held = f"  held by {body.actor} {age(body.time)} ago" if row["held"] else ""
    click.echo(checkpoint_line(body) + held)


def _print_history(row: dict[str, Any]) -> None:
    click.echo(row["name"])
    for raw in reversed(row["generations"]):
        body = Generation(**raw)
        state = (
            "live" if raw == row["live"] else "withdrawn" if body.origin in row["withdrawn"] else ""
        )
        what = short_id(body.run_id) if body.run_id else "-"
        by = f"{body.actor}, automatic" if body.automatic else body.actor
        why = f'  "{body.reason}"' if body.reason else ""
        of = f" of g{body.origin}" if body.kind in ("rollback", "fence") else ""
        click.echo(
            f"g{body.generation:<4} {body.kind + of:<16} {what:<22} {(body.digest or '-')[7:19]:<12} "
            f"{age(body.time):>4} ago  {by}  {state}{why}".rstrip()
        )
    if row["held"]:
        click.echo(
            f"held since g{row['held_by']}; when fixed: launcher release {quote(row['name'])}"
        )
