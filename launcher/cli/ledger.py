"""ledger: copy one to another place, verified; and its head."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from launcher.cli.common import home_option, json_option, print_json, project_root, workspace
from launcher.cli.terminal import one_line
from launcher.errors import ConflictError, UsageError
from launcher.ledger_places import copying_into, open_source
from launcher.workspace import translated
from ledger.copying import copy
from ledger.errors import NotACopyError
from ledger.stores.port import TreeHead

__all__ = ["ledger_command"]


@click.group("ledger", help="Copy a ledger to another place, verified; or print its head.")
def ledger_command() -> None:
    """``copy`` and ``head``."""


@ledger_command.command(
    "copy", help="Bring the ledger at DST to where the one at SRC is, byte for byte."
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@json_option
def copy_command(source: str, target: str, as_json: bool) -> int:
    """A place is a ledger's file, a home, or s3://bucket/prefix.

    DST is empty or a beginning of SRC. Stopped on the way, the same command goes on.
    """
    root = project_root()
    with translated(), open_source(source, root) as old:
        if old.head().size == 0:
            raise UsageError(
                f"{old.where} holds no ledger", "SRC: a file, a home or s3://bucket/prefix"
            )
        with copying_into(target, root) as new:
            before = new.ledger.head().size
            try:
                with _progress(old.where) as said:
                    head = copy(old, new.ledger, progress=said)
            except NotACopyError as exc:
                raise ConflictError(str(exc)) from exc
    fresh = head.size - before
    if as_json:
        print_json({"source": old.where, "target": new.where, **_shown(head), "copied": fresh})
    else:
        what = f"{fresh:,} copied now" if fresh else "nothing was missing"
        click.echo(
            f"{new.where} has all {head.size:,} events of {old.where} ({what}), verified: "
            f"head {head.size}:{head.root.hex()}"
        )
    return 0


@ledger_command.command(
    "head", help="Print the head of this project's ledger, or of the one at WHERE."
)
@click.argument("where", required=False)
@json_option
@home_option
def head_command(where: str | None, as_json: bool, home: str | None) -> int:
    """SIZE:ROOT, as ``audit --expect-head`` takes it. Read from what the ledger keeps; ``audit`` hashes."""
    with translated():
        if where is not None:
            with open_source(where, project_root()) as found:
                head, place = found.head(), found.where
        else:
            ledger = workspace(home, writing=False).ledger
            head, place = ledger.head(), ledger.where
    if as_json:
        print_json({"ledger": place, **_shown(head)})
    else:
        click.echo(f"{head.size}:{head.root.hex()}  {place}")
    return 0


def _shown(head: TreeHead) -> dict[str, Any]:
    return {
        "size": head.size,
        "root": head.root.hex(),
        "head": f"{head.size}:{head.root.hex()}",
    }


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """How far it is, on a terminal, in one line that goes away."""
    shown = sys.stderr is not None and sys.stderr.isatty()

    def say(done: int, total: int) -> None:
        if shown:
            text = one_line(f"{what}: {done:,} of {total:,} events")
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    try:
        yield say
    finally:
        if shown:
            click.echo("\r\033[K", nl=False, err=True)
