"""Every alert, on a real Prometheus that scrapes a real exporter of a real ledger; what they say to type is right."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.charts.bad_night import LABELS, bad_night
from tests.charts.monitoring import rules
from tests.charts.rule_tests import alerts
from tests.charts.test_alerts import LIMITS
from tests.cli.session import GIVEN, Session, make_session, until
from tests.cli.test_exporter import exporter
from tests.rig.helm import builds_helm
from tests.rig.prometheus import Prometheus, prometheus

pytestmark = [builds_helm, pytest.mark.folder]

#: Nothing in a test is older than a few seconds; a miss is told for a day all the same.
SOON = {name: "0.5" for name in LIMITS if name not in ("missedSeconds", "quotaRatio")}
#: Its limit is its own.
MONTHLY = {"schedule": "@monthly", "config": "RETRAIN_CMD=true", "lateSeconds": 10**9}
WELL = {"DistillExporterDown"}


@contextmanager
def watched(session: Session, folder: Path, *flags: str) -> Iterator[tuple[Prometheus, Any]]:
    """The exporter, a Prometheus and the release's rules with limits of a moment; and what ends the exporter."""
    limits = [f"--set-json=monitoring.rules.limits.{name}={value}" for name, value in SOON.items()]
    groups = rules(*limits, f"--set-json=pipelines.monthly={json.dumps(MONTHLY)}")
    for rule in alerts(groups):
        if "for" in rule:
            rule["for"] = "1s"
    with exporter(session, *flags) as (url, process):
        target = url.removeprefix("http://")
        with prometheus(folder, {target: LABELS}, groups) as server:
            yield server, process


def test_a_bad_night_fires_every_alert_and_the_exporter_its_own_when_it_ends(
    tmp_path: Path,
) -> None:
    session = bad_night(make_session(tmp_path / "project", LAUNCHER_QUOTA_BYTES="1"))
    with watched(session, tmp_path / "prometheus", "--audit-every", "24") as (server, process):
        wanted = {rule["alert"] for rule in alerts(rules())} - WELL
        until(lambda: firing(server) >= wanted, f"{sorted(wanted)}: {sorted(firing(server))}")
        assert firing(server) == wanted
        found = server.alerts()
        said = {one["labels"]["alertname"]: one for one in found}
        assert said["DistillRunFailed"]["annotations"]["summary"] == (
            "The last 1 run(s) of nightly failed"
        )
        for name in ("DistillRunFailed", "DistillAuditFailed"):
            (way,) = re.findall(r"cronjob/(\S+)", said[name]["annotations"]["next"])
            assert way == "nightly-rollback", said[name]
        # The runs that were only written down have no results.
        assert of(found, "DistillAuditFailed", "check") == {"blobs", "results"}
        # The Job of weekly's run would be Failed, with 3: it succeeded, and its pointer is held.
        assert of(found, "DistillRunFailed", "pipeline") == {"nightly"}
        late = of(found, "DistillRunLate", "pipeline")
        assert late == {"weekly"}, "one that is paused is not late, nor is one within its own limit"
        assert said["DistillStagePending"]["labels"]["stage"] == "llm_on"
        for one in found:
            assert "<no value>" not in str(one["annotations"]), one
            assert "error" not in one["annotations"]["summary"], one
        _type(session, found)
        process.kill()
        until(lambda: "DistillExporterDown" in firing(server), "an exporter that is down")


def _type(session: Session, found: list[dict[str, Any]]) -> None:
    """What the alerts say to type of the launcher is a command of it that reads, or does what is said."""
    lines = {line for one in found for line in one["annotations"]["next"].splitlines()}
    typed = {said[1] for line in lines if (said := re.search(r" -- launcher (.+)", line))}
    assert {"status", "list --missed", "release student", "unpause nightly"} <= typed
    for command in sorted(typed):
        done = session.launcher(*shlex.split(command))
        # An audit says again what it found.
        assert done.code == (4 if command.startswith("audit") else 0), (command, done)


def test_a_good_night_fires_none(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project", LAUNCHER_QUOTA_BYTES="1TB")
    flags = ("--schedule", "0 2 * * *", "--", "--config", "loop.env", *GIVEN)
    assert session.launcher("cron", "nightly", *flags, "--promotion-target", "student").code == 0
    groups = rules()
    for rule in alerts(groups):
        if "for" in rule:
            rule["for"] = "1s"
    with (
        exporter(session, "--audit-every", "24") as (url, _),
        prometheus(tmp_path / "p", {url.removeprefix("http://"): LABELS}, groups) as server,
    ):
        until(lambda: bool(server.series("distill_ledger_audit_up == 1")), "an audit")
        looked = server.ask("rules")["groups"][0]["lastEvaluation"]
        until(
            lambda: server.ask("rules")["groups"][0]["lastEvaluation"] > looked,
            "an evaluation since",
        )
        # A schedule of once a day has its newest slot up to a day ago.
        assert firing(server) == set()
        assert all(rule["health"] == "ok" for rule in server.ask("rules")["groups"][0]["rules"])


def firing(server: Prometheus) -> set[str]:
    return {one["labels"]["alertname"] for one in server.alerts()}


def of(found: list[dict[str, Any]], alert: str, label: str) -> set[str]:
    """What an alert is about."""
    return {one["labels"][label] for one in found if one["labels"]["alertname"] == alert}
