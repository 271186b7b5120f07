"""Releases of the chart on a real cluster: a namespace with restricted pod security, a bucket, a team's values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.rig.helm import CHARTS, helm
from tests.rig.k8s import Cluster

__all__ = ["SCHEDULED", "Team", "minute", "team"]

#: Where a CronJob's controller writes a slot.
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_LAUNCHER = Path(sys.executable).with_name("launcher")
_SMALL = {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}
_SECONDS = 240


@dataclass(frozen=True)
class Team:
    """``environment`` leads a launcher of this machine to the same store and cluster."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: Mapping[str, str]

    @property
    def store(self) -> tuple[str, int]:
        """Host and port of the store."""
        assert self.cluster.s3
        host, _, port = self.cluster.s3.endpoint.partition("//")[2].partition(":")
        return host, int(port)

    # --- releases ---

    def values(self, **more: Any) -> dict[str, Any]:
        """What every release here has, with ``more`` of the top keys."""
        assert self.cluster.s3
        host, port = self.store
        stages = {
            "image": self.cluster.bash_image,
            "image_pull_policy": "IfNotPresent",
            "resources": {"cpu": "10m", "memory": "64Mi"},
            "grace_seconds": 3,
            "save_seconds": 10,
        }
        where = {"to": [{"ipBlock": {"cidr": f"{host}/32"}}], "ports": [port]}
        return {
            "image": self.cluster.agent_image,
            "project": "game",
            "store": {
                "url": self.environment["LAUNCHER_STORE"],
                "env": {"AWS_ENDPOINT_URL": self.cluster.s3.endpoint, "AWS_REGION": "us-east-1"},
                "secretEnv": {
                    "AWS_ACCESS_KEY_ID": {"secret": "store", "key": "id"},
                    "AWS_SECRET_ACCESS_KEY": {"secret": "store", "key": "secret"},
                },
            },
            "profile": {
                "agent": {"resources": {"cpu": "10m", "memory": "256Mi"}},
                "defaults": stages,
            },
            "pods": {"resources": _SMALL},
            "exporter": {"resources": _SMALL},
            "networkPolicy": {"store": where},
            **more,
        }

    def helm(self, *arguments: str, code: int = 0) -> str:
        """What it printed."""
        done = helm(
            *arguments, f"--namespace={self.namespace}", environment=self.cluster.environment()
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install(self, name: str, values: Mapping[str, Any], *more: str) -> str:
        """Install the release, or bring it up to date."""
        file = self.root / f"{name}.json"
        file.write_text(json.dumps(values))
        chart = str(CHARTS / "distill-ledger")
        return self.helm("upgrade", "--install", name, chart, f"--values={file}", *more)

    # --- what a person types ---

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, given=given)

    def launcher(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a launcher of this machine printed on its standard output."""
        done = subprocess.run(
            [str(_LAUNCHER), *arguments],
            cwd=self.root,
            env={**os.environ, **self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def fire(self, pipeline: str, job: str, slot: str | None = None) -> None:
        """Make a Job of the CronJob as its controller would for that slot, or as a person does."""
        by_hand = ("create", "job", job, f"--from=cronjob/{pipeline}")
        if slot is None:
            self.kubectl(*by_hand)
            return
        made = json.loads(self.kubectl(*by_hand, "--dry-run=client", "-o", "json"))
        made["metadata"]["annotations"] = {SCHEDULED: slot}
        self.kubectl("create", "-f", "-", given=json.dumps(made))

    # --- what became of it ---

    def get(self, *what: str) -> Any:
        return self.cluster.get(self.namespace, *what)

    def pods(self, *labels: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("pods", "-l", ",".join(labels))["items"]
        return found

    def ended(self, job: str, seconds: float = _SECONDS) -> str:
        """Complete or Failed, once it is."""

        def look() -> str | None:
            found = self.get("job", job)["status"].get("conditions") or []
            kinds = [one["type"] for one in found if one["status"] == "True"]
            return next((kind for kind in kinds if kind in ("Complete", "Failed")), None)

        return str(self.cluster.until(look, seconds))

    def log(self, job: str) -> str:
        return self.kubectl("logs", f"job/{job}")

    def log_or_nothing(self, job: str) -> str:
        """What there is of it by now."""
        return self.cluster.tried("-n", self.namespace, "logs", f"job/{job}").stdout

    def events(self) -> list[dict[str, Any]]:
        """All of the ledger, from the bucket itself."""
        assert self.cluster.s3
        bucket = self.environment["LAUNCHER_STORE"].removeprefix("s3://")
        log = self.cluster.s3.root / bucket / "ledger" / "log"
        segments = sorted(log.iterdir()) if log.is_dir() else []
        found = [json.loads(line) for one in segments for line in one.read_text().splitlines()]
        return [one for one in found if "type" in one]

    def facts(self, stream: str) -> list[tuple[str, str | None]]:
        """(type, stage) of a stream's events."""
        return [(e["type"], e["data"].get("stage")) for e in self.events() if e["stream"] == stream]

    def until(self, stream: str, fact: str, stage: str | None = None) -> None:
        self.cluster.until(lambda: (fact, stage) in self.facts(stream), _SECONDS)

    def pointer(self, name: str = "student") -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.launcher("pointers", name, "--json"))
        return said

    def as_account(self, account: str) -> Path:
        """A kubeconfig with its token."""
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        token = self.kubectl("create", "token", account).strip()
        for one in config["users"]:
            one["user"] = {"token": token}
        path = self.root / f"{account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


@contextmanager
def team(cluster: Cluster, root: Path) -> Iterator[Team]:
    """A namespace with the store's Secret, and an empty bucket."""
    root.mkdir(parents=True)
    settings = {"LAUNCHER_STORE": cluster.bucket(), "LAUNCHER_PROJECT": "game"}
    environment = {**cluster.environment(), **settings, "HOME": str(root)}
    with cluster.namespace() as namespace:
        cluster.store_secret(namespace)
        yield Team(cluster, root, namespace, environment)


def minute(ahead: int = 0) -> str:
    """This minute, as a slot of a schedule of every minute; or one that is so far ahead."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return (now + timedelta(minutes=ahead)).strftime("%Y-%m-%dT%H:%M:%SZ")
