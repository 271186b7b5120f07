"""What a run asks of a bucket, by a proxy's own count: a store far away is somebody's server, and costs money."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.project import CONFIG, SCORECARD, TARGET, TEACHER, make_project
from tests.rig.fault_proxy import proxied
from tests.rig.s3 import S3Server, s3_server

pytestmark = pytest.mark.folder  # has buckets of its own

__all__ = ["s3_server"]


@pytest.mark.folder  # has a bucket of its own
def test_a_stage_that_runs_is_seldom_asked_about(s3_server: S3Server, tmp_path: Path) -> None:
    project = make_project(tmp_path / "my project")
    with proxied(s3_server) as proxy:
        project.environment = {
            **s3_server.environment(proxy.endpoint),
            "LAUNCHER_STORE": f"s3://{s3_server.bucket()}/team",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        given = ["--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD]
        command = 'RETRAIN_CMD=sleep 4; echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"'
        options = ["--run-id", "a", "--promotion-target", TARGET, "--set", command]
        done = project.launcher("submit", "--config", CONFIG, *given, *options)
        assert done.code == 0, done
    asked = [f"{r.method} {r.key} {r.status}" for r in proxy.requests if "/retrain/1/" in r.key]
    # Four times a second, as in a folder, it would be more than fifty.
    assert len(asked) <= 25, asked
    assert project.metadata("a")["stages"][2]["status"] == "completed"
    # All in all: four stages, their outputs, the ledger's segments, the promotion, the measurement.
    assert len(proxy.requests) <= 350, len(proxy.requests)
