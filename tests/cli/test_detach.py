"""What cannot be left alone is refused before anything is made; a run without Jobs has nothing to attach to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.runs import GIVEN, RUN, made_runs

_PROFILE = 'agent: {image: "agent:1"}\ndefaults: {image: "stage:1"}\n'
_JOBS = ("--executor", "kubernetes", "--profile", "cluster.yaml", "--code", "image")


@pytest.mark.parametrize(
    ("where", "flags", "said"),
    [
        ({"LAUNCHER_STORE": "objects"}, _JOBS, "--detach needs a store in a bucket: a driver reaches no folder"),
        ({"LAUNCHER_STORE": "s3://bucket/p", "LAUNCHER_LEDGER": "sqlite"}, _JOBS,
         "--detach needs the ledger in the bucket: a driver reaches no file"),
        ({"LAUNCHER_STORE": "s3://bucket/p"}, (), "--detach needs --executor kubernetes"),
    ],
    ids=["a folder", "a file", "local"],
)  # fmt: skip
def test_a_driver_that_would_reach_nothing_is_refused(
    tmp_path: Path, where: dict[str, str], flags: tuple[str, ...], said: str
) -> None:
    with made_runs(tmp_path / "p", ("retrain", "true")) as runs:
        (runs.root / "cluster.yaml").write_text(_PROFILE)
        before = sorted(runs.root.rglob("*"))
        runs.project.environment |= where
        done = runs.launcher("submit", *GIVEN, "--run-id", RUN, *flags, "--detach")
        assert (done.code, done.out) == (2, "")
        (line,) = done.err.splitlines()
        assert line.startswith(f"launcher: {said}")
        assert sorted(runs.root.rglob("*")) == before


def test_a_run_without_jobs_is_not_attached_to(tmp_path: Path) -> None:
    with made_runs(tmp_path / "p", ("retrain", "true")) as runs:
        assert runs.submit().code == 0
        done = runs.launcher("attach", RUN)
        assert done.code == 2
        assert "has no Jobs" in done.err
        assert "launcher resume" in done.err
