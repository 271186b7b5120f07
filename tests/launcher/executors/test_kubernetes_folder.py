"""A store that is a folder on a shared volume, a ledger in a file, and inputs that are never stored: a whole run."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_LAUNCHER = Path(sys.executable).with_name("launcher")
_PROFILE = """
namespace: {namespace}
agent: {{image: "{agent}", image_pull_policy: IfNotPresent, resources: {{}}}}
store: {{claim: store}}
defaults:
  image: "{image}"
  image_pull_policy: IfNotPresent
  volumes: [{{claim: roms, mount_path: /workspace/roms, read_only: true}}]
"""
_CONFIG = """
LLM_ON_CMD='cat code.txt roms/crystal.gbc > "$ARTIFACT_DIR/played.txt"'
RETRAIN_CMD='cat "$ARTIFACT_DIR/played.txt" "$TEACHER_CHECKPOINT" > "$CHECKPOINT_DIR/student.pt"'
INPUTS_PRIVATE='roms/*.gbc'
"""
_GAME = "a game that nobody may copy\n"


@dataclass(frozen=True)
class Project:
    cluster: Cluster
    root: Path
    store: Path
    environment: dict[str, str]

    def launcher(self, *arguments: str, code: int = 0) -> str:
        """Modes are as asked for: pods are another user, which a launcher's own would not be."""
        done = subprocess.run(
            [_LAUNCHER, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            umask=0,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(cluster: Cluster) -> Iterator[Project]:
    if not cluster.own:
        pytest.skip("its node has no folder that this machine has, too")
    with tempfile.TemporaryDirectory() as folder, cluster.namespace() as namespace:
        root, store = Path(folder, "project"), Path(folder, "store")
        for place in (Path(folder), root, store, root / "roms"):
            place.mkdir(exist_ok=True)
            place.chmod(0o777)
        (root / "code.txt").write_text("code\n")
        (root / "roms" / "crystal.gbc").write_text(_GAME)
        (root / "teacher.pt").write_text("a teacher\n")
        (root / "score.json").write_text("{}")
        (root / ".gitignore").write_text("runs/\n")  # the game is no secret to git
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        names = []
        for claim, place in (("store", store), ("roms", root / "roms")):
            names.append(_volume(cluster, namespace, claim, place))
        (root / "cluster.yaml").write_text(
            _PROFILE.format(
                namespace=namespace, agent=cluster.agent_image, image=cluster.bash_image
            )
        )
        (root / "mine.env").write_text(_CONFIG)
        access = {"KUBECONFIG": str(cluster.kubeconfig), "LAUNCHER_STORE": str(store)}
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LAUNCHER_"))}
        try:
            yield Project(cluster, root, store, {**plain, **access})
        finally:
            cluster.tried("delete", "persistentvolume", *names, "--wait=false")


def _volume(cluster: Cluster, namespace: str, claim: str, place: Path) -> str:
    """A claim that is bound to a folder of the node; returns the volume's name."""
    name = f"rig-{secrets.token_hex(4)}"
    both = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {**both, "hostPath": {"path": str(place), "type": "Directory"}},
    }
    cluster.kubectl("create", "-f", "-", given=json.dumps(volume))
    asked = {"resources": {"requests": both.pop("capacity")}, **both, "volumeName": name}
    cluster.apply(
        namespace,
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim},
            "spec": asked,
        },
    )
    return name


def test_a_run_ends_well_in_a_folder_and_what_is_private_is_nowhere_in_it(
    project: Project,
) -> None:
    submit = (
        *("submit", "--executor", "kubernetes", "--profile", "cluster.yaml", "--run-id", "folder"),
        *("--config", "mine.env", "--promotion-target", "student"),
        *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json"),
    )
    project.launcher(*submit)
    state = json.loads(project.launcher("status", "folder", "--json"))
    assert state["status"] == "succeeded", state
    project.launcher("pull", "pointer:student", "pulled.pt")
    assert (project.root / "pulled.pt").read_text() == f"code\n{_GAME}a teacher\n"
    project.launcher("audit")
    project.launcher("replay", "--check")
    assert "nothing" in project.launcher("gc")
    digest = hashlib.sha256(_GAME.encode()).hexdigest()
    stored = [one for one in project.store.rglob("*") if one.is_file()]
    assert digest not in [one.name for one in stored]
    # The stage's own outputs hold it, as it wrote them; the code that was brought does not.
    holding = [one for one in stored if _GAME.encode() in one.read_bytes()]
    assert len(holding) == 2, holding
    assert any(b"cat code.txt roms" in one.read_bytes() for one in stored)
    _refused_before_the_command(project)


def _refused_before_the_command(project: Project) -> None:
    """The volume has another file by the time that the next run's pod looks at it."""
    (project.root / "mine.env").write_text(_CONFIG + "INFRASTRUCTURE_RETRIES=0\n")
    game = project.root / "roms" / "crystal.gbc"
    other = project.root / "other.yaml"
    text = (project.root / "cluster.yaml").read_text()
    other.write_text(text.replace("claim: roms,", "claim: roms, sub_path: deeper,"))
    (game.parent / "deeper").mkdir(mode=0o777)
    (game.parent / "deeper" / "crystal.gbc").write_text("another game\n")
    said = project.launcher(
        *("submit", "--executor", "kubernetes", "--profile", "other.yaml", "--run-id", "other"),
        *("--config", "mine.env", "--code", "image"),
        *("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json"),
        code=70,
    )
    assert said.splitlines()[-1].endswith("stage=llm_on cause=storage exit_code=70")
    why = project.launcher("status", "other")
    assert "/workspace/roms/crystal.gbc (INPUTS_PRIVATE) is another file on its volume" in why
