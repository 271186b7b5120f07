"""drill: could everything be had back? Rebuilt in an empty place, compared, thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from launcher.audit.report import Check
from launcher.cli.checks import checks_json, print_checks, shown_head
from launcher.cli.common import home_option, json_option, print_json, project_root, settings
from launcher.drill import Drilled, drill
from launcher.errors import IntegrityError
from launcher.workspace import open_workspace, translated

__all__ = ["drill_command"]


@click.command(
    "drill",
    help="Rebuild the ledger and every document in an empty place, from the bucket or ledger.db alone, and compare.",
)
@json_option
@home_option
def drill_command(as_json: bool, home: str | None) -> int:
    """Reads only; what it builds lies under TMPDIR and goes. Exit 4 where anything differs."""
    try:
        with translated(), tempfile.TemporaryDirectory(prefix="distill-ledger-drill-") as place:
            ws = open_workspace(settings(home), project_root(), writing=False)
            drilled = drill(ws, Path(place))
    except IntegrityError as exc:
        # A ledger that cannot even be opened.
        check = Check("ledger")
        check.bad("the ledger", exc.message)
        drilled = Drilled((check,), None)
    wrong = [check.name for check in drilled.checks if check.problems]
    if as_json:
        head = shown_head(drilled.head)
        print_json({"ok": not wrong, "head": head, "checks": checks_json(drilled.checks)})
    else:
        print_checks(drilled.checks)
        if drilled.head is not None:
            click.echo(f"head  {shown_head(drilled.head)}")
    if wrong:
        click.echo(
            f"launcher: what was rebuilt is not what is there: {', '.join(wrong)} "
            "(docs/guides/recovery.md; launcher audit says more)",
            err=True,
        )
        return IntegrityError.exit_code
    if not as_json:
        click.echo("everything that was rebuilt is what is there")
    return 0
