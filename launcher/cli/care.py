"""storage, replay."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from launcher import clock
from launcher.audit import standing_differences
from launcher.audit.report import counted
from launcher.cli.common import (
    age,
    home_option,
    json_option,
    print_json,
    project_root,
    short_id,
    workspace,
)
from launcher.documents import Difference, write_atomically
from launcher.errors import IntegrityError, UsageError
from launcher.refs import find_run
from launcher.usage import Usage, survey
from launcher.workspace import Workspace, translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["replay_command", "storage_command"]

#: So many runs are shown on a screen, largest folders first; --json has all.
_RUNS_SHOWN: Final = 10


@click.command("storage", help="What is stored, by class, run and pointer, and what may go.")
@json_option
@home_option
def storage_command(as_json: bool, home: str | None) -> int:
    """Reads only; what it calls obsolete is for a person to remove."""
    ws = workspace(home, writing=False)
    with translated():
        usage = survey(ws, uploads=True)
    if as_json:
        print_json(_usage_json(usage))
    else:
        _print_usage(usage)
    return 0


def _usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "store": usage.store,
        "bytes_by_class": dict(usage.classes),
        "stored_bytes": usage.stored_bytes,
        "free_bytes": usage.free_bytes,
        "quota_bytes": usage.quota_bytes,
        "unfinished_uploads": asdict(usage.uploads) if usage.uploads else None,
        "runs": [asdict(run) for run in usage.runs],
        "pointers": [asdict(pointer) for pointer in usage.pointers],
        "obsolete": [item.model_dump() for item in usage.obsolete],
        "obsolete_bytes": sum(item.size_bytes for item in usage.obsolete),
        "unreadable": list(usage.unreadable),
    }


def _print_usage(usage: Usage) -> None:
    click.echo(f"store  {usage.store}")
    for name, size in usage.classes.items():
        click.echo(f"{name:<19}  {size:>15,}  {human_bytes(size):>9}")
    click.echo(f"{'together':<19}  {sum(usage.classes.values()):>15,}")
    if usage.free_bytes is not None:
        click.echo(f"{'free':<19}  {usage.free_bytes:>15,}  {human_bytes(usage.free_bytes):>9}")
    _print_quota(usage)
    if usage.uploads is not None and usage.uploads.count:
        click.echo(
            f"unfinished uploads: {usage.uploads.count}, the oldest begun {age(usage.uploads.since)} ago; "
            "launcher gc ends those that nobody goes on with"
        )
    for pointer in usage.pointers:
        click.echo(
            f"pointer {pointer.name}: {counted(pointer.generations, 'generation')}, "
            f"{human_bytes(pointer.kept_bytes)} in the store, {human_bytes(pointer.backup_bytes)} in backups"
        )
    largest = sorted(usage.runs, key=lambda run: (-run.folder_bytes, run.run_id))
    for run in largest[:_RUNS_SHOWN]:
        click.echo(
            f"run {short_id(run.run_id)}: {run.status}, {human_bytes(run.folder_bytes)} in its folder, "
            f"{human_bytes(run.stored_bytes)} in the store"
        )
    if len(largest) > _RUNS_SHOWN:
        click.echo(f"… and {len(largest) - _RUNS_SHOWN} more runs: --json")
    for folder in usage.unreadable:
        click.echo(f"warning: {folder} could not be read and is not counted", err=True)
    if not usage.obsolete:
        click.echo("obsolete checkpoints: none")
        return
    total = sum(item.size_bytes for item in usage.obsolete)
    click.echo(
        f"obsolete checkpoints: {len(usage.obsolete)}, {human_bytes(total)}; to remove one, from this folder:"
    )
    for item in usage.obsolete:
        click.echo(
            f"  rm -- {shlex.quote(item.path)}   # {human_bytes(item.size_bytes)}, {item.why}"
        )


def _print_quota(usage: Usage) -> None:
    quota, used = usage.quota_bytes, usage.stored_bytes
    if quota is None:
        return
    share = f"  {100 * used / quota:.0f} % used" if quota else ""
    click.echo(f"{'quota':<19}  {quota:>15,}  {human_bytes(quota):>9}{share}")
    if used > quota:
        over = human_bytes(used - quota)
        click.echo(f"warning: the store is {over} over its quota: launcher gc", err=True)


@click.command("replay", help="Rebuild the documents of RUN, or of all runs, from the ledger.")
@click.argument("run", required=False)
@click.option(
    "--check", is_flag=True, help="Compare only, write nothing; exit 4 where one differs."
)
@click.option(
    "--at",
    metavar="TIME|POSITION",
    help="Show the documents as they were then (RFC 3339, or a position of the ledger).",
)
@click.option("--to", "dest", metavar="DIR", help="With --at: write them into this new folder.")
@json_option
@home_option
def replay_command(
    run: str | None,
    check: bool,
    at: str | None,
    dest: str | None,
    as_json: bool,
    home: str | None,
) -> int:
    if check and at:
        raise UsageError(
            "--check compares today's documents; --at shows earlier ones", "one of them"
        )
    if dest and not at:
        raise UsageError("--to needs --at", "today's documents have their places")
    ws = workspace(home, writing=False)
    with translated():
        run_ids = [find_run(ws.journal, run)] if run else ws.journal.run_ids()
        if at:
            return _replay_past(ws, run_ids, at, dest, as_json, named=run is not None)
        differences = standing_differences(ws.documents, run_ids)
    if check:
        return _say_check(ws, run_ids, differences, as_json)
    if run_ids:
        writer = workspace(home, writing=True)
        with translated():
            for run_id in run_ids:
                writer.documents.write(run_id)
    if as_json:
        print_json({"runs": len(run_ids), "rewritten": _rows(ws, differences)})
        return 0
    for row in _rows(ws, differences):
        click.echo(f"rewritten  {row['path']}  ({row['what']})")
    click.echo(f"the documents of {counted(len(run_ids), 'run')} are what the ledger says")
    return 0


def _rows(ws: Workspace, differences: Iterable[Difference]) -> list[dict[str, str]]:
    return [{"path": _shown(ws, d.path), "what": d.what} for d in differences]


def _shown(ws: Workspace, path: Path) -> str:
    return str(path.relative_to(ws.root)) if path.is_relative_to(ws.root) else str(path)


def _say_check(
    ws: Workspace, run_ids: Sequence[str], differences: Sequence[Difference], as_json: bool
) -> int:
    rows = _rows(ws, differences)
    if as_json:
        print_json({"ok": not rows, "runs": len(run_ids), "differences": rows})
    else:
        for row in rows:
            click.echo(f"{row['what']:<8} {row['path']}")
    if rows:
        click.echo(
            f"launcher: {counted(len(rows), 'document')} of {counted(len(run_ids), 'run')} are not "
            "what the ledger says (launcher replay rewrites them)",
            err=True,
        )
        return IntegrityError.exit_code
    if not as_json:
        click.echo(f"the documents of {counted(len(run_ids), 'run')} are what the ledger says")
    return 0


# --- as they were -------------------------------------------------------------------------------------


def _replay_past(
    ws: Workspace, run_ids: list[str], at: str, dest: str | None, as_json: bool, *, named: bool
) -> int:
    position, time = _position(ws, at)
    found = [
        (path, data) for run_id in run_ids for path, data in ws.documents.as_of(run_id, position)
    ]
    if named and not found:
        raise UsageError(f"run {run_ids[0]} was not requested yet at position {position}")
    if dest is not None:
        written = _write_into(ws, project_root() / dest, found)
        click.echo(
            f"position {position}, {time}: {counted(written, 'document')} in {dest}", err=as_json
        )
    if as_json:
        print_json(_past_json(ws, position, time, found))
    elif dest is None:
        click.echo(f"position {position}, {time}")
        for path, data in found:
            click.echo(f"\n{_shown(ws, path)}")
            click.echo(data, nl=False)
    return 0


def _past_json(
    ws: Workspace, position: int, time: str, found: Sequence[tuple[Path, bytes]]
) -> dict[str, Any]:
    documents = [{"path": _shown(ws, path), "text": data.decode()} for path, data in found]
    return {"position": position, "time": time, "documents": documents}


def _position(ws: Workspace, at: str) -> tuple[int, str]:
    """The position that ``at`` names, and its event's time: a TIME is the last event not after it."""
    by_position = at.isascii() and at.isdigit()
    try:
        until = None if by_position else clock.parse_time(at)
    except ValueError as exc:
        example = "2026-01-31T02:00:00Z"
        raise UsageError(
            f"--at {at!r} is neither a position nor an RFC 3339 time such as {example}"
        ) from exc
    last, found = -1, None
    for record in ws.ledger.read_all(int(at) if by_position else 0):
        last = record.position
        if until is None:
            return last, record.time
        if clock.parse_time(record.time) <= until:
            found = (last, record.time)
    if found is not None:
        return found
    if by_position:
        size = ws.ledger.head().size
        raise UsageError(f"the ledger has no position {at}", f"it has {size} events, from 0")
    raise UsageError(f"the ledger has no event at or before {at}")


def _write_into(ws: Workspace, dest: Path, found: Sequence[tuple[Path, bytes]]) -> int:
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UsageError(f"{dest} is there and not empty", "--to wants a new folder")
    for path, data in found:
        inside = path.relative_to(ws.root if path.is_relative_to(ws.root) else path.anchor)
        write_atomically(dest / inside, data)
    return len(found)
