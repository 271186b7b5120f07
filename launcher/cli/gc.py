"""gc."""

from __future__ import annotations

import click

from launcher.cli.common import home_option, json_option, workspace
from launcher.errors import UsageError

__all__ = ["gc_command"]


@click.command(
    "gc", help="Move what nothing needs any more to the trash; empty what lay there long enough."
)
@click.option("--apply", is_flag=True, help="Do it; without this it is only shown.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--grace-days", type=click.FloatRange(0, 3650), help="LAUNCHER_GC_GRACE_DAYS, else 7."
)
@click.option("--keep-generations", type=click.IntRange(1), help="Of each pointer; default: all.")
@json_option
@home_option
def gc_command(
    apply: bool,
    yes: bool,
    grace_days: float | None,
    keep_generations: int | None,
    as_json: bool,
    home: str | None,
) -> int:
    """A dry run unless --apply."""
    ws = workspace(home, writing=False)
    raise UsageError(f"gc of {ws.store.where}: the trash is being built")
