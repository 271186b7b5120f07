"""What import-linter cannot see: calls, what is really loaded, and that its lists are whole."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.state_diagram import DOCUMENT, document

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    p for room in ("ledger", "k8s", "launcher") for p in (REPOSITORY / room).rglob("*.py")
)
CONTRACTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
PURE = next(c for c in CONTRACTS if c["name"].startswith("the pure modules"))["source_modules"]  # fmt: skip

#: What asks for the moment or for chance. time.monotonic and time.sleep measure, they do not tell the time.
CLOCK_AND_CHANCE = {
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
    "time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime", "time.ctime",
    "uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getrandom",
}  # fmt: skip
CHANCE_MODULES = {"random", "secrets"}
#: What reads or writes without an import to show for it.
DOING = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_used(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is used, under its full name: ``from uuid import uuid4 as u`` makes u uuid.uuid4."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name if alias.asname else alias.name.partition(".")[0]
                known[alias.asname or top] = top
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in known:
            yield known[node.id]
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            first, _, rest = dotted.partition(".")
            if first in known:
                yield f"{known[first]}.{rest}"


def called(tree: ast.AST) -> set[str]:
    """The plain names that are called."""
    calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
    return {f.id for f in calls if isinstance(f, ast.Name)}


def forbidden(source: str) -> set[str]:
    used = set(names_used(ast.parse(source)))
    return {n for n in used if n in CLOCK_AND_CHANCE or n.partition(".")[0] in CHANCE_MODULES}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from datetime import datetime as d\nd.now()", {"datetime.datetime.now"}),
        ("import datetime\ndatetime.datetime.utcnow()", {"datetime.datetime.utcnow"}),
        ("import time as t\nf = t.time", {"time.time"}),
        ("from time import time", {"time.time"}),
        ("def f():\n    from uuid import uuid4\n    uuid4()", {"uuid.uuid4"}),
        ("import secrets", {"secrets"}),
        ("from random import choice", {"random.choice"}),
        ("import os\nos.urandom(4)", {"os.urandom"}),
        ("import time, uuid\ntime.monotonic(), time.sleep(1), uuid.uuid5", set()),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, found: set[str]) -> None:
    assert forbidden(source) == found


def test_the_clock_and_chance_have_one_home() -> None:
    found = {module_name(p): used for p in SOURCES if (used := forbidden(p.read_text()))}
    assert found.keys() == {"launcher.clock"}, found


def test_pure_modules_do_nothing() -> None:
    pure = [p for p in SOURCES if any(f"{module_name(p)}.".startswith(f"{m}.") for m in PURE)]
    assert {module_name(p) for p in pure} >= set(PURE)
    for path in pure:
        assert not called(ast.parse(path.read_text())) & DOING, path


def test_every_module_that_calls_itself_pure_is_held_to_it() -> None:
    """Its docstring says ``Pure.``; packages on the list hold all that is in them."""
    said = set()
    for path in SOURCES:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        if "Pure." in text.split("\n\n")[0]:
            said.add(module_name(path))
    assert said, "no module says so any more?"
    held = {m for m in said if any(f"{m}.".startswith(f"{p}.") for p in PURE)}
    assert said == held


def test_of_k8s_all_is_pure_but_its_client_and_its_file() -> None:
    """A new module of it is on the list of the pure ones, or here."""
    modules = {module_name(path) for path in SOURCES if path.is_relative_to(REPOSITORY / "k8s")}
    assert modules - set(PURE) == {
        *("k8s", "k8s.client", "k8s.connection", "k8s.inquiry", "k8s.profile_file", "k8s.watch")
    }


def loaded(code: str) -> set[str]:
    """The modules that are loaded after ``code`` ran in a fresh interpreter, from another folder."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=REPOSITORY.parent,
    )
    return set(done.stdout.split("\n")[-2].split())


HEAVY = set(
    "pydantic rich boto3 kubernetes jsonschema sqlite_utils sqlite3 tenacity psutil pathspec dotenv yaml".split()  # noqa: SIM905
)


def test_the_agent_waits_for_nothing_heavy() -> None:
    modules = loaded("import launcher.agent.supervisor")
    assert "launcher.agent.supervisor" in modules
    assert not modules & (HEAVY | {"click", "ledger.events", "ledger.stores", "asyncio"})


def test_the_pure_part_of_k8s_loads_no_client_and_no_launcher() -> None:
    modules = loaded("\n".join(f"import {one}" for one in PURE if one.startswith("k8s.")))
    assert "k8s.manifest" in modules
    assert not {
        one for one in modules if one.split(".")[0] in {"kubernetes", "urllib3", "launcher"}
    }


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_waits_for_nothing_heavy(args: list[str]) -> None:
    modules = loaded(
        "from launcher.cli.main import main\n"
        f"try:\n    main({args})\nexcept SystemExit as left:\n    assert not left.code"
    )
    assert "launcher.cli.main" in modules
    assert not modules & HEAVY
    assert not {
        m for m in modules if m.startswith(("ledger.stores", "ledger.events", "launcher.runner"))
    }


def test_the_diagram_is_the_one_that_the_tables_draw() -> None:
    """Stale? ``python -m scripts.state_diagram`` writes it."""
    assert DOCUMENT.read_text() == document()
