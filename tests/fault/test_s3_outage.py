"""A bucket that is away for a while: a run outlasts it, and no stage is run twice for it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.session import LAUNCHER, until
from tests.e2e.project import CONFIG, SCORECARD, TARGET, TEACHER, Project, make_project
from tests.rig.fault_proxy import FaultProxy, Request, answer, proxied
from tests.rig.s3 import S3Server, s3_server

__all__ = ["s3_server"]

GIVEN = ("--config", CONFIG, "--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD)
#: Ends when somebody says so, and notes each time that it was begun.
RETRAIN = """RETRAIN_CMD=echo begun >> begun.txt
while [ ! -e go ]; do sleep 0.05; done
echo "$RUN_ID" > "$CHECKPOINT_DIR/s.pt"
touch ended"""


@dataclass
class Outage:
    """A project whose store is in a bucket behind ``proxy``, that answers 503 while ``away`` is set."""

    project: Project
    proxy: FaultProxy
    away: threading.Event
    refusals: list[Request]

    def submit(self, **environment: str) -> subprocess.Popen[str]:
        env = {**self.project.environment, "PATH": "/usr/bin:/bin", **environment}
        options = ("--run-id", "a", "--promotion-target", TARGET, "--set", RETRAIN)
        return subprocess.Popen(
            [str(LAUNCHER), "submit", *GIVEN, *options],
            cwd=self.project.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def lines(self, name: str) -> int:
        path = self.project.root / name
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def outage(s3_server: S3Server, tmp_path: Path) -> Iterator[Outage]:
    project = make_project(tmp_path / "my project")
    away, refusals = threading.Event(), list[Request]()

    def is_away(request: Request) -> bool:
        if away.is_set():
            refusals.append(request)
        return away.is_set()

    with proxied(s3_server) as proxy:
        proxy.rule(answer(503, "SlowDown"), times=10**9, when=is_away)
        project.environment = {
            **s3_server.environment(proxy.endpoint),
            "LAUNCHER_STORE": f"s3://{s3_server.bucket()}/team",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        yield Outage(project, proxy, away, refusals)


def test_a_stage_that_ends_while_the_store_is_away_is_kept_when_it_is_back(outage: Outage) -> None:
    run = outage.submit()
    until(lambda: outage.lines("begun.txt") == 1, "the retrain stage began")
    outage.away.set()
    (outage.project.root / "go").touch()
    until((outage.project.root / "ended").exists, "its command ended")
    # Both gave up their usual handful of tries: the supervisor with the outputs, the launcher with its look.
    until(lambda: len(outage.refusals) > 20, "the store was asked again and again")
    assert run.poll() is None
    outage.away.clear()
    out, _ = run.communicate(timeout=90)
    assert run.returncode == 0, out
    assert outage.lines("begun.txt") == 1
    assert out.count("trying again for up to 3600 s") == 1
    assert out.count("the store answers again") == 1
    stages = {s["stage"]: s for s in outage.project.metadata("a")["stages"]}
    assert (stages["retrain"]["status"], stages["retrain"]["attempt"]) == ("completed", 1)
    audit = outage.project.launcher("audit")
    assert audit.code == 0, audit


def test_patience_ends_and_the_run_can_be_resumed(outage: Outage) -> None:
    run = outage.submit(LAUNCHER_PATIENCE="2")
    until(lambda: outage.lines("begun.txt") == 1, "the retrain stage began")
    outage.away.set()
    out, _ = run.communicate(timeout=90)
    assert run.returncode == 5, out
    assert out.splitlines()[-1].startswith("launcher: s3://"), out
    assert "Traceback" not in out
    outage.away.clear()
    (outage.project.root / "go").touch()
    done = outage.project.launcher("resume", "a")
    assert done.code == 0, done
    assert outage.lines("begun.txt") == 1
