"""pull: a checkpoint to a path, verified; with ``--watch`` the file goes where its pointer goes.

REF may be STORE#NAME, STORE#NAME@GENERATION or STORE#sha256:…: then nothing but the store is needed.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import click

from launcher.cli.common import (
    home_option,
    json_option,
    print_json,
    project_root,
    settings,
    workspace,
)
from launcher.cli.terminal import transfer_bar
from launcher.errors import UsageError
from launcher.project import pointer_name
from launcher.refs import Resolved, resolve_digest
from launcher.serving import resolve
from launcher.standalone import open_store
from launcher.storage.address import parse_address
from launcher.storage.opening import open_store as open_place
from launcher.storage.port import ObjectStore
from launcher.workspace import translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["pull_command"]


@click.command("pull", help="Fetch a checkpoint to DEST: verified, and there whole or not at all.")
@click.argument("ref")
@click.argument("dest")
@click.option("--watch", is_flag=True, help="Follow the pointer REF, until a signal.")
@click.option("--on-change", metavar="CMD", help="With --watch: run after each change, by bash.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05),
    default=10.0,
    show_default=True,
    help="With --watch: seconds between two looks, more or less.",
)
@click.option("--once", is_flag=True, help="With --watch: look a single time, for cron.")
@click.option("--name", metavar="HOST", help="With --watch: what this follower is called.")
@json_option
@home_option
def pull_command(
    ref: str,
    dest: str,
    watch: bool,
    on_change: str | None,
    interval: float,
    once: bool,
    name: str | None,
    as_json: bool,
    home: str | None,
) -> int:
    if watch:
        if as_json:
            raise UsageError("--watch prints lines", "without --json")
        from launcher.cli import watch as watching

        store, pointer = _pointer(ref, home)
        place = project_root() / dest
        return watching.watch(
            store,
            pointer,
            place,
            command=on_change,
            interval=interval,
            once=once,
            consumer=name,
        )
    if on_change is not None or once or name is not None:
        raise UsageError("--on-change, --once and --name are of --watch", "add --watch")
    store, found = _found(ref, home)
    place = project_root() / dest
    if place.is_dir() or dest.endswith("/"):
        place = place / _file_name(found)
    with translated(), transfer_bar(place.name) as progress:
        store.fetch_blob(found.digest, place, progress)
    if as_json:
        print_json(
            {"ref": ref, "path": str(place), "digest": found.digest, "size_bytes": found.size_bytes}
        )
    else:
        click.echo(f"{place}  {human_bytes(found.size_bytes)}  {found.digest[:19]}…  verified")
    return 0


def _pointer(ref: str, home: str | None) -> tuple[ObjectStore, str]:
    """The pointer to follow, and its store; no ledger is opened."""
    address = parse_address(ref, project_root())
    if address is not None:
        return open_place(address.store), address.name
    if ref.startswith(("run:", "sha256:")):
        raise UsageError(f"{ref} never changes", "--watch follows a pointer: NAME or STORE#NAME")
    name = pointer_name(ref.removeprefix("pointer:"), project_root())
    return open_store(settings(home), project_root()), name


def _found(ref: str, home: str | None) -> tuple[ObjectStore, Resolved]:
    if "#run:" in ref:
        raise UsageError(
            "a run is looked up in the ledger", "in the project: launcher pull run:RUN"
        )
    addressed = resolve(ref, project_root())
    if addressed is not None:
        store, digest, body = addressed
        blob = store.stat_blob(digest)
        shown = body.name if body is not None else digest[7:19]
        # A blob that is not there is the fetch's to say.
        return store, Resolved(digest, blob.size_bytes if blob else 0, "", shown)
    if not ref.startswith(("run:", "pointer:", "sha256:")):
        raise UsageError(f"{ref!r} is no ref", "run:RUN, pointer:NAME, sha256:<hex> or STORE#NAME")
    ws = workspace(home, writing=False)
    with translated():
        return ws.store, resolve_digest(ref, ws.journal, ws.store, project_root())


def _file_name(found: Resolved) -> str:
    """What the file is called in a folder that the user named."""
    name = PurePosixPath(found.shown).name
    return name if name.endswith(found.suffix) else name + found.suffix
