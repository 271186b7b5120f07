"""The pages say what the program does: every command and option in the reference and none besides, every --json."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from launcher.cli.main import cli

ROOT = Path(__file__).parents[2]
#: Said once, for all commands.
COMMON = {"--home", "--store", "--debug"}
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the words it is called with."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands(cli))


@cache
def sections(page: str, level: str) -> dict[str, str]:
    """By heading, up to the next one of this level or above."""
    text = (ROOT / "docs" / page).read_text()
    parts = re.split(rf"^(?={level} |## )", text, flags=re.MULTILINE)
    return {p.partition("\n")[0].lstrip("# "): p.partition("\n")[2] for p in parts if p}


def options_of(command: click.Command) -> set[str]:
    given = (p for p in command.params if isinstance(p, click.Option))
    return {name for option in given for name in (*option.opts, *option.secondary_opts)}


def told_of(name: str) -> str:
    found = [
        text
        for heading, text in sections("reference.md", "###").items()
        if re.match(rf"`launcher {name}( [^a-z`][^`]*)?`", heading)
    ]
    assert len(found) == 1, f"the reference has {len(found)} sections of launcher {name}"
    return found[0]


def test_there_are_commands() -> None:
    assert {"submit", "rollback", "ledger copy", "tags validate"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_names_every_option_and_none_besides(name: str) -> None:
    quoted = " ".join(re.findall(r"`([^`]+)`", told_of(name)))
    # What is quoted of another command (`audit --expect-head`) is that command's.
    own = re.sub(r"(?:audit|pull|launcher) --[a-z-]+", "", quoted)
    options = options_of(COMMANDS[name]) - COMMON
    assert options <= set(_OPTION.findall(quoted))
    assert set(_OPTION.findall(own)) <= options


def test_the_reference_says_what_is_common_and_what_has_no_section_of_its_own() -> None:
    said = sections("reference.md", "###")["Commands"]
    for word in (*COMMON, "--json", "STORE#NAME"):
        assert word in said
    assert "`launcher pointers check [TARGET]`" in told_of("pointers")
    assert "`launcher pull --watch NAME DEST`" in told_of("pull")


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if "--json" in options_of(c)])
def test_every_document_has_a_section(name: str) -> None:
    headings = sections("json.md", "##")
    assert any(f"`launcher {name}`" in heading for heading in headings), name


def named_in(file: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}


def test_every_fault_names_tests_that_exist() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| what |", "| where |"))
    ]
    assert len(rows) > 40
    for row in rows:
        cells = row.strip("| ").split(" | ")
        named = re.findall(r"`(tests/[^`]*)`", cells[-1])
        assert named, f"no test: {row}"
        for one in named:
            place, _, test = one.partition("::")
            found = ROOT / place
            assert found.exists(), one
            if found.is_dir():
                assert list(found.rglob("test_*.py")), one
            elif test:
                assert test in named_in(found), one
            else:
                assert any(n.startswith("test_") for n in named_in(found)), one
