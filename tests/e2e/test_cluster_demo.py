"""`make demo EXECUTOR=kubernetes` as a person runs it in a new checkout, small: its pods, its pointer, its books."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.rig.k8s import GPU, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster
from tests.rig.s3 import serving

pytestmark = on_cluster

_ROOT = Path(__file__).parents[2]
_LAUNCHER = Path(sys.executable).with_name("launcher")
_TARGET = "checkpoints/stable/student_cluster.safetensors"
_STAGES = ["llm_on", "relabel", "retrain", "llm_off"]


@dataclass
class Demo:
    """A demo that is over."""

    root: Path
    printed: str
    #: The Jobs' pods as the API server had them, in the order in which they were made.
    pods: list[Any]
    environment: dict[str, str]

    def asked(self, *arguments: str) -> Any:
        """What a reading command answers, as JSON."""
        return json.loads(self.launcher(*arguments, "--json"))

    def launcher(self, *arguments: str) -> str:
        done = subprocess.run(
            [_LAUNCHER, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def of_stage(self, stage: str) -> list[Any]:
        return [p for p in self.pods if p["metadata"]["labels"]["distill-ledger/stage"] == stage]


@pytest.fixture(scope="module")
def demo(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    root = tmp_path_factory.mktemp("demo") / "a checkout"
    _check_out(root)
    space = f"demo-{secrets.token_hex(4)}"
    ours = {n: v for n, v in os.environ.items() if not n.startswith(("LAUNCHER_", "PLANNER_"))}
    ours |= {"DEMO_NAMESPACE": space, "XDG_CACHE_HOME": str(root.parent / "cache")}
    done = subprocess.run(
        ["bash", "scripts/demo.sh", "--set", "EPISODES=40", "--set", "EVAL_EPISODES=20"],
        cwd=root,
        env={**ours, "EXECUTOR": "kubernetes"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        pods = cluster.get(space, "pods", "--sort-by=.metadata.creationTimestamp")["items"]
    finally:
        cluster.tried("delete", "namespace", space, "--wait=false")
    found = {**ours, "LAUNCHER_HOME": "runs/self_distill_cluster"}
    if not cluster.own:
        yield Demo(root, done.stdout, pods, found)
        return
    # Its own server ended with it; what it kept is served again, as `make s3` does it.
    with serving(root / "runs" / "demo-s3") as server:
        yield Demo(
            root, done.stdout, pods,
            {**found, **server.environment(), "LAUNCHER_STORE": "s3://demo/cluster"},
        )  # fmt: skip


def _check_out(root: Path) -> None:
    """This checkout's files as they are now, and its environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (_ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(_ROOT / name, root / name)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".git" / "info" / "exclude").write_text(".venv\n")
    (root / ".venv").symlink_to(sys.prefix)


def test_the_good_student_is_live_again_and_the_books_agree(demo: Demo) -> None:
    listed = demo.asked("list")["runs"]
    bad, good = (one["run_id"] for one in listed)
    assert [one["status"] for one in listed] == ["succeeded"] * 2
    (pointer,) = [one for one in demo.asked("pointers") if one["name"] == _TARGET]
    live = pointer["live"]
    assert (live["generation"], live["kind"], live["origin"]) == (3, "rollback", 1)
    assert (live["run_id"], pointer["held"]) == (good, True)
    demo.launcher("audit")
    student = (demo.root / _TARGET).read_bytes()
    for run, same in ((good, True), (bad, False)):
        demo.launcher("pull", f"run:{run}", f"{run}.safetensors")
        assert ((demo.root / f"{run}.safetensors").read_bytes() == student) is same


def test_each_stage_is_one_restricted_pod_that_asks_for_what_its_profile_says(demo: Demo) -> None:
    stages = [pod["metadata"]["labels"]["distill-ledger/stage"] for pod in demo.pods]
    assert stages == _STAGES * 2
    for pod in demo.pods:
        spec = pod["spec"]
        assert pod["status"]["phase"] == "Succeeded"
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["initContainers"], *spec["containers"]):
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
    gpus = {
        stage: {_command(pod)["resources"]["limits"].get(GPU) for pod in demo.of_stage(stage)}
        for stage in _STAGES
    }
    assert gpus == {"llm_on": {None}, "relabel": {None}, "retrain": {"1"}, "llm_off": {"1"}}


def test_the_planner_stands_beside_the_capture_alone_and_made_its_plans(demo: Demo) -> None:
    for stage in _STAGES:
        for pod in demo.of_stage(stage):
            beside = {one["name"] for one in pod["spec"]["initContainers"]}
            told = {one["name"] for one in _command(pod)["env"]}
            assert ("planner" in beside) is (stage == "llm_on")
            assert ("PLANNER_BASE_URL" in told) is (stage == "llm_on")
    good = demo.asked("list")["runs"][1]["run_id"]
    shutil.rmtree(demo.root / "runs" / "self_distill_cluster" / good)
    demo.launcher("restore", good)
    artifacts = demo.root / "runs" / "self_distill_cluster" / good / "artifacts"
    planlets = (artifacts / "planlets.jsonl").read_text().splitlines()
    assert {json.loads(one)["metadata"]["planner"] for one in planlets} == {"chat:rules"}
    assert (artifacts / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_prints_ends_with_what_to_type_next(demo: Demo) -> None:
    _, _, following = demo.printed.partition("What to type next")
    assert f"launcher status {demo.asked('list')['runs'][1]['run_id']}" in following
    assert "Traceback" not in demo.printed


def _command(pod: Any) -> Any:
    (found,) = pod["spec"]["containers"]
    return found
