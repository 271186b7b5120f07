"""What the charts make, kept: ``python -m tests.charts.golden`` writes tests/golden/charts again.

Look at the difference before you commit it: each line of it is a line of somebody's cluster. The tables of the charts'
READMEs are written again too.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.charts.readme import CHARTS, with_table
from tests.rig.helm import template

__all__ = ["CASES", "FOLDER", "VALUES", "objects", "rendered"]

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "charts"
VALUES = Path(__file__).with_name("values")
#: name of a file of values: the chart that it is for.
CASES = {
    "small": "distill-ledger",
    "everything": "distill-ledger",
    "sqlite": "distill-ledger",
    "admin": "distill-ledger-admin",
}


@cache
def rendered(case: str) -> str:
    """What the case's values make."""
    done = template(CASES[case], f"--values={VALUES / case}.yaml")
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(case: str) -> list[dict[str, Any]]:
    """… as objects."""
    return [one for one in yaml.safe_load_all(rendered(case)) if one]


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (FOLDER / f"{case}.yaml").write_text(rendered(case))
    for chart in CHARTS:
        page = chart / "README.md"
        page.write_text(with_table(chart, page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
