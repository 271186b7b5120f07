"""Rules as promtool tests them: what series there are for two days, and what fires then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.rig.prometheus import promtool

__all__ = ["BESIDE", "alerts", "case", "fires", "text"]

#: What stands beside them in every case.
BESIDE = {"up": "1", "quota_bytes": "100", 'stored_bytes{class="run folders"}': "1000"}


def alerts(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules of a file."""
    return [rule for group in groups["groups"] for rule in group["rules"]]


def text(groups: dict[str, Any]) -> str:
    """… as one text."""
    return yaml.safe_dump(groups, width=10_000)


def fires(folder: Path, groups: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    """promtool finds what ``tests`` expect of the rules."""
    (folder / "rules.yml").write_text(yaml.safe_dump(groups))
    (folder / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1h", "tests": tests})
    )
    done = promtool("test", "rules", "tests.yml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def case(
    series: str, value: str, firing: set[str], beside: dict[str, str] | None = None
) -> dict[str, Any]:
    """A test that these alerts fire, and no others, where a series has a value beside what is well."""
    given = {**(BESIDE if beside is None else beside), series: value}
    return {
        "interval": "1h",
        "input_series": [
            {"series": f"distill_ledger_{one}", "values": f"{number}x60"}
            for one, number in given.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "48h",
                "exp_samples": [
                    {"labels": f'{{alertname="{one}"}}', "value": 1} for one in sorted(firing)
                ],
            }
        ],
    }
