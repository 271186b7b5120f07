"""gc --run-dirs: local run folders that the store can rebuild."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click

from launcher import clock
from launcher.audit.report import counted
from launcher.cli.common import confirm, print_json, settings, short_id, workspace
from launcher.cli.driving import is_driven
from launcher.cli.terminal import is_terminal, one_line
from launcher.errors import IntegrityError, LauncherError, UnavailableError
from launcher.folder_survey import Folder, survey_folders
from launcher.retention.keeping import Keeping, keeping
from launcher.retention.reach import DAY_SECONDS, Policy
from launcher.retiring import remove
from launcher.settings import Settings
from launcher.workspace import Workspace, translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["collect_run_dirs"]


def collect_run_dirs(
    *, apply: bool, yes: bool, grace_days: float | None, as_json: bool, home: str | None
) -> int:
    """A dry run unless ``apply``. ``grace_days``: runs that ended later than that keep their folders."""
    ws = workspace(home, writing=apply)
    before = None
    if grace_days:
        before = clock.parse_time(clock.now()).timestamp() - grace_days * DAY_SECONDS

    def driven(run_id: str) -> bool:
        return is_driven(ws, run_id)

    with translated():
        found = survey_folders(ws, driven, ended_before=before, say=_looking_at())
        safe = [folder for folder in found if folder.kept_because is None]
        kept = _kept_in_store(ws, safe, settings(home))
    if not apply:
        _say(found, {}, kept, as_json, applied=False)
        return 0
    if safe and not as_json:
        _rows(found, kept)
    if safe:
        total = sum(folder.size_bytes for folder in safe)
        what = f"Remove {counted(len(safe), 'run folder')}, {human_bytes(total)}?"
        confirm(what, yes=yes)
    with translated():
        after, failed = _removed(ws, safe)
    _say(found, after, kept, as_json, applied=True)
    if failed is not None:
        raise failed
    return 0


def _removed(ws: Workspace, safe: list[Folder]) -> tuple[dict[str, Folder], LauncherError | None]:
    """What became of each; and the first error, after which the others were done all the same."""
    after: dict[str, Folder] = {}
    failed: LauncherError | None = None
    for folder in safe:
        try:
            after[folder.run_id] = remove(ws, folder, lambda run_id: is_driven(ws, run_id))
        except UnavailableError as exc:
            failed = failed or exc
            after[folder.run_id] = replace(folder, kept_because=exc.message)
    return after, failed


def _kept_in_store(
    ws: Workspace, safe: list[Folder], chosen: Settings
) -> dict[str, Keeping] | LauncherError:
    """How long the store keeps each; or why that is not known, which is no reason to keep a folder."""
    policy = Policy(chosen.gc_grace_days * DAY_SECONDS, chosen.gc_keep)
    now = clock.parse_time(clock.now()).timestamp()
    try:
        return keeping(ws, [folder.run_id for folder in safe], policy, now) if safe else {}
    except IntegrityError as exc:
        return exc


def _looking_at() -> Any:
    """Hashing takes its time: on a terminal, say of what."""
    if not is_terminal():
        return None
    return lambda run_id: click.echo(f"looking at {short_id(run_id)}", err=True)


def _rows(found: list[Folder], kept: dict[str, Keeping] | LauncherError) -> None:
    if isinstance(kept, LauncherError):
        click.echo(f"warning: how long the store keeps runs is not known: {kept.message}", err=True)
        kept = {}
    for folder in found:
        name = short_id(folder.run_id)
        if folder.kept_because is None:
            size = f"{counted(folder.files, 'file')}, {human_bytes(folder.size_bytes)}"
            click.echo(f"safe    {name}  {size}{_in_store(kept.get(folder.run_id))}  {folder.path}")
        else:
            click.echo(f"kept    {name}  {one_line(folder.kept_because)}")


def _in_store(keeps: Keeping | None) -> str:
    if keeps is None:
        return ""
    if keeps.why is not None:
        return f", in the store for {one_line(keeps.why)}"
    return f", in the store until {_time(keeps.until)} at least"


def _time(epoch: float | None) -> str | None:
    if epoch is None:
        return None
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(
    found: list[Folder],
    after: dict[str, Folder],
    kept: dict[str, Keeping] | LauncherError,
    as_json: bool,
    *,
    applied: bool,
) -> None:
    safe = [folder for folder in found if folder.kept_because is None]
    gone = [folder for folder in after.values() if folder.kept_because is None]
    if as_json:
        print_json(
            {
                "applied": applied,
                "removed": [_safe_row(folder, kept) for folder in gone],
                "safe": [_safe_row(f, kept) for f in safe if f.run_id not in after],
                "kept": [
                    {**_row(folder), "why": folder.kept_because}
                    for folder in (after.get(one.run_id, one) for one in found)
                    if folder.kept_because is not None
                ],
            }
        )
        return
    if not applied:
        _rows(found, kept)
        total = human_bytes(sum(folder.size_bytes for folder in safe))
        more = "; launcher gc --run-dirs --apply removes them" if safe else ""
        click.echo(f"{counted(len(safe), 'run folder')} can go, {total}{more}")
        return
    if not safe:
        _rows(found, kept)
    for folder in after.values():
        if folder.kept_because is not None:
            click.echo(f"kept    {short_id(folder.run_id)}  {one_line(folder.kept_because)}")
    total = human_bytes(sum(folder.size_bytes for folder in gone))
    click.echo(f"{counted(len(gone), 'run folder')} removed, {total}")
    if gone:
        click.echo(f"undo    launcher restore {short_id(gone[0].run_id)}")


def _safe_row(folder: Folder, kept: dict[str, Keeping] | LauncherError) -> dict[str, Any]:
    keeps = None if isinstance(kept, LauncherError) else kept.get(folder.run_id)
    known = keeps and {"until": _time(keeps.until), "why": keeps.why}
    return {**_row(folder), "store_keeps": known}


def _row(folder: Folder) -> dict[str, Any]:
    return {
        "run_id": folder.run_id,
        "path": str(folder.path),
        "files": folder.files,
        "size_bytes": folder.size_bytes,
    }
