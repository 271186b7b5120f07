"""What a release's monitoring comes to: its rule file and dashboard as helm makes them."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.charts.golden import VALUES
from tests.rig.helm import CHARTS, template

__all__ = ["FILES", "dashboard", "made", "plain_rules", "rules"]

FILES = CHARTS / "distill-ledger" / "files"


def made(*flags: str, values: str = "small") -> list[dict[str, Any]]:
    """The objects of a release with monitoring switched on."""
    on = [f"monitoring.{part}.enabled=true" for part in ("podMonitor", "rules", "dashboard")]
    done = template(
        "distill-ledger", f"--values={VALUES / values}.yaml", f"--set={','.join(on)}", *flags
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def _one(kind: str, name: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name))
    return found


def rules(*flags: str, values: str = "small") -> dict[str, Any]:
    """The groups of the release's PrometheusRule: what a rule file holds."""
    found: dict[str, Any] = _one("PrometheusRule", "", made(*flags, values=values))["spec"]
    return found


def plain_rules() -> dict[str, Any]:
    """The file as it stands."""
    found: dict[str, Any] = yaml.safe_load((FILES / "alerts.yaml").read_text())
    return found


def dashboard(*flags: str) -> dict[str, Any]:
    """The release's dashboard."""
    (text,) = _one("ConfigMap", "-dashboard", made(*flags))["data"].values()
    found: dict[str, Any] = json.loads(re.sub(r"\s+\Z", "", text))
    return found
