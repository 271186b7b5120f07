"""docs/bucket-layout.md: its commands, typed as they stand there, against what the program wrote."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from tests.e2e.guide import Typed, bash, blocks
from tests.e2e.project import CONFIG, SCORECARD, TEACHER, make_project
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server
from tests.rig.tools import hand_tools

pytestmark = pytest.mark.folder  # has a bucket of its own

COMMANDS = blocks("bucket-layout.md")


@pytest.fixture(scope="module")
def place(
    s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str], Path]:
    """A folder to type in, its environment, and the folder in which the server keeps the prefix."""
    path = hand_tools("aws", "jq")
    top = tmp_path_factory.mktemp("layout")
    bucket = s3_server.bucket()
    url = f"s3://{bucket}/team"
    project = make_project(top / "my project")
    environment = {**s3_server.environment(), "XDG_CACHE_HOME": str(top / "cache")}
    project.environment = {**environment, "LAUNCHER_STORE": url}
    given = ["--config", CONFIG, "--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD]
    done = project.launcher("submit", *given, "--run-id", "a", "--promotion-target", "student")
    assert done.code == 0, done
    work = top / "by hand"
    work.mkdir()
    return (
        work,
        {**os.environ, **environment, "S": url, "PATH": path},
        s3_server.root / bucket / "team",
    )


def typed(place: tuple[Path, dict[str, str], Path], name: str) -> Typed:
    folder, environment, _ = place
    return bash(COMMANDS[name], folder, environment)


def test_what_is_live_and_its_bytes(place: tuple[Path, dict[str, str], Path]) -> None:
    live = typed(place, "live")
    assert re.fullmatch(r"g1 promotion sha256:[0-9a-f]{64} run a by \S+\n", live.stdout), live
    fetched = typed(place, "blob")
    assert fetched.stdout == "student.pt: OK\n", fetched
    data = (place[0] / "student.pt").read_bytes()
    assert hashlib.sha256(data).hexdigest() in live.stdout


def test_the_events_and_the_chain_and_a_changed_segment(
    place: tuple[Path, dict[str, str], Path],
) -> None:
    events = typed(place, "events")
    assert events.returncode == 0, events
    assert " run/a v1 RunRequested " in events.stdout
    assert " pointer/student v2 PromotionConfirmed " in events.stdout
    newest = max((place[2] / "ledger" / "log").iterdir())
    digest = hashlib.sha256(newest.read_bytes()).hexdigest()
    whole = typed(place, "chain")
    assert whole.stdout == f"the chain is whole: sha256:{digest}\n", whole
    second = place[0] / "log" / "000000000002"
    second.write_bytes(second.read_bytes().replace(b"a", b"b", 1))
    broken = typed(place, "chain")
    assert (broken.returncode, broken.stdout) == (
        1,
        "log/000000000003 does not follow the one before it\n",
    )
