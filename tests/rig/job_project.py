"""What the tests' projects have in common whose stages are Jobs: a folder, a profile, a way to the cluster and to a
bucket, and what is read of their runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.rig.k8s import Cluster
from tests.rig.s3 import client_of

__all__ = [
    "LAUNCHER",
    "agent",
    "environment",
    "events",
    "make_folder",
    "objects",
    "profile",
    "submit",
]

Object = dict[str, Any]

LAUNCHER: Final = Path(sys.executable).with_name("launcher")


def make_folder(root: Path, *ignored: str) -> None:
    """A repository with a teacher and its scorecard; git knows nothing of what is ``ignored``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "teacher.pt").write_text("a teacher\n")
    (root / "score.json").write_text("{}")
    (root / ".gitignore").write_text("".join(f"{one}\n" for one in ignored))
    subprocess.run(["git", "init", "-q", str(root)], check=True)


def submit(run_id: str, *more: str, profile: str = "cluster.yaml", config: str = "") -> list[str]:
    """What is typed after `launcher`; ``config`` is RUN.env where it has no other name."""
    return [
        *("submit", "--executor", "kubernetes", "--profile", profile, "--run-id", run_id),
        *("--config", config or f"{run_id}.env"),
        *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json", *more),
    ]


def agent(cluster: Cluster, secret: str = "store") -> Object:
    """What a profile says of our own containers; their way into the store is this Secret."""
    access = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    endpoint = cluster.environment().get("AWS_ENDPOINT_URL")
    return {
        "image": cluster.agent_image,
        "image_pull_policy": "IfNotPresent",
        "resources": {},
        "env": {"AWS_REGION": "us-east-1", **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})},
        "secret_env": {name: {"secret": secret, "key": key} for name, key in access.items()},
    }


def profile(cluster: Cluster, namespace: str, **defaults: Any) -> Object:
    """The least that a stage needs; a file of it is JSON."""
    stages = {
        "image": cluster.bash_image,
        "image_pull_policy": "IfNotPresent",
        "grace_seconds": 3,
        "save_seconds": 10,
    }
    return {"namespace": namespace, "agent": agent(cluster), "defaults": {**stages, **defaults}}


def environment(cluster: Cluster, store: str) -> dict[str, str]:
    """What leads a launcher to the cluster and to its store, and to nothing else of this project."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LAUNCHER_")}
    return {**ours, **cluster.environment(), "LAUNCHER_STORE": store}


def events(cluster: Cluster, store: str, stream: str) -> list[Object]:
    """All of a stream, in order, from the bucket itself; [] where there is none."""
    lines = [line for one in _segments(cluster, store) for line in one.splitlines()]
    return [one for one in map(json.loads, lines) if one.get("stream") == stream]


def objects(
    cluster: Cluster, namespace: str, kind: str, run_id: str, stage: str | None = None
) -> list[Object]:
    """A run's Jobs, or pods, as the API server has them; of one stage, or of its driver, alone."""
    selector = f"distill-ledger/run={run_id}"
    selector += f",distill-ledger/stage={stage}" if stage else ""
    found: Mapping[str, list[Object]] = cluster.get(namespace, kind, "-l", selector)
    return found["items"]


def _segments(cluster: Cluster, store: str) -> list[bytes]:
    if cluster.s3:
        log = cluster.s3.root / store.removeprefix("s3://") / "ledger" / "log"
        return [one.read_bytes() for one in sorted(log.iterdir())] if log.is_dir() else []
    bucket, _, prefix = store.removeprefix("s3://").partition("/")
    asked, place = client_of(cluster.environment()), {"Bucket": bucket}
    under = f"{prefix}/ledger/log/".lstrip("/")
    pages = asked.get_paginator("list_objects_v2").paginate(**place, Prefix=under)
    keys = sorted(one["Key"] for page in pages for one in page.get("Contents", ()))
    return [asked.get_object(**place, Key=key)["Body"].read() for key in keys]
