"""rollback: yesterday's checkpoint at once, with the ledger or with nothing but the store.

TARGET may be STORE#NAME (``s3://bucket/prefix#student``): then no project, no home and no ledger is needed or
looked at, and no file of this folder is touched.

``--wait`` waits for those who serve the pointer, after all else is done. Whoever is late by then is a warning and no
error: the rollback is made, and the same command typed again would go one further back.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
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
    seconds_between,
    settings,
    workspace,
)
from launcher.cli.following import Followers, wait_for
from launcher.cli.pointers import checkpoint_line
from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.followers import TargetBehindError
from launcher.project import pointer_name
from launcher.promotion import Moved
from launcher.refs import matching_runs
from launcher.settling import WrongStoreError, verify_blob
from launcher.standalone import StoreRollback, open_address, open_rollback
from launcher.storage.address import Address, parse_address
from launcher.storage.pointer import PointerHistory
from launcher.storage.port import ObjectStore
from launcher.workspace import Workspace, translated
from ledger import errors as ledger_errors
from ledger.events import Generation
from ledger.projections.promotion import rollback_command as undo_command
from ledger.projections.storage_alert import human_bytes

__all__ = ["rollback_command"]

#: The ledger's own trouble: no reason not to go back.
_LEDGER_TROUBLE = (
    ledger_errors.LedgerDamagedError,
    ledger_errors.LedgerUnavailableError,
    ledger_errors.NewerSchemaError,
)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was typed. ``address``: where the pointer is, for whoever named its store."""

    name: str
    address: Address | None
    to: str | None
    reason: str | None
    yes: bool
    deep: bool
    as_json: bool
    home: str | None
    wait: float | None

    @property
    def target(self) -> str:
        """How the pointer is to be named in another command."""
        return str(self.address) if self.address else self.name


@click.command("rollback", help="Put the previous checkpoint back at once, and hold the pointer.")
@click.argument("target")
@click.option(
    "--to", metavar="GENERATION|RUN|DIGEST", help="Which one; default the newest good one before."
)
@click.option("--reason", metavar="TEXT", help="Kept with the generation.")
@click.option("--deep", is_flag=True, help="Hash the checkpoint again before it goes live.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0, max=86400),
    metavar="SECONDS",
    help="Until all followers have acknowledged it, at most so long.",
)
@json_option
@home_option
def rollback_command(
    target: str,
    to: str | None,
    reason: str | None,
    deep: bool,
    yes: bool,
    wait: float | None,
    as_json: bool,
    home: str | None,
) -> int:
    root = project_root()
    address = parse_address(target, root)
    name = address.name if address else pointer_name(target, root)
    wish = _Wish(name, address, to, reason, yes, deep, as_json, home, wait)
    if address is not None:
        actor = settings(home).actor
        return _with_store(open_address(address, root=root, actor=actor), wish)
    try:
        ws, history = _with_ledger(wish)
    except WrongStoreError:
        raise
    except (IntegrityError, UnavailableError, UsageError) as exc:
        return _without_ledger(wish, exc)
    chosen = _choose(history, wish)
    with translated():
        if history.live is not None and history.live.digest != chosen.digest:
            _show_choice(ws.store, history.live, chosen, wish, ws)
            confirm("Roll back?", yes=yes)
        began = clock.now()
        behind = None
        try:
            moved = ws.promoter.rollback(
                wish.name, chosen, reason=reason, base=history.latest, deep=deep
            )
        except TargetBehindError as exc:
            moved, behind = Moved("moved", wish.name, ws.promoter.history(wish.name).live), exc
        except _LEDGER_TROUBLE as exc:
            return _without_ledger(wish, exc, agreed=(chosen, history.latest))
        assert moved.generation is not None
        position = ws.journal.pointer(wish.name).position
        said = _say(wish, moved.generation, chosen, history.live, moved.backup, began, position)
        for body in (history.live, chosen):
            if body is not None and body.run_id and ws.journal.run(body.run_id).request:
                ws.documents.write(body.run_id)
    _say_followers(wish, ws.store, moved.generation, said, wait=behind is None)
    if behind is not None:
        raise behind
    return 0


def _with_ledger(wish: _Wish) -> tuple[Workspace, PointerHistory]:
    """The workspace, everything settled. Raises LauncherError where the ledger cannot be appended to."""
    reading = workspace(wish.home, writing=False)
    with translated():
        newer = reading.ledger.newer_schema()
        if not reading.has_ledger():
            raise UnavailableError(f"{reading.ledger.where} is not there")
        reading.ledger.close()
        if newer is not None:
            raise ledger_errors.NewerSchemaError(newer[0], newer[1], newer[1] - 1, newer[2])
        ws = workspace(wish.home, writing=True, rolling_back=wish.name)
        return ws, ws.promoter.settling.settle(wish.name, rolling_back=True)


def _choose(history: PointerHistory, wish: _Wish) -> Generation:
    if history.live is None:
        where = wish.address.store if wish.address else ""
        raise UsageError(
            f"{wish.name} has no generation{f' in {where}' if where else ''}",
            f"launcher pointers{f' --store {where}' if where else ''} shows what there is",
        )
    to = wish.to
    if to is not None and not to.isdigit():
        runs = matching_runs((g.run_id for g in history.generations if g.run_id), to)
        to = runs[0] if len(runs) == 1 else to
    return history.rollback_target(to)


def _show_choice(
    store: ObjectStore,
    live: Generation,
    chosen: Generation,
    wish: _Wish,
    ws: Workspace | None = None,
) -> None:
    verify_blob(store, chosen.digest, chosen.size_bytes, deep=wish.deep)
    checked = "every byte checked" if wish.deep else "size as recorded"
    for line in (
        f"live  {checkpoint_line(live, ws)}  {live.kind} {age(live.time)} ago by {live.actor}",
        f"  to  {checkpoint_line(chosen, ws)}  {chosen.kind} {age(chosen.time)} ago",
        f"blob present, {human_bytes(chosen.size_bytes or 0)}, {checked}",
    ):
        click.echo(line, err=wish.as_json)


def _say(
    wish: _Wish,
    body: Generation,
    chosen: Generation,
    left: Generation | None,
    backup: str | None,
    began: str,
    position: int | None = None,
) -> dict[str, Any]:
    """Tell a person what was done; returns it for a program."""
    same = left is not None and left.digest == chosen.digest
    spent = seconds_between(began, None) or 0.0
    undone = left is not None and left.digest is not None and not same
    undo = undo_command(wish.target, left.generation) if left is not None and undone else None
    document = {
        "pointer": wish.target,
        "changed": not same,
        "live": body.model_dump(mode="json"),
        "to": chosen.generation,
        "backup": backup,
        "position": position,
        "undo": undo,
        "seconds": round(spent, 3),
    }
    if wish.as_json:
        return document
    if same:
        click.echo(f"live    {checkpoint_line(body)}")
        click.echo("this checkpoint is live already: nothing to do")
        return document
    sign = "✓ " if sys.stdout.isatty() else ""
    more = f"  position {position}" if position is not None else ""
    click.echo(
        f"{sign}live: {body.name} g{body.generation} = checkpoint of g{chosen.generation}  "
        f"{spent:.1f} s{more}"
    )
    if backup:
        click.echo(f"backup  {backup}")
    where = " in the project" if wish.address else ""
    click.echo(
        f"{'! ' if sign else ''}automatic promotions of {body.name} are held; "
        f"when fixed{where}: launcher release {shlex.quote(body.name)}"
    )
    if undo:
        click.echo(f"undo: {undo}")
    return document


def _say_followers(
    wish: _Wish, store: ObjectStore, body: Generation, document: dict[str, Any], *, wait: bool
) -> None:
    """Who serves it already and who does not yet; waits for them if that was wished. The last word to a program."""
    found, late = Followers.of(store, wish.name), None
    try:
        if not wish.as_json:
            _print_lines(found, body)
        if wait and wish.wait is not None:
            late = "interrupted"  # all that a program hears of it then
            late = wait_for(store, wish.name, body.generation, wish.wait)
            before, found = found, Followers.of(store, wish.name)
            if not wish.as_json and found != before:
                _print_lines(found, body)
    finally:
        if wish.as_json:
            followers = found.json(body.name, body.generation)
            followed = None if late is None else not late
            print_json({**document, "followers": followers, "followed": followed})
    if late:
        click.echo(
            f"warning: g{body.generation} is live, but after {wish.wait:g} s {late}; "
            f"launcher pointers {shlex.quote(wish.target)} shows them",
            err=True,
        )


def _print_lines(found: Followers, body: Generation) -> None:
    for line in (*found.lines(body.name, body.generation), *found.unseen()):
        click.echo(line)


def _without_ledger(
    wish: _Wish,
    why: LauncherError | ledger_errors.LedgerError,
    *,
    agreed: tuple[Generation, int] | None = None,
) -> int:
    """The ledger is damaged, away or of a newer version: the store alone is enough to go back."""
    rollback = open_rollback(settings(wish.home), project_root())
    return _with_store(rollback, wish, agreed=agreed, why=why)


def _with_store(
    rollback: StoreRollback,
    wish: _Wish,
    *,
    agreed: tuple[Generation, int] | None = None,
    why: LauncherError | ledger_errors.LedgerError | None = None,
) -> int:
    """Go back with the store alone.

    ``agreed`` is what the person said yes to already: what to go back to, and on which generation.
    """
    history = rollback.history(wish.name)
    chosen, base = agreed or (_choose(history, wish), history.latest)
    live = history.live
    assert live is not None
    if why is not None:
        click.echo(f"launcher: without the ledger: {why}", err=True)
    if agreed is None and live.digest != chosen.digest:
        _show_choice(rollback.store, live, chosen, wish)
        confirm("Roll back?", yes=wish.yes)
    return _apply(rollback, wish, chosen, base, live)


def _apply(
    rollback: StoreRollback, wish: _Wish, chosen: Generation, base: int, live: Generation
) -> int:
    began, behind, backup = clock.now(), None, None
    try:
        body, backup = rollback.apply(
            wish.name,
            chosen,
            reason=wish.reason,
            base=base,
            promotion_id=clock.new_id(),
            time=began,
            deep=wish.deep,
        )
    except TargetBehindError as exc:
        newest = rollback.history(wish.name).live
        assert newest is not None
        body, behind = newest, exc
    said = _say(wish, body, chosen, live, backup, began)
    if body.generation != live.generation:
        imported = (
            "the project's next writing command brings its ledger, and a file that follows, in step"
            if wish.address
            else "the ledger imports this when it is back"
        )
        click.echo(imported, err=wish.as_json)
    _say_followers(wish, rollback.store, body, said, wait=behind is None)
    if behind is not None:
        raise behind
    return 0
