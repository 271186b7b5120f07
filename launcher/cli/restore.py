"""restore: a run's folder, rebuilt from the store."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from launcher.cli.common import home_option, json_option, print_json, project_root, workspace
from launcher.cli.terminal import transfer_bar
from launcher.errors import ConflictError, UsageError
from launcher.refs import find_run
from launcher.restoring import Restored, restore_folder
from launcher.retiring import folder_lock, take_back
from launcher.run_contents import Contents, contents_of
from launcher.run_folders import folder_of
from launcher.storage.port import Progress
from launcher.workspace import Workspace, translated
from ledger.decider import RunState
from ledger.projections.storage_alert import human_bytes

__all__ = ["restore_command"]


@click.command(
    "restore",
    help="Rebuild the folder of RUN from the store: every file verified, equal ones left alone.",
    epilog="\b\nExamples:\n  launcher restore 7f3a\n  launcher restore 7f3a /tmp/look\n"
    "  launcher restore 7f3a --root ~/other/checkout",
)
@click.argument("run")
@click.argument("dest", required=False)
@click.option(
    "--root", metavar="DIR", help="Another project root, where the run's was on another machine."
)
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
@json_option
@home_option
def restore_command(
    run: str, dest: str | None, root: str | None, force: bool, as_json: bool, home: str | None
) -> int:
    """Without DEST and --root it is the run's own place, and the ledger hears that the folder is back."""
    if dest and root:
        raise UsageError("DEST is the folder itself, --root a project's", "one of them")
    ws = workspace(home, writing=False)
    with translated():
        state = ws.journal.run(find_run(ws.journal, run))
        assert state.request is not None
        own = ws.documents.run_dir(state.request)
        folder = _folder(state, dest, root)
        in_place = os.path.realpath(folder) == os.path.realpath(own)
        if in_place and state.status == "open":
            raise ConflictError(
                f"run {state.run_id} is open: its folder is at work", "restore it into a DEST"
            )
        if in_place:
            ws.ledger.close()
            ws = workspace(home, writing=True)
        contents = contents_of(state, ws.ledger, ws.store)
        tag_file, note = _tag_file(state, contents, folder, dest, root)
        with transfer_bar("restore") as progress:
            if in_place:
                done = _in_place(ws, state, contents, folder, tag_file, force, progress)
            else:
                done = restore_folder(
                    contents,
                    ws.store,
                    folder,
                    tag_file=tag_file,
                    documents=ws.documents.inside(state),
                    force=force,
                    progress=progress,
                )
    _say(state, done, note, as_json)
    return 0


def _in_place(
    ws: Workspace,
    state: RunState,
    contents: Contents,
    folder: Path,
    tag_file: tuple[Path, str] | None,
    force: bool,
    progress: Progress | None,
) -> Restored:
    with folder_lock(ws, state.run_id):
        done = restore_folder(
            contents, ws.store, folder, tag_file=tag_file, force=force, progress=progress
        )
        if ws.documents.folders.is_retired(state):
            take_back(ws, state.run_id, folder)
        ws.documents.write(state.run_id)
    return done


def _folder(state: RunState, dest: str | None, root: str | None) -> Path:
    """Where the files go. Raises UsageError where nothing says so."""
    request = state.request
    assert request is not None
    if dest:
        return project_root() / dest
    if root:
        if Path(request.output_root).is_absolute():
            raise UsageError(
                f"run {state.run_id} lay outside of its project, in {request.output_root}",
                f"launcher restore {shlex.quote(state.run_id)} DEST",
            )
        return project_root() / root / request.output_root / state.run_id
    if not Path(request.project_root).is_dir():
        raise UsageError(
            f"the project of run {state.run_id}, {request.project_root}, is not on this machine",
            "--root DIR for another checkout of it, or a DEST",
        )
    return folder_of(request)


def _tag_file(
    state: RunState, contents: Contents, folder: Path, dest: str | None, root: str | None
) -> tuple[tuple[Path, str] | None, str | None]:
    """Where a tag file that lies outside the run's folder goes: (folder, path in it); else what to say of it."""
    if contents.tag_file is None or state.request is None:
        return None, None
    place, kept = contents.tag_file
    if dest:
        return (folder, f"outside/{place.name}"), None
    project = Path(os.path.normpath(state.request.project_root))
    if not place.is_relative_to(project):
        pull = f"launcher pull {kept.digest} {shlex.quote(str(place))}"
        return None, f"the tag file lay outside of the project: {pull}"
    top = project_root() / root if root else project
    return (top, place.relative_to(project).as_posix()), None


def _say(state: RunState, done: Restored, note: str | None, as_json: bool) -> None:
    if as_json:
        answer: dict[str, Any] = {
            "run_id": state.run_id,
            "folder": str(done.folder),
            "files": done.written + done.equal,
            "written": done.written,
            "written_bytes": done.size_bytes,
            "equal": done.equal,
            "note": note,
        }
        print_json(answer)
        return
    click.echo(
        f"{done.folder}  {done.written} written ({human_bytes(done.size_bytes)}), "
        f"{done.equal} there already, all verified"
    )
    if note:
        click.echo(f"note    {note}")
