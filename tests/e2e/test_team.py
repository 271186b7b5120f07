"""docs/guides/team.md: its commands, typed as they stand there; what was in a folder is in the bucket, and back."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.guide import bash, blocks
from tests.e2e.project import CONFIG, LAUNCHER, SCORECARD, TEACHER, Project, make_project
from tests.rig.s3 import S3Server
from tests.rig.s3 import s3_server as s3_server
from tests.rig.tools import hand_tools

COMMANDS = blocks("guides/team.md")
GIVEN = ["--config", CONFIG, "--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD]

pytestmark = pytest.mark.folder


def typed(project: Project, environment: dict[str, str], name: str) -> str:
    done = bash(COMMANDS[name], project.root, environment)
    assert done.returncode == 0, done
    return done.stdout


def heads(text: str) -> list[str]:
    return re.findall(r"^(\d+:[0-9a-f]{64})  ", text, re.MULTILINE)


def test_a_project_moves_into_a_bucket_and_back(s3_server: S3Server, tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    for run in "ab":
        done = project.launcher("submit", *GIVEN, "--run-id", run, "--promotion-target", "student")
        assert done.code == 0, done
    store = f"s3://{s3_server.bucket()}/team"
    path = f"{LAUNCHER.parent}{os.pathsep}{hand_tools('aws')}"
    environment = {**os.environ, **s3_server.environment(), "S": store, "PATH": path}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    there = typed(project, environment, "there")
    before, after = heads(there)
    assert before == after
    assert "everything that was checked is what was written" in there
    typed(project, environment, "away")
    in_bucket = {**environment, "LAUNCHER_STORE": store}
    project.environment = in_bucket
    assert project.launcher("rollback", "student", "--yes").code == 0
    assert project.launcher("submit", *GIVEN, "--run-id", "c").code == 0

    shutil.rmtree(project.root / "runs" / "self_distill" / "objects.moved")
    back = typed(project, in_bucket, "back")
    assert "everything that was checked is what was written" in back
    home = {k: v for k, v in environment.items() if not k.startswith("AWS_")}
    project.environment = home
    listed = project.launcher("list").out
    assert {"a", "b", "c"} <= set(listed.split()), listed
    assert "student g3 = a" in listed
