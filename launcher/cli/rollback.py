"""rollback: yesterday's checkpoint at once, with the ledger or with nothing but the store."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass

import click

from launcher import clock
from launcher.cli.common import (
    age,
    confirm,
    home_option,
    project_root,
    seconds_between,
    settings,
    workspace,
)
from launcher.cli.pointers import checkpoint_line
from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.followers import TargetBehindError
from launcher.project import pointer_name
from launcher.promotion import Moved
from launcher.refs import matching_runs
from launcher.settling import WrongStoreError, verify_blob
from launcher.standalone import StoreRollback, open_rollback
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
    """What was typed."""

    name: str
    to: str | None
    reason: str | None
    yes: bool
    deep: bool
    home: str | None


@click.command("rollback", help="Put the previous checkpoint back at once, and hold the pointer.")
@click.argument("target")
@click.option(
    "--to", metavar="GENERATION|RUN|DIGEST", help="Which one; default the newest good one before."
)
@click.option("--reason", metavar="TEXT", help="Kept with the generation.")
@click.option("--deep", is_flag=True, help="Hash the checkpoint again before it goes live.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@home_option
def rollback_command(
    target: str, to: str | None, reason: str | None, deep: bool, yes: bool, home: str | None
) -> int:
    wish = _Wish(pointer_name(target, project_root()), to, reason, yes, deep, home)
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
        _say(moved.generation, chosen, history.live, moved.backup, began, _position(ws, moved))
        for body in (history.live, chosen):
            if body is not None and body.run_id and ws.journal.run(body.run_id).request:
                ws.documents.write(body.run_id)
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
        raise UsageError(f"{wish.name} has no generation", "launcher pointers shows what there is")
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
    click.echo(
        f"live  {checkpoint_line(live, ws)}  {live.kind} {age(live.time)} ago by {live.actor}"
    )
    click.echo(f"  to  {checkpoint_line(chosen, ws)}  {chosen.kind} {age(chosen.time)} ago")
    verify_blob(store, chosen.digest, chosen.size_bytes, deep=wish.deep)
    checked = "every byte checked" if wish.deep else "size as recorded"
    click.echo(f"blob present, {human_bytes(chosen.size_bytes or 0)}, {checked}")


def _position(ws: Workspace, moved: Moved) -> str:
    return f"  position {ws.journal.pointer(moved.name).position}"


def _say(
    body: Generation,
    chosen: Generation,
    left: Generation | None,
    backup: str | None,
    began: str,
    more: str = "",
) -> None:
    if left is not None and left.digest == chosen.digest:
        click.echo(f"live    {checkpoint_line(body)}")
        click.echo("this checkpoint is live already: nothing to do")
        return
    spent = seconds_between(began, None) or 0.0
    sign = "✓ " if sys.stdout.isatty() else ""
    click.echo(
        f"{sign}live: {body.name} g{body.generation} = checkpoint of g{chosen.generation}  "
        f"{spent:.1f} s{more}"
    )
    if backup:
        click.echo(f"backup  {backup}")
    click.echo(
        f"{'! ' if sign else ''}automatic promotions of {body.name} are held; "
        f"when fixed: launcher release {shlex.quote(body.name)}"
    )
    if left is not None and left.digest is not None:
        click.echo(f"undo: {undo_command(body.name, left.generation)}")


def _without_ledger(
    wish: _Wish,
    why: LauncherError | ledger_errors.LedgerError,
    *,
    agreed: tuple[Generation, int] | None = None,
) -> int:
    """The ledger is damaged, away or of a newer version: the store alone is enough to go back.

    ``agreed`` is what the person said yes to already: what to go back to, and on which generation.
    """
    rollback = open_rollback(settings(wish.home), project_root())
    history = rollback.history(wish.name)
    chosen, base = agreed or (_choose(history, wish), history.latest)
    live = history.live
    assert live is not None
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
    _say(body, chosen, live, backup, began)
    if body.generation != live.generation:
        click.echo("the ledger imports this when it is back")
    if behind is not None:
        raise behind
    return 0
