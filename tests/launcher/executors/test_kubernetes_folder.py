"""A store that is a folder on a shared volume, a ledger in a file, and inputs that are never stored: a whole run."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import job_project
from tests.rig.cluster_project import ClusterProject
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_CONFIG = """
LLM_ON_CMD='cat code.txt roms/crystal.gbc > "$ARTIFACT_DIR/played.txt"'
RETRAIN_CMD='cat "$ARTIFACT_DIR/played.txt" "$TEACHER_CHECKPOINT" > "$CHECKPOINT_DIR/student.pt"'
INPUTS_PRIVATE='roms/*.gbc'
"""
_GAME = "a game that nobody may copy\n"


@pytest.fixture(scope="module")
def project(cluster: Cluster) -> Iterator[ClusterProject]:
    if not cluster.own:
        pytest.skip("its node has no folder that this machine has, too")
    with tempfile.TemporaryDirectory() as folder, cluster.namespace() as namespace:
        root, store = Path(folder, "project"), Path(folder, "store")
        for place in (Path(folder), root, store, root / "roms"):
            place.mkdir(exist_ok=True)
            place.chmod(0o777)
        job_project.make_folder(root, "runs/")  # the game is no secret to git
        (root / "code.txt").write_text("code\n")
        (root / "roms" / "crystal.gbc").write_text(_GAME)
        names = []
        for claim, place in (("store", store), ("roms", root / "roms")):
            names.append(_volume(cluster, namespace, claim, place))
        (root / "cluster.yaml").write_text(json.dumps(_profile(cluster, namespace)))
        (root / "mine.env").write_text(_CONFIG)
        environment = job_project.environment(cluster, str(store))
        plain = {k: v for k, v in environment.items() if not k.startswith("AWS_")}
        try:
            yield ClusterProject(cluster, root, namespace, plain, umask=0)
        finally:
            cluster.tried("delete", "persistentvolume", *names, "--wait=false")


def _profile(cluster: Cluster, namespace: str, **volume: str) -> dict[str, Any]:
    roms = {"claim": "roms", "mount_path": "/workspace/roms", "read_only": True, **volume}
    made = job_project.profile(cluster, namespace, volumes=[roms])
    del made["agent"]["env"], made["agent"]["secret_env"]
    return {**made, "store": {"claim": "store"}}


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
    project: ClusterProject,
) -> None:
    typed = job_project.submit("folder", "--promotion-target", "student", config="mine.env")
    project.launcher(*typed)
    state = json.loads(project.launcher("status", "folder", "--json"))
    assert state["status"] == "succeeded", state
    project.launcher("pull", "pointer:student", "pulled.pt")
    assert (project.root / "pulled.pt").read_text() == f"code\n{_GAME}a teacher\n"
    project.launcher("audit")
    project.launcher("replay", "--check")
    assert "nothing" in project.launcher("gc")
    digest = hashlib.sha256(_GAME.encode()).hexdigest()
    stored = [
        one for one in Path(project.environment["LAUNCHER_STORE"]).rglob("*") if one.is_file()
    ]
    assert digest not in [one.name for one in stored]
    # The stage's own outputs hold it, as it wrote them; the code that was brought does not.
    holding = [one for one in stored if _GAME.encode() in one.read_bytes()]
    assert len(holding) == 2, holding
    assert any(b"cat code.txt roms" in one.read_bytes() for one in stored)
    _refused_before_the_command(project)


def _refused_before_the_command(project: ClusterProject) -> None:
    """The volume has another file by the time that the next run's pod looks at it."""
    (project.root / "mine.env").write_text(_CONFIG + "INFRASTRUCTURE_RETRIES=0\n")
    game = project.root / "roms" / "crystal.gbc"
    profile = _profile(project.cluster, project.namespace, sub_path="deeper")
    (project.root / "other.yaml").write_text(json.dumps(profile))
    (game.parent / "deeper").mkdir(mode=0o777)
    (game.parent / "deeper" / "crystal.gbc").write_text("another game\n")
    typed = job_project.submit("other", "--code", "image", profile="other.yaml", config="mine.env")
    said = project.launcher(*typed, code=70)
    assert said.splitlines()[-1].endswith("stage=llm_on cause=storage exit_code=70")
    why = project.launcher("status", "other")
    assert "/workspace/roms/crystal.gbc (INPUTS_PRIVATE) is another file on its volume" in why
