"""The dashboard: written by its script, filled by the chart, and every query of it answered by a real Prometheus."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.dashboard import DASHBOARD, document
from scripts.dashboard_picture import Source, draw
from tests.charts.bad_night import LABELS, bad_night, on_a_cluster
from tests.charts.monitoring import dashboard, made
from tests.cli.session import make_session, until
from tests.cli.test_exporter import exporter
from tests.rig.helm import builds_helm
from tests.rig.prometheus import Prometheus, prometheus

pytestmark = [builds_helm, pytest.mark.folder]


def queries(page: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(panel's title, expression), the window as its variable has it first."""
    window = next(v for v in page["templating"]["list"] if v["name"] == "window")["current"]
    for panel in page["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$window", window["value"])


def test_the_file_is_what_its_script_writes() -> None:
    """Stale? ``python -m scripts.dashboard`` writes it."""
    assert DASHBOARD.read_text() == document()


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert 2 * len(panel["title"]) <= 13 * at["w"], f"{panel['title']} is cut off"
        taken |= cells


def test_a_releases_dashboard_shows_its_series_under_its_name() -> None:
    page = dashboard()
    assert page["title"] == "distill-ledger nightly (distill)"
    assert page["uid"] != dashboard("--set=fullnameOverride=other")["uid"]
    assert len(page["uid"]) <= 40, "Grafana takes no longer ones"
    for _, expr in queries(page):
        for selector in re.findall(r"distill_ledger_\w+\{([^}]*)\}", expr):
            assert selector.startswith('namespace="distill",release="nightly"')
        assert len(re.findall(r"distill_ledger_\w+", expr)) == expr.count("{")


def test_the_sidecar_finds_it() -> None:
    (found,) = (
        one
        for one in made("--set=monitoring.dashboard.annotations.grafana_folder=Training")
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "nightly-dashboard"
    )
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Training"}


def test_every_query_is_answered_with_series(tmp_path: Path) -> None:
    """Of a ledger that grows while it is watched: an increase is one only then."""
    session = make_session(tmp_path / "project", LAUNCHER_QUOTA_BYTES="1")
    with (
        exporter(session, "--audit-every", "0.001") as (url, _),
        prometheus(tmp_path / "p", {url.removeprefix("http://"): LABELS}) as server,
    ):
        until(lambda: bool(server.series("distill_ledger_up == 1")), "a first look")
        bad_night(session)
        gpus = "distill_ledger_gpu_seconds_total"
        until(lambda: bool(server.series(gpus)), "a first value")
        on_a_cluster(session, "x", fails=True)
        until(lambda: float(server.series(gpus)[0]["value"][1]) == 20, "one more")
        wanted = dict.fromkeys(queries(dashboard()))
        until(lambda: not _silent(server, wanted), f"series of {_silent(server, wanted)}")
        now = time.time()
        for _, expr in wanted:
            found = server.ask(
                "query_range", query=expr, start=str(now - 60), end=str(now), step="5"
            )
            assert found["result"], expr
        picture = tmp_path / "picture.png"
        draw(Source(server.url, now - 60, now, "1m"), picture)
        assert picture.read_bytes().startswith(b"\x89PNG")


def _silent(server: Prometheus, wanted: dict[tuple[str, str], None]) -> list[str]:
    return [title for title, expr in wanted if not server.series(expr)]


def test_the_picture_of_the_docs_is_a_small_one() -> None:
    picture = DASHBOARD.parents[3] / "docs" / "images" / "dashboard.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000
