"""tags: check the planlets that a relabel stage left; print the schemas that come with the program."""

from __future__ import annotations

from typing import Any

import click

from launcher.cli.common import (
    home_option,
    json_option,
    print_json,
    project_root,
    short_id,
    workspace,
)
from launcher.planlets.schema import SHIPPED, load_schema, shipped_bytes
from launcher.refs import find_run
from launcher.tags import Verdict, validate
from launcher.workspace import translated
from ledger.projections.storage_alert import human_bytes

__all__ = ["tags_command"]

_REJECTED_EXIT = 4


@click.group("tags", help="Check the relabel tags of a run.")
def tags_command() -> None:
    """The group; its commands are below."""


@tags_command.command(
    "validate", help="Check what the relabel stage of RUN left, and record the verdict."
)
@click.argument("run")
@click.option(
    "--schema",
    metavar="FILE|" + "|".join(SHIPPED),
    help="A JSON Schema that every planlet must meet.",
)
@json_option
@home_option
def validate_command(run: str, schema: str | None, as_json: bool, home: str | None) -> int:
    """Exit 0: validated. Exit 4: rejected."""
    loaded = load_schema(schema, project_root()) if schema is not None else None
    ws = workspace(home, writing=True)
    with translated():
        verdict = validate(ws, find_run(ws.journal, run), loaded)
    if as_json:
        print_json(_as_json(verdict))
    else:
        _print(verdict)
    if verdict.status == "validated":
        return 0
    click.echo(f"launcher: {_summary(verdict)}", err=True)
    return _REJECTED_EXIT


@tags_command.command("schema", help="Print a schema that comes with the program.")
@click.argument("name", default=SHIPPED[-1], metavar=f"[{'|'.join(SHIPPED)}]")
def schema_command(name: str) -> int:
    """Its bytes as they are, to be kept beside a project or given to another validator."""
    click.echo(shipped_bytes(name), nl=False)
    return 0


def _summary(verdict: Verdict) -> str:
    checked = verdict.checked
    errors = f"{checked.errors} error{'s' if checked.errors != 1 else ''}"
    return f"the relabel tags of {verdict.run_id} are rejected: {errors}"


def _as_json(verdict: Verdict) -> dict[str, Any]:
    checked, schema = verdict.checked, verdict.schema
    return {
        "run_id": verdict.run_id,
        "status": verdict.status,
        "tag_file": verdict.tag_file,
        "digest": verdict.digest,
        "size_bytes": verdict.size_bytes,
        "form": checked.form if verdict.digest else None,
        "visible_file": verdict.visible,
        "schema": {"name": schema.name, "digest": schema.digest} if schema else None,
        "counts": checked.counts(),
        "errors": [
            {"line": p.line, "index": p.index, "message": p.message} for p in checked.problems
        ],
    }


def _print(verdict: Verdict) -> None:
    checked, schema = verdict.checked, verdict.schema
    click.echo(f"run       {short_id(verdict.run_id)}")
    click.echo(f"tags      {verdict.tag_file}{_what(verdict)}")
    for line in _about_the_file(verdict):
        click.echo(line)
    click.echo(
        f"schema    {schema.name}  {schema.digest[:19]}…"
        if schema
        else "schema    none: planlet_id only"
    )
    click.echo(
        f"planlets  {checked.planlets:,}  valid {checked.valid:,}  errors {checked.errors:,}"
        f"  duplicates {checked.duplicates:,}"
    )
    for problem in checked.problems:
        click.echo(f"error     {problem}")
    if checked.errors > len(checked.problems):
        click.echo(f"          … and {checked.errors - len(checked.problems):,} more")
    click.echo(f"status    {verdict.status}")
    for line in _next(verdict):
        click.echo(line)


def _what(verdict: Verdict) -> str:
    if verdict.digest is None or verdict.size_bytes is None:
        return ""
    form = "JSON Lines" if verdict.checked.form == "lines" else "a JSON array"
    return f"  {form}  {human_bytes(verdict.size_bytes)}  {verdict.digest[:19]}…"


def _about_the_file(verdict: Verdict) -> list[str]:
    """What to know where the visible file is not what was checked."""
    if verdict.digest is None:
        later = "the file that is there now came later and was not checked"
        return [f"note      {later}"] if verdict.visible == "changed" else []
    if verdict.visible == "same":
        return []
    how = {"changed": "has changed since", "missing": "is gone"}.get(
        verdict.visible, "is unreadable"
    )
    return [
        f"note      {verdict.tag_file} {how}; checked was what the stage left, from the store",
        f"          to look at that: launcher pull {verdict.digest} FILE",
    ]


def _next(verdict: Verdict) -> list[str]:
    short = short_id(verdict.run_id)
    if verdict.status == "rejected":
        return [
            f"next      launcher logs {short} relabel",
            "          mend what writes the tags (RELABEL_CMD), then launcher submit again",
        ]
    if verdict.schema is None:
        return [f"next      launcher tags validate {short} --schema {SHIPPED[-1]}   (checks more)"]
    return [f"next      launcher status {short}"]
