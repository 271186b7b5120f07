"""A real Prometheus for the tests: Debian's, with the rules and targets of a test, on a free port of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.rig.packages import installed_package

__all__ = ["Prometheus", "prometheus", "prometheus_program", "promtool"]

_START_SECONDS = 60.0


def prometheus_program() -> str:
    """The server, installed where that can be done; skips where not."""
    return installed_package("/usr/bin/prometheus", "prometheus")


def promtool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Prometheus' own tool, whatever comes of it."""
    program = installed_package("/usr/bin/promtool", "prometheus")
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass
class Prometheus:
    """A server that answers at ``url``."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API; a query that it refuses is an error with its words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError(f"{parameters}: {exc.read().decode()}") from exc

    def series(self, query: str) -> list[dict[str, Any]]:
        """What an expression comes to now."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Those that fire now."""
        return [one for one in self.ask("alerts")["alerts"] if one["state"] == "firing"]


@contextmanager
def prometheus(
    folder: Path,
    targets: Mapping[str, Mapping[str, str]],
    rules: Mapping[str, Any] | None = None,
    *,
    every: str = "1s",
    path: str = "/metrics",
) -> Iterator[Prometheus]:
    """One that scrapes ``targets`` (HOST:PORT and the labels of its series) and evaluates ``rules`` so often."""
    program = prometheus_program()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "exporter",
                "metrics_path": path,
                "static_configs": [
                    {"targets": [target], "labels": dict(labels)}
                    for target, labels in targets.items()
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(yaml.safe_dump(dict(rules or {"groups": []})))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = Prometheus(f"http://127.0.0.1:{port}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(server, process, folder / "log")
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _wait(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=10):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
