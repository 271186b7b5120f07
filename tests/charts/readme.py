"""The table of a chart's values, made of the comments of its values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.rig.helm import CHARTS as FOLDER

__all__ = ["CHARTS", "rows", "with_table"]

CHARTS = sorted(FOLDER.iterdir())
_START, _END = "<!-- values: made of values.yaml -->", "<!-- end of values -->"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z]\w*):")
_SAID = re.compile(r" *# -- (?P<words>.*)")


def rows(chart: Path) -> Iterator[tuple[str, Any, str]]:
    """(key with dots, its default, what is said of it) of each key that something is said of, in order."""
    values = yaml.safe_load((chart / "values.yaml").read_text())
    above: list[tuple[int, str]] = []
    said: str | None = None
    for line in (chart / "values.yaml").read_text().splitlines():
        if found := _SAID.fullmatch(line):
            said = found["words"]
        elif found := _KEY.match(line):
            depth = len(found["indent"])
            above = [*(one for one in above if one[0] < depth), (depth, found["key"])]
            if said is not None:
                keys = [key for _, key in above]
                yield ".".join(keys), _at(values, keys), said
            said = None


def with_table(chart: Path, page: str) -> str:
    """``page`` with the table of now between its marks."""
    head, _, rest = page.partition(_START)
    _, _, tail = rest.partition(_END)
    table = ["| key | default | |", "|---|---|---|"]
    for key, default, words in rows(chart):
        table.append(f"| `{key}` | `{json.dumps(default)}` | {words.replace('|', chr(92) + '|')} |")
    return f"{head}{_START}\n" + "\n".join(table) + f"\n{_END}{tail}"


def _at(values: Any, keys: list[str]) -> Any:
    for key in keys:
        values = values[key]
    return values
