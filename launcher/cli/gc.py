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
    """A dry run unless --apply."""
    if run_dirs:
        if keep_generations is not None:
            raise UsageError(
                "--keep-generations is about the store, --run-dirs about local folders"
            )
        from launcher.cli.run_dirs import collect_run_dirs

        return collect_run_dirs(
            apply=apply, yes=yes, grace_days=grace_days, as_json=as_json, home=home
        )
    ws = workspace(home, writing=False)
    raise UsageError(f"gc of {ws.store.where}: the trash is being built")
