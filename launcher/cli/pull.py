"""pull: a checkpoint to a path, verified."""

from __future__ import annotations

from pathlib import PurePosixPath

import click

from launcher.cli.common import home_option, json_option, print_json, project_root, workspace
from launcher.errors import UsageError
from launcher.refs import Resolved, resolve_digest
from launcher.workspace import translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["pull_command"]


@click.command("pull", help="Fetch a checkpoint to DEST: verified, and there whole or not at all.")
@click.argument("ref")
@click.argument("dest")
@json_option
@home_option
def pull_command(ref: str, dest: str, as_json: bool, home: str | None) -> int:
    if not ref.startswith(("run:", "pointer:", "sha256:")):
        raise UsageError(f"{ref!r} is no ref", "run:RUN, pointer:NAME or sha256:<hex>")
    ws = workspace(home, writing=False)
    place = project_root() / dest
    with translated():
        found = resolve_digest(ref, ws.journal, ws.store, project_root())
        if place.is_dir() or dest.endswith("/"):
            place = place / _file_name(found)
        ws.store.fetch_blob(found.digest, place)
    if as_json:
        print_json(
            {"ref": ref, "path": str(place), "digest": found.digest, "size_bytes": found.size_bytes}
        )
    else:
        click.echo(f"{place}  {human_bytes(found.size_bytes)}  {found.digest[:19]}…  verified")
    return 0


def _file_name(found: Resolved) -> str:
    """What the file is called in a folder that the user named."""
    name = PurePosixPath(found.shown).name
    return name if name.endswith(found.suffix) else name + found.suffix
