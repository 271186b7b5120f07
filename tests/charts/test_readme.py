"""The chart's README, followed as it stands there, with this cluster's names for those that a team has."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.rig.helm import CHARTS, helm_program
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_PAGE = (CHARTS / "distill-ledger" / "README.md").read_text()
_COMMANDS = dict(re.findall(r"```bash (\w+)\n(.*?)```", _PAGE, re.DOTALL))
_VALUES = re.search(r"```yaml\n(# my-values.yaml\n.*?)```", _PAGE, re.DOTALL)


@dataclass(frozen=True)
class Reader:
    """Who reads the page, in a folder with the charts and their own values."""

    namespace: str
    environment: dict[str, str]
    folder: Path

    def types(self, name: str) -> str:
        command = re.sub(r"\bdistill\b(?!-)", self.namespace, _COMMANDS[name])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def reader(cluster: Cluster, tmp_path: Path) -> Iterator[Reader]:
    assert _VALUES
    assert cluster.s3
    name = f"rig-readme-{os.getpid()}"
    programs = os.pathsep.join(
        str(Path(one).parent) for one in (helm_program(), cluster.program, "/usr/bin/bash")
    )
    environment = {"PATH": f"{programs}:/bin", "HOME": str(tmp_path), **cluster.environment()}
    (tmp_path / "charts").symlink_to(CHARTS)
    host, _, port = cluster.s3.endpoint.partition("//")[2].partition(":")
    theirs = {
        "registry.example.com/distill-ledger:0.1.0": cluster.agent_image,
        "registry.example.com/game:1": cluster.bash_image,
        "s3://BUCKET/PREFIX": cluster.bucket(),
        "AWS_REGION: us-east-1": f"AWS_REGION: us-east-1, AWS_ENDPOINT_URL: '{cluster.s3.endpoint}'",
        "10.0.0.7/32}}], ports: [443]": f"{host}/32}}}}], ports: [{port}]",
    }
    text = _VALUES[1]
    for written, here in theirs.items():
        assert written in text
        text = text.replace(written, here)
    (tmp_path / "my-values.yaml").write_text(text)
    try:
        yield Reader(name, environment, tmp_path)
    finally:
        cluster.tried("-n", name, "delete", "pods", "--all", "--grace-period=1", "--wait=false")
        cluster.tried("delete", "namespace", name, "--wait=false")


def test_it_works_word_for_word(reader: Reader, cluster: Cluster) -> None:
    reader.types("namespace")
    said = reader.types("install")
    assert "all 12 that a run takes" in said
    assert "live    student g1 = nightly-" in reader.types("first")
    assert "succeeded" in reader.types("look")
    # Another night.
    job = json.loads(
        cluster.kubectl(
            *("-n", reader.namespace, "create", "job", "second", "--from=cronjob/nightly"),
            *("--dry-run=client", "-o", "json"),
        )
    )
    slot = "batch.kubernetes.io/cronjob-scheduled-timestamp"
    job["metadata"]["annotations"] = {slot: "2026-01-02T02:00:00Z"}
    cluster.kubectl("-n", reader.namespace, "create", "-f", "-", given=json.dumps(job))
    done = ("-n", reader.namespace, "wait", "--for=condition=complete", "job/second")
    cluster.kubectl(*done, "--timeout=120s")
    assert "live: student g3 = checkpoint of g1" in reader.types("rollback")
    assert "student" in reader.types("release")


def test_its_values_are_what_the_schema_takes_and_every_command_is_typed() -> None:
    assert _VALUES
    assert yaml.safe_load(_VALUES[1])["pipelines"]["nightly"]["schedule"]
    assert set(_COMMANDS) == {"namespace", "install", "first", "look", "rollback", "release"}
