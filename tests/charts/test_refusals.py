"""Values that are wrong are refused before anything is made, in a line that says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.charts.golden import VALUES
from tests.rig.helm import builds_helm, template

pytestmark = builds_helm

_PIPELINE = {"schedule": "0 2 * * *", "config": "RETRAIN_CMD=true"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"imagee": "x"}, "additional properties 'imagee' not allowed"),
        ({"image": ""}, "image is not given"),
        ({"project": ""}, "project is not given"),
        ({"store": {"url": ""}}, "store.url is not given"),
        ({"store": {"url": "gs://bucket"}}, "/store/url"),
        ({"store": {"secretEnv": {"KEY": "in plain text"}}}, "/store/secretEnv/KEY"),
        ({"settings": {"AWS_REGION": "x"}}, "AWS_REGION"),
        ({"ledger": {"kind": "postgres"}}, "/ledger/kind"),
        ({"networkPolicy": {"store": {"to": []}}}, "networkPolicy.store.to names nobody"),
        ({"pipelines": {"Nightly": _PIPELINE}}, "Nightly"),
        ({"pipelines": {"rollback": _PIPELINE}}, "rollback"),
        ({"pipelines": {"more": {**_PIPELINE, "schedule": "at two"}}}, "/pipelines/more/schedule"),
        ({"pipelines": {"more": {**_PIPELINE, "overlap": "wait"}}}, "/pipelines/more/overlap"),
        ({"pipelines": {"more": {**_PIPELINE, "lateSeconds": 0}}}, "/pipelines/more/lateSeconds"),
        ({"pipelines": {"more": {**_PIPELINE, "promotionTarget": "a/b.pt"}}}, "promotionTarget"),
        ({"pipelines": {"more": {"schedule": "@daily"}}}, "pipelines.more has no config"),
        (
            {"pipelines": {"more": {**_PIPELINE, "configFrom": {"configMap": "x"}}}},
            "pipelines.more has config and configFrom",
        ),
        (
            {"pipelines": {"more": {**_PIPELINE, "config": "A_CMD=x\nAPI_TOKEN=abc\n"}}},
            "pipelines.more.config gives API_TOKEN a value",
        ),
        ({"profileFrom": {"configMap": "x"}}, "profile and profileFrom.configMap"),
        (
            {"ledger": {"kind": "sqlite"}, "tests": {"run": True}},
            "tests.run needs ledger.kind=store",
        ),
        ({"exporter": {"port": 80}}, "/exporter/port"),
    ],
)
def test_it_is_refused_and_named(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    values = tmp_path / "wrong.yaml"
    values.write_text(json.dumps(wrong))
    done = template("distill-ledger", f"--values={VALUES / 'small.yaml'}", f"--values={values}")
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if said in line], done.stderr
    assert done.stdout == ""
