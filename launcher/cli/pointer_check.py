"""pointers check: what ledger and store say differently."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import click

from launcher.audit.report import counted
from launcher.cli.common import print_json, project_root, settings, workspace
from launcher.errors import IntegrityError, LauncherError, UnavailableError, UsageError
from launcher.journal import Journal
from launcher.pointer_check import Difference, Project, check_pointer
from launcher.project import pointer_name
from launcher.standalone import open_address, open_rollback
from launcher.storage.address import parse_address
from launcher.storage.pointer import Pointers
from launcher.workspace import translated

__all__ = ["check"]


def check(target: str | None, *, deep: bool, as_json: bool, home: str | None) -> int:
    """Print every difference. Returns 4 for any that is more than news, else 0, or why there was no comparison."""
    pointers, journal, project, why = _sources(target, home)
    names = [_name(target)] if target else sorted({*pointers.names(), *_known(journal)})
    found: list[Difference] = []
    with translated():
        for name in names:
            found += check_pointer(pointers, name, journal, project, deep=deep)
    wrong = [one for one in found if one.grade != "news"]
    compared = journal is not None
    if as_json:
        rows = [asdict(one) for one in found]
        print_json({"ok": not wrong, "compared": compared, "pointers": names, "differences": rows})
    else:
        _print(names, found)
    if why is not None:
        click.echo(f"launcher: not compared with the ledger: {why.message}", err=True)
    if wrong:
        click.echo(_summary(wrong), err=True)
        return IntegrityError.exit_code
    return why.exit_code if why is not None else 0


def _sources(
    target: str | None, home: str | None
) -> tuple[Pointers, Journal | None, Project | None, LauncherError | None]:
    """The store's pointers; the ledger, unless it is not to be had (then why) or was not meant (an address)."""
    root, chosen = project_root(), settings(home)
    address = parse_address(target, root) if target else None
    if address is not None:
        return open_address(address, root=root, actor=chosen.actor).pointers, None, None, None
    project = Project(root, chosen.project)
    try:
        ws = workspace(home, writing=False)
        with translated():
            if ws.has_ledger():
                return ws.promoter.pointers, ws.journal, project, None
        why: LauncherError | None = UnavailableError(f"{ws.ledger.where} is not there")
    except (IntegrityError, UnavailableError) as exc:
        why = exc
    pointers = open_rollback(chosen, root).pointers
    if target is None and not pointers.names():
        why = (
            why if isinstance(why, IntegrityError) else None
        )  # nothing anywhere: nothing to compare
    return pointers, None, project, why


def _name(target: str) -> str:
    root = project_root()
    address = parse_address(target, root)
    return address.name if address else pointer_name(target, root)


def _known(journal: Journal | None) -> list[str]:
    if journal is None:
        return []
    with translated():
        return journal.pointer_names()


def _print(names: list[str], found: list[Difference]) -> None:
    if not names:
        click.echo("no pointer yet")
    for name in names:
        mine = [one for one in found if one.pointer == name]
        wrong = any(one.grade != "news" for one in mine)
        click.echo(f"{'BAD' if wrong else 'ok '}  {name}")
        for one in mine:
            number = f"g{one.generation}: " if one.generation is not None else ""
            click.echo(f"     {one.grade:<6}  {number}{one.what}")


def _summary(wrong: list[Difference]) -> str:
    grades = Counter(one.grade for one in wrong)
    next_ = (
        "compare with a backup of the store, or roll back to a generation that is whole"
        if grades["damage"]
        else "launcher replay brings files in step; the next promotion or rollback, views"
    )
    return f"launcher: {counted(len(wrong), 'difference')} between pointers, ledger and store ({next_})"


def refuse_plain(deep: bool) -> None:
    """``--deep`` is about ``check`` only."""
    if deep:
        raise UsageError(
            "--deep hashes checkpoints for a comparison", "launcher pointers check --deep"
        )
