"""What the commands share: options, the workspace, small pieces of text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from launcher import clock
from launcher.errors import UsageError
from launcher.refs import short_id
from launcher.settings import Settings
from launcher.workspace import Workspace, open_workspace, translated

__all__ = [
    "age",
    "confirm",
    "duration",
    "home_option",
    "json_option",
    "print_json",
    "project_root",
    "settings",
    "short_id",
    "workspace",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _note_store(ctx: click.Context, _option: click.Parameter, given: str | None) -> None:
    if given is not None:
        ctx.find_root().obj["store"] = given


def home_option(command: Command) -> Command:
    """``--home``, a parameter of the command, and ``--store``, which ``settings`` looks up by itself."""
    store = click.option(
        "--store",
        metavar="DIR|s3://BUCKET/PREFIX",
        expose_value=False,
        callback=_note_store,
        help="Where checkpoints and results are: LAUNCHER_STORE, else objects/ in the home.",
    )
    home = click.option(
        "--home",
        metavar="DIR",
        help="Where locks, ledger and store are by default: LAUNCHER_HOME, else runs/self_distill.",
    )
    return home(store(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def project_root() -> Path:
    """The folder in which the command was called."""
    return Path(os.path.abspath(os.getcwd()))  # noqa: PTH100, PTH109 - keeps symlinks as the user sees them


def settings(home: str | None) -> Settings:
    """This command's settings: its flags, then the environment. Raises UsageError."""
    given = click.get_current_context().find_root().obj.get("store")
    flags = {"home": home, "store": given}
    return Settings.from_environment(
        os.environ, project_root(), {name: value for name, value in flags.items() if value}
    )


def workspace(home: str | None, *, writing: bool, rolling_back: str | None = None) -> Workspace:
    """This command's workspace; a writing one first attends to what others left half done."""
    ws = open_workspace(settings(home), project_root(), writing=writing)
    if writing:
        with translated():
            for behind in ws.attend(rolling_back):
                click.echo(f"warning: {behind}", err=True)
    return ws


def print_json(value: Any) -> None:
    """Print a value as JSON, for a program that reads it."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def duration(seconds: float) -> str:
    """``0.8s``, ``41s``, ``12m04s``, ``3h07m``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from ``start`` to ``end`` (now if None), or None where there is no start."""
    if start is None:
        return None
    until = clock.parse_time(end or clock.now())
    return (until - clock.parse_time(start)).total_seconds()


def age(time: str | None) -> str:
    """``4m``, ``5h``, ``3d`` since ``time``."""
    seconds = seconds_between(time, None)
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def confirm(question: str, *, yes: bool) -> None:
    """Ask, on standard error: what a program reads is on the other one. Without a terminal ``--yes`` is needed.

    Raises UsageError, click.Abort.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("this asks a question and there is no terminal", "add --yes")
    if not click.confirm(question, default=True, err=True):
        raise click.Abort
