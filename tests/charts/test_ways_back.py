"""The way back that an alert names is its own pointer's: the chart's CronJob for it, or the launcher's command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.charts.monitoring import made, plain_rules, rules
from tests.charts.rule_tests import alerts, case, fires, text
from tests.rig.helm import builds_helm

pytestmark = builds_helm

_EXEC = "kubectl -n {} exec -it deploy/{}-exporter -- launcher rollback {}"
_CREATE = "kubectl -n distill create job --from=cronjob/{} back-$(date +%s)"


def rollbacks(values: str) -> dict[str, str]:
    """Pointer -> the CronJob of the release that rolls it back, by what it runs."""
    found = {}
    for one in made(values=values):
        if one["kind"] == "CronJob" and "-rollback" in one["metadata"]["name"]:
            pod = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            found[pod["containers"][0]["args"][1]] = one["metadata"]["name"]
    return found


def ways_back(which: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A rule file, and pointer -> what its alerts are to say; ``elsewhere`` is a pointer of another release."""
    if which == "as it stands":
        names = ("student", "checkpoints/live.pt")
        return plain_rules(), {one: _EXEC.format("NAMESPACE", "RELEASE", one) for one in names}
    flags, values = (), which
    if which == "without CronJobs":
        flags, values = ("--set=rollback.enabled=false",), "small"
    jobs = {} if flags else rollbacks(values)
    said = {pointer: _CREATE.format(job) for pointer, job in jobs.items()}
    release = "team" if values == "everything" else "nightly"
    said["elsewhere"] = _EXEC.format("distill", release, "elsewhere")
    return rules(*flags, values=values), said


@pytest.mark.parametrize("which", ["as it stands", "small", "everything", "without CronJobs"])
def test_an_alert_names_the_rollback_of_its_own_pointer(tmp_path: Path, which: str) -> None:
    groups, said = ways_back(which)
    assert len(said) == {"small": 2, "everything": 4, "without CronJobs": 1}.get(which, 2)
    labels = ""
    if found := re.search(r"{(.*),pipeline!", text(groups)):
        labels = f"{found[1]},"
    generation, failures = "pointer_generation", "pipeline_failures_in_a_row"
    every = {f'{generation}{{{labels}pointer="{one}"}}': "1" for one in said}
    tests = [
        _next(
            groups,
            "DistillRunFailed",
            every,
            f'{failures}{{{labels}pipeline="nightly"{_label(pointer)}}}',
            [f"if what is live is bad: {line}"] if line else [],
        )
        for pointer, line in (*said.items(), ("", ""))
    ]
    damaged = [f"if it is what {one} names: {line}" for one, line in sorted(said.items())]
    audit = f'audit_findings{{{labels}check="blobs"}}'
    tests.append(_next(groups, "DistillAuditFailed", every, audit, damaged))
    for rule in alerts(groups):
        rule["annotations"] = {"next": rule["annotations"]["next"]}
    fires(tmp_path, groups, tests)


def _label(pointer: str) -> str:
    return f',pointer="{pointer}"' if pointer else ""


def _next(
    groups: dict[str, Any], name: str, beside: dict[str, str], series: str, last: list[str]
) -> dict[str, Any]:
    """That ``series`` makes the alert say what it always says to type, and then ``last``."""
    (rule,) = (one for one in alerts(groups) if one["alert"] == name)
    first = rule["annotations"]["next"].partition("\n{{")[0]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', series)) | rule["labels"]
    expected = {"exp_labels": labels, "exp_annotations": {"next": "\n".join([first, *last])}}
    test = case(series, "1", set(), beside=beside)
    del test["promql_expr_test"]
    asked = {"eval_time": "48h", "alertname": name, "exp_alerts": [expected]}
    return {**test, "alert_rule_test": [asked]}
