"""A night of runs on the tests' cluster in a few minutes, and the dashboard's picture of it.

    python -m tests.rig.night MINUTES PICTURE.png

Two pipelines share the one GPU, with a slot a minute; one run fails, one slot is missed, a student is rolled back and
its pointer released. A real exporter and a real Prometheus look on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scripts.dashboard_picture import main as draw
from tests.rig.cluster_project import LAUNCHER, ClusterProject, cluster_project
from tests.rig.k8s import using
from tests.rig.prometheus import Prometheus, prometheus

__all__ = ["main"]

CONFIG = """\
LLM_ON_CMD='sleep $CAPTURE; head -c 3000000 /dev/urandom > "$ARTIFACT_DIR/planlets.bin"'
RETRAIN_CMD='sleep $TRAIN; head -c 6000000 /dev/urandom > "$CHECKPOINT_DIR/student.pt"; exit $FAILS'
LLM_OFF_CMD='sleep 1; echo "{\\"success_rate\\": 0.9}" > "$METADATA_DIR/metrics.json"'
CAPTURE=2
TRAIN=5
FAILS=0
"""
GPU = {"retrain": {"resources": {"gpus": 1}}}
WINDOW = "2m"


def main() -> int:
    minutes, picture = float(sys.argv[1]), sys.argv[2]
    with (
        tempfile.TemporaryDirectory(prefix="distill-ledger-night-") as top,
        using() as cluster,
        cluster_project(cluster, Path(top) / "project") as project,
    ):
        _prepare(project)
        with _watched(project, Path(top)) as server:
            began = time.time()
            _live_through(project, began + minutes * 60)
            time.sleep(3)  # the last ones are scraped too
            ended = time.time()
            print(project.launcher("list"), flush=True)
            sys.argv = ["", server.url, str(began), str(ended), WINDOW, picture]
            return draw()


def _prepare(project: ClusterProject) -> None:
    (project.root / "loop.env").write_text(CONFIG)
    profile = json.loads((project.root / "cluster.yaml").read_text())
    (project.root / "cluster.yaml").write_text(json.dumps({**profile, "stages": GPU}))
    project.environment.update(LAUNCHER_QUOTA_BYTES="256MiB", LAUNCHER_PROJECT="night")


@contextmanager
def _watched(project: ClusterProject, top: Path) -> Iterator[Prometheus]:
    exporter = subprocess.Popen(
        [str(LAUNCHER), "exporter", "--listen=127.0.0.1:0", "--audit-every=0.03"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert exporter.stdout is not None
    target = exporter.stdout.readline().rpartition("http://")[2].strip().removesuffix("/metrics")
    try:
        with prometheus(top / "prometheus", {target: {}}, every="2s") as server:
            yield server
    finally:
        exporter.terminate()
        exporter.wait(60)


def _live_through(project: ClusterProject, end: float) -> None:
    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(_pipeline, project, "ablation", end, TRAIN="9")
        _pipeline(project, "nightly", end, promoting=True)
        others.result()


def _pipeline(
    project: ClusterProject, name: str, end: float, *, promoting: bool = False, **sets: str
) -> None:
    """A slot a minute, as a clock that never sleeps would say it; the work between takes what it takes."""
    slot = datetime(2026, 2, 1, 2, 0, tzinfo=UTC)
    number = 0
    while time.time() < end:
        number += 1
        slot += timedelta(minutes=2 if number == 4 and promoting else 1)  # nobody comes for one
        fails = number == 3 and promoting
        flags = [
            f"--set={key}={value}" for key, value in {**sets, "FAILS": str(int(fails))}.items()
        ]
        command = [
            "cron", name, "--schedule=* * * * *", f"--slot={slot:%Y-%m-%dT%H:%M:%SZ}", "--",
            "--executor=kubernetes", "--profile=cluster.yaml", "--config=loop.env",
            "--teacher-checkpoint=teacher.pt", "--teacher-scorecard=score.json", *flags,
            *(["--promotion-target=student"] if promoting else []),
        ]  # fmt: skip
        done = project.tried(*command)
        print(name, slot, done.returncode, (done.stdout + done.stderr).strip()[-200:], flush=True)
        if promoting and number == 5:
            project.launcher("rollback", "student", "--yes", "--reason=stuck in menus")
        if promoting and number == 6:
            project.launcher("release", "student", "--reason=mended")


if __name__ == "__main__":
    sys.exit(main())
