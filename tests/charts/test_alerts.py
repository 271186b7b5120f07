"""The alerts: valid as they stand and as the chart makes them, each fires when it should and not before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli.main import COMMANDS
from tests.charts.monitoring import FILES, made, plain_rules, rules
from tests.charts.rule_tests import BESIDE, alerts, case, fires, text
from tests.rig.helm import CHARTS, builds_helm
from tests.rig.prometheus import promtool

pytestmark = builds_helm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "alerts.md"
TEXT = (FILES / "alerts.yaml").read_text()
LIMITS: dict[str, float] = yaml.safe_load((CHARTS / "distill-ledger" / "values.yaml").read_text())[
    "monitoring"
]["rules"]["limits"]
#: alert: (series that make it fire after two days, and the same a little better). Moments are seconds from the
#: test's start.
CASES = {
    "DistillRunFailed": (
        ['pipeline_failures_in_a_row{pipeline="nightly"}', "1"],
        ['pipeline_failures_in_a_row{pipeline="nightly"}', "0"],
    ),
    "DistillSlotMissed": (
        ['pipeline_newest_missed_timestamp_seconds{pipeline="nightly"}', "90000"],
        ['pipeline_newest_missed_timestamp_seconds{pipeline="nightly"}', "86000"],
    ),
    "DistillRunLate": (
        ['pipeline_newest_slot_timestamp_seconds{pipeline="nightly"}', "79000"],
        ['pipeline_newest_slot_timestamp_seconds{pipeline="nightly"}', "80000"],
    ),
    "DistillNothingPromoted": (
        ['pointer_live_timestamp_seconds{pointer="student"}', "-440000"],
        ['pointer_live_timestamp_seconds{pointer="student"}', "-430000"],
    ),
    "DistillStagePending": (
        ['stage_waiting_since_timestamp_seconds{stage="retrain"}', "169000"],
        ['stage_waiting_since_timestamp_seconds{stage="retrain"}', "170000"],
    ),
    "DistillStorageOverQuota": (
        ['stored_bytes{class="students"}', "91"],
        ['stored_bytes{class="students"}', "89"],
    ),
    "DistillAuditFailed": (
        ['audit_findings{check="blobs"}', "1"],
        ['audit_findings{check="blobs"}', "0"],
    ),
    "DistillAuditLate": (["audit_up", "0"], ["audit_up", "1"]),
    "DistillExporterDown": (["up", "0"], ["up", "1"]),
    "DistillPointerHeld": (
        ['pointer_held_since_timestamp_seconds{pointer="student"}', "86000"],
        ['pointer_held_since_timestamp_seconds{pointer="student"}', "87000"],
    ),
    "DistillPipelinePaused": (
        ['pipeline_paused{pipeline="nightly"}', "1"],
        ['pipeline_paused{pipeline="nightly"}', "0"],
    ),
}
_LATE = "DistillRunLate"
_PIPELINE = {"schedule": "@hourly", "config": "RETRAIN_CMD=true"}
_UP = {'up{namespace="distill",release="nightly"}': "1"}


def test_there_is_a_case_and_a_section_for_every_alert() -> None:
    names = [rule["alert"] for rule in alerts(plain_rules())]
    assert set(names) == set(CASES)
    assert re.findall(r"^## (Distill\w+)$", PAGE.read_text(), re.MULTILINE) == names


def test_what_page_and_alerts_say_to_type_is_there() -> None:
    typed = set(re.findall(r"\blauncher ([a-z]+)\b", PAGE.read_text() + TEXT))
    assert {"status", "release", "unpause"} <= typed <= set(COMMANDS)


@pytest.mark.parametrize("which", ["as it stands", "as the chart makes it"])
def test_prometheus_takes_the_rules(tmp_path: Path, which: str) -> None:
    groups = plain_rules() if which == "as it stands" else rules()
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups))
    done = promtool("check", "rules", "rules.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{len(CASES)} rules found" in done.stdout


# --- what the chart puts in ---


def test_each_number_that_names_a_limit_is_the_default_of_that_value() -> None:
    said = re.findall(r"([0-9.]+) # limits\.(\w+)", TEXT)
    assert {name: float(number) for number, name in said} == LIMITS
    assert TEXT.count("# limits.") == len(said)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_values_is_in_the_rules(name: str) -> None:
    changed = text(rules(f"--set-json=monitoring.rules.limits.{name}=0.125"))
    kept = text(rules())
    number = f"{LIMITS[name]:.15g}"
    assert changed == kept.replace(f"{number} # limits.{name}", f"0.125 # limits.{name}")
    assert changed != kept


def own_limits(**seconds: float) -> dict[str, Any]:
    """The release's groups where these pipelines have a limit of their own, and ``nightly`` the chart's."""
    flags = [
        f"--set-json=pipelines.{name}={json.dumps({**_PIPELINE, 'lateSeconds': limit})}"
        for name, limit in seconds.items()
    ]
    return rules(*flags)


def test_a_pipeline_has_its_own_limit_where_it_gives_one() -> None:
    assert own_limits() == rules()
    (late,) = (one for one in alerts(own_limits(often=60, weekly=7e5)) if one["alert"] == _LATE)
    compared = re.findall(r"(newest_\w+)_timestamp_seconds\{(.*)\} > (.*)", late["expr"])
    assert [(kind, limit) for kind, _, limit in compared] == [
        (kind, limit)
        for kind in ("newest_slot", "newest_success")
        for limit in (
            "93600 # limits.lateSeconds",
            "60 # pipelines.often.lateSeconds",
            "700000 # pipelines.weekly.lateSeconds",
        )
    ]
    of_pipelines = [selector.partition('release="nightly",')[2] for _, selector, _ in compared]
    assert of_pipelines == [
        'pipeline!~"often|weekly"', 'pipeline="often"', 'pipeline="weekly"',
        'pipeline!~"often|weekly",pipeline!=""', 'pipeline="often"', 'pipeline="weekly"',
    ]  # fmt: skip


def test_every_series_is_this_releases_and_every_name_is_its_own() -> None:
    for rule in alerts(rules()):
        for selector in re.findall(r"distill_ledger_\w+\{([^}]*)\}", rule["expr"]):
            assert selector.startswith('namespace="distill",release="nightly"')
        assert len(re.findall(r"distill_ledger_\w+", rule["expr"])) == rule["expr"].count("{")
        said = yaml.safe_dump(rule["annotations"])
        assert not re.search("RELEASE|NAMESPACE", said)
        assert "kubectl -n distill " in said
    other = alerts(rules("--set=monitoring.selector=team=blue"))
    assert all("{team=blue" in rule["expr"] for rule in other)


def test_the_pod_monitor_finds_the_exporter_and_its_port() -> None:
    objects = made()
    (monitor,) = (one for one in objects if one["kind"] == "PodMonitor")
    (exporter,) = (one for one in objects if one["kind"] == "Deployment")
    labels = exporter["spec"]["template"]["metadata"]["labels"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = exporter["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert endpoint["port"] in {port["name"] for port in ports}
    assert endpoint["relabelings"] == [{"targetLabel": "release", "replacement": "nightly"}]


def test_without_an_exporter_there_is_nothing_to_watch() -> None:
    for flags in (("--set=exporter.enabled=false",), ("--set=ledger.kind=sqlite",)):
        kinds = {one["kind"] for one in made(*flags)}
        assert not kinds & {"PodMonitor", "PrometheusRule"}


# --- when they fire ---


@pytest.mark.parametrize("kind", ["slot", "success"])
def test_each_pipeline_is_late_by_its_own_limit(tmp_path: Path, kind: str) -> None:
    moment = f'pipeline_newest_{kind}_timestamp_seconds{{namespace="distill",release="nightly",'
    # After two days: 93800 s ago, which is more than the chart's limit, and 70 s ago.
    old, new = "79000", "172730"
    said = [
        case(f'{moment}pipeline="{name}"}}', value, {_LATE} if late else set(), beside=_UP)
        for name, value, late in (
            ("nightly", old, True),
            ("given-up", old, True),
            ("weekly", old, False),
            ("weekly", "-530000", True),
            ("nightly", new, False),
            ("often", new, True),
        )
    ]
    fires(tmp_path, own_limits(often=60, weekly=7e5), said)


@pytest.mark.parametrize("name", CASES)
def test_it_fires_and_not_before(tmp_path: Path, name: str) -> None:
    bad, good = CASES[name]
    tests = [case(*bad, {name}), case(*good, set())]
    if name == "DistillExporterDown":
        tests.append(case('runs_open{pipeline="x"}', "0", {name}, beside={}))
    if name == "DistillRunLate":
        late = 'pipeline_newest_success_timestamp_seconds{pipeline="nightly"}'
        paused = {**BESIDE, 'pipeline_paused{pipeline="nightly"}': "1"}
        tests.append(case(late, "79000", {name}))
        tests.append(case(late, "79000", {"DistillPipelinePaused"}, beside=paused))
    fires(tmp_path, plain_rules(), tests)
