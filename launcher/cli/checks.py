"""audit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import click

from launcher.audit import Check, Report, Scene, audit
from launcher.cli.common import home_option, json_option, print_json, project_root, settings
from launcher.errors import IntegrityError, UnavailableError, UsageError
from launcher.workspace import open_parts, open_workspace
from ledger.stores.port import TreeHead

__all__ = ["audit_command", "checks_json", "print_checks", "shown_head"]

#: So many things that are wrong are shown of each check; --json shows all.
_SHOWN: Final = 20
_LIMITS: Final = (
    "an unsigned ledger cannot show by itself that its tail was cut off, "
    "or rewritten, together with its heads"
)
_NEXT: Final = {
    "ledger": "keep what is there (ledger.db, or the segment) and put a backup copy in its place; "
    "until then a rollback works without it",
    "documents": "launcher replay rewrites the documents from the ledger",
    "results": "compare with a backup of the store; the ledger keeps what was recorded",
    "blobs": "put the blob back from a backup, or from a copy whose sha256 is the same",
    "pointers": "compare with a backup of the store; nothing is promoted or repaired until this is settled",
    "targets": "launcher replay puts the live checkpoint back (what is there is kept as a backup)",
}
_LEDGER: Final = ("bytes", "order", "ids", "history", "heads")


@click.command("audit", help="Check ledger, documents, results, blobs, pointers and target files.")
@click.option(
    "--quick", is_flag=True, help="Blobs: that they are there and their sizes; no hashing."
)
@click.option(
    "--expect-head",
    "expected",
    metavar="SIZE:ROOT",
    multiple=True,
    help="A head that an earlier audit printed and you kept elsewhere: this ledger must extend it.",
)
@json_option
@home_option
def audit_command(quick: bool, expected: tuple[str, ...], as_json: bool, home: str | None) -> int:
    """Reads only. Exit 4 where anything is wrong."""
    heads = [_head(text) for text in expected]
    report = audit(_scene(home), quick=quick, elsewhere=heads)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report, heads)
    return IntegrityError.exit_code if report.problems else 0


def _head(text: str) -> TreeHead:
    found = re.fullmatch(r"(\d{1,18}):([0-9a-fA-F]{64})", text.strip())
    if found is None:
        raise UsageError(f"--expect-head {text!r} is no SIZE:ROOT", "launcher audit prints one")
    return TreeHead(int(found[1]), bytes.fromhex(found[2]))


def _scene(home: str | None) -> Scene:
    """What is to be audited; a ledger that cannot be opened is left out, and the rest is audited."""
    root = project_root()
    chosen = settings(home)
    try:
        ws = open_workspace(chosen, root, writing=False)
    except (IntegrityError, UnavailableError, UsageError) as exc:
        home_folder, store = open_parts(chosen, root)
        shared = chosen.ledger == "store"
        return Scene(None, store, root, home_folder, chosen.project, exc.message, shared=shared)
    shared = chosen.ledger == "store"
    return Scene(ws.ledger, ws.store, ws.root, ws.home, chosen.project, shared=shared)


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.problems,
        "first_bad_position": report.first_position,
        "head": shown_head(report.head),
        "checks": checks_json(report.checks),
        "limits": _LIMITS,
    }


def checks_json(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """Each check and all that it found."""
    return [
        {
            "name": check.name,
            "ok": None if check.skipped and not check.problems else not check.problems,
            "looked_at": check.looked_at,
            "skipped": check.skipped or None,
            "problems": [
                {"where": p.where, "what": p.what, "position": p.position} for p in check.problems
            ],
            "notes": check.notes,
        }
        for check in checks
    ]


def shown_head(head: TreeHead | None) -> str | None:
    """``SIZE:ROOT``."""
    return f"{head.size}:{head.root.hex()}" if head else None


def print_checks(checks: Iterable[Check]) -> None:
    """A line each, and under it what it found."""
    for check in checks:
        mark = "BAD " if check.problems else "-   " if check.skipped else "ok  "
        said = f"not checked: {check.skipped}" if check.skipped else check.looked_at
        if check.problems:
            said = f"{len(check.problems)} wrong"
        click.echo(f"{mark} {check.name:<10} {said}")
        for problem in check.problems[:_SHOWN]:
            click.echo(f"       {problem.where}: {problem.what}")
        if len(check.problems) > _SHOWN:
            click.echo(f"       … and {len(check.problems) - _SHOWN} more: --json")
        for note in check.notes:
            click.echo(f"       note: {note}")


def _print(report: Report, heads: list[TreeHead]) -> None:
    print_checks(report.checks)
    if report.head is not None:
        click.echo(f"head  {shown_head(report.head)}")
    if heads and not report.problems:
        click.echo(
            f"this ledger extends the head of {max(h.size for h in heads)} events kept elsewhere"
        )
    else:
        click.echo(f"limit {_LIMITS}: keep the head elsewhere, and audit with --expect-head")
    _print_end(report)


def _print_end(report: Report) -> None:
    if not report.problems:
        click.echo("everything that was checked is what was written")
        return
    first = report.first_position
    at = f"; the first bad position is {first}" if first is not None else ""
    bad = [check.name for check in report.checks if check.problems]
    for name in dict.fromkeys("ledger" if n in _LEDGER else n for n in bad):
        click.echo(f"next  {name}: {_NEXT[name]}")
    click.echo(
        f"launcher: audit found {len(report.problems)} wrong in {', '.join(bad)}{at}", err=True
    )
