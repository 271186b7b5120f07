"""A cluster that does not answer is outlasted for as long as a bucket is, wherever the store is."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.fault.runs import GIVEN, RUN, made_runs
from tests.rig.stores import project_store

_PROFILE = """
agent: {image: "agent:1", resources: {}}
store: {claim: shared}
defaults: {image: "stage:1"}
"""


def _kubeconfig(port: int) -> str:
    named = {"name": "c"}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{**named, "user": {"token": "t"}}],
            "contexts": [{**named, "context": {"cluster": "c", "user": "c"}}],
            "current-context": "c",
        }
    )


def test_an_api_server_that_is_away_is_said_once_and_awaited(tmp_path: Path) -> None:
    with (
        socket.socket() as nobody,
        made_runs(tmp_path / "p", ("retrain", "true")) as runs,
    ):
        nobody.bind(("127.0.0.1", 0))  # and never listens
        config = runs.root / "kubeconfig"
        config.write_text(_kubeconfig(nobody.getsockname()[1]))
        (runs.root / "cluster.yaml").write_text(_PROFILE)
        runs.project.environment |= {"KUBECONFIG": str(config), "LAUNCHER_PATIENCE": "3"}
        cluster = ("--executor", "kubernetes", "--profile", "cluster.yaml", "--code", "image")
        done = runs.launcher("submit", *GIVEN, "--run-id", RUN, *cluster)
        assert done.code == 5, done
        assert done.err.count("trying again for up to 3 s") == 1, done.err
        assert "the API server does not answer" in done.err.splitlines()[-1], done.err
        if not project_store(runs.root):
            assert runs.types()[-1] == "StageIntended"
