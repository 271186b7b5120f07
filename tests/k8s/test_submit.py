"""``submit --executor kubernetes`` without a cluster: what it prints, and what it refuses before anything starts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from launcher.pods import store_code
from launcher.storage.filesystem import FilesystemStore

_LAUNCHER = Path(sys.executable).with_name("launcher")
_PROFILE = """
agent: {image: "agent:1", resources: {}}
store: {claim: shared}
defaults: {image: "stage:1"}
"""
_KUBERNETES = ("--executor", "kubernetes", "--profile", "cluster.yaml", "--dry-run")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("print()\n")
    (tmp_path / "teacher.pt").write_text("a teacher\n")
    (tmp_path / "score.json").write_text("{}")
    (tmp_path / "cluster.yaml").write_text(_PROFILE)
    (tmp_path / "mine.env").write_text(
        "RETRAIN_CMD='python train.py \"$TEACHER_CHECKPOINT\" > {CHECKPOINT_DIR}/s.pt'\nSEED=7\n"
        "API_TOKEN=not-for-anybody\n"
    )
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def submit(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = ("--config", "mine.env", "--run-id", "r")
    teacher = ("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "score.json")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    return subprocess.run(
        [_LAUNCHER, "submit", *given, *teacher, *more],
        cwd=root,
        env={**environment, "KUBECONFIG": "/nowhere"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def with_secret(root: Path) -> None:
    more = "defaults: {image: 'stage:1', secret_env: {API_TOKEN: {secret: s, key: k}}}\n"
    (root / "cluster.yaml").write_text(_PROFILE.replace('defaults: {image: "stage:1"}\n', more))


def test_a_dry_run_prints_the_job_with_the_paths_of_its_pod_and_writes_nothing(root: Path) -> None:
    with_secret(root)
    before = sorted(root.rglob("*"))
    done = submit(root, *_KUBERNETES, "-o", "yaml")
    assert done.returncode == 0, done.stderr
    [job] = yaml.safe_load_all(done.stdout)
    [command] = job["spec"]["template"]["spec"]["containers"]
    said = {one["name"]: one.get("value") for one in command["env"]}
    assert said["TEACHER_CHECKPOINT"] == "/workspace/teacher.pt"
    assert said["RUN_DIR"] == "/workspace/runs/self_distill/r"
    assert said["SEED"] == "7"
    assert said["API_TOKEN"] is None
    assert any("/workspace/runs/self_distill/r/checkpoints/s.pt" in one for one in command["args"])
    assert "not-for-anybody" not in done.stdout
    assert str(root) not in done.stdout
    assert sorted(root.rglob("*")) == before


def test_a_secret_without_a_secret_is_refused_by_its_place_in_the_profile(root: Path) -> None:
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 2
    assert "cluster.yaml: stages.retrain.secret_env.API_TOKEN: missing" in done.stderr


def test_a_problem_of_the_profile_is_named_with_its_file_path_and_line(root: Path) -> None:
    (root / "cluster.yaml").write_text(_PROFILE + "quue: x\n")
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 2
    assert done.stderr.startswith("launcher: cluster.yaml: quue: ")
    assert "(line 5)" in done.stderr


def test_a_store_that_no_pod_reaches_is_refused(root: Path) -> None:
    with_secret(root)
    text = (root / "cluster.yaml").read_text().replace("store: {claim: shared}\n", "")
    (root / "cluster.yaml").write_text(text)
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 2
    assert "pods do not reach a folder of this machine" in done.stderr


def test_what_is_never_stored_needs_a_volume_at_its_path(root: Path) -> None:
    with_secret(root)
    (root / "roms").mkdir()
    (root / "roms" / "crystal.gbc").write_bytes(b"a game")
    with (root / "mine.env").open("a") as config:
        config.write("INPUTS_PRIVATE='roms/*.gbc'\n")
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "launcher: cluster.yaml: stages.retrain.volumes: none of them has /workspace/roms/crystal.gbc, "
        "which INPUTS_PRIVATE names and which is never stored"
    )
    text = (root / "cluster.yaml").read_text().rstrip().removesuffix("}")
    volume = ", volumes: [{claim: roms, mount_path: /workspace/roms}]}\n"
    (root / "cluster.yaml").write_text(text + volume)
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 0, done.stderr


def test_the_code_of_a_project_has_nothing_of_what_is_never_stored(tmp_path: Path) -> None:
    root, store = tmp_path / "project", FilesystemStore(tmp_path / "store")
    (root / "roms").mkdir(parents=True)
    (root / "roms" / "crystal.gbc").write_bytes(b"a game")
    (root / "roms" / "README").write_text("put yours here")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    digest = store_code(store, root, root / "roms" / "crystal.gbc")
    with tarfile.open(fileobj=io.BytesIO(store.read_blob(digest))) as tar:
        assert tar.getnames() == ["roms/README"]


def test_a_project_without_git_says_what_to_do(root: Path) -> None:
    with_secret(root)
    (root / ".git").rename(root / "git-no-more")
    done = submit(root, *_KUBERNETES)
    assert done.returncode == 2
    assert "--code image" in done.stderr
    assert submit(root, *_KUBERNETES, "--code", "image").returncode == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--executor", "kubernetes"),
        ("--profile", "cluster.yaml"),
        ("--code", "image"),
        ("--dry-run", "-o", "yaml"),
    ],
    ids=" ".join,
)
def test_flags_that_do_not_go_together_are_refused(root: Path, flags: tuple[str, ...]) -> None:
    done = submit(root, *flags)
    assert done.returncode == 2
    assert not (root / "runs").exists()


def test_a_run_without_a_cluster_says_so(root: Path) -> None:
    with_secret(root)
    done = submit(root, *_KUBERNETES[:-1])
    assert done.returncode == 2, done.stderr
    assert "launcher: no cluster: " in done.stderr
    assert submit(root, *_KUBERNETES[:-1]).stderr == done.stderr  # the run id is not taken
