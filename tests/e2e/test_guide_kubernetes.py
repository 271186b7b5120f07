"""docs/guides/kubernetes.md from the namespace to cleaning up: its commands, typed as they stand there.

Not typed are ``docker build`` and ``docker push``: there is no registry here, and the images are the rig's; and what
stands under "Look first". What a reader is to put in is put in: RUN, POD, a namespace that nobody else has, the
profile's numbers.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.guide import Typed, bash, blocks
from tests.e2e.project import LAUNCHER, REPOSITORY, make_project
from tests.rig.demo import filled_in
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_PAGE = "guides/kubernetes.md"
_COMMANDS = blocks(_PAGE)
_SECONDS = 300
_STAGES = ("llm_on", "relabel", "retrain", "llm_off")
_CONFIG = """
PYTHON=.venv/bin/python
LLM_ON_CMD='"$PYTHON" -c "import os; print(os.environ[\\"PLANNER_BASE_URL\\"])" > "$ARTIFACT_DIR/planner.txt"'
RELABEL_CMD='grep -c /v1 "$ARTIFACT_DIR/planner.txt"'
RETRAIN_CMD='echo trained; cat "$TEACHER_CHECKPOINT" > "$CHECKPOINT_DIR/student.pt"'
LLM_OFF_CMD='test -z "${PLANNER_BASE_URL:-}" && cat "$STUDENT_CHECKPOINT"'
"""


@dataclass(frozen=True)
class Reader:
    """Somebody with a project, a cluster, a bucket, and this repository at ~/distill-ledger."""

    cluster: Cluster
    root: Path
    namespace: str
    environment: dict[str, str]

    def types(self, text: str, **put_in: str) -> Typed:
        """A command of the page with the reader's own names, which has to end well."""
        text = re.sub(r"(namespace |-n )distill\b", rf"\g<1>{self.namespace}", text)
        for name, value in put_in.items():
            text = re.sub(rf"\b{name}\b", value, text)
        done = bash(text, self.root, self.environment, _SECONDS)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done


@pytest.fixture(scope="module")
def reader(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Who has done all of the page up to "The first run"; its run is called ``first``."""
    top, namespace = tmp_path_factory.mktemp("guide"), f"distill-{secrets.token_hex(3)}"
    make_project(top / "project")
    (top / "project" / "mine.env").write_text(_CONFIG)
    (top / "project" / ".gitignore").write_text("runs/\ncheckpoints/\n")
    subprocess.run(["git", "init", "-q", str(top / "project")], check=True)
    (top / "home").mkdir()
    (top / "home" / "distill-ledger").symlink_to(REPOSITORY)
    known = {k: v for k, v in os.environ.items() if not k.startswith(("LAUNCHER_", "XDG_"))}
    path = (LAUNCHER.parent, Path(cluster.program).parent, os.environ["PATH"])
    access = cluster.environment()
    environment = {
        **known,
        **access,
        "HOME": str(top / "home"),
        "PYENV_ROOT": os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv")),
        "PATH": os.pathsep.join(map(str, path)),
    }
    made = Reader(cluster, top / "project", namespace, environment)
    try:
        made.types(_COMMANDS["namespace"])
        made.types(_COMMANDS["profile"])
        profile = top / "project" / "cluster.yaml"
        assert (
            profile.read_bytes()
            == (REPOSITORY / "configs" / "profiles" / "minigrid.yaml").read_bytes()
        )
        profile.write_text(filled_in(cluster, access, namespace))
        environment["LAUNCHER_STORE"] = cluster.bucket()
        yield made
    finally:
        cluster.tried("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def run(reader: Reader) -> str:
    """The first run, which has ended; its id."""
    said = reader.types(_COMMANDS["run"])
    assert "live    student g1 = " in said.stdout + said.stderr, said
    [found] = json.loads(reader.types("launcher list --json").stdout)["runs"]
    return str(found["run_id"])


def test_a_look_first_says_that_all_is_well_and_starts_nothing(reader: Reader) -> None:
    place = reader.environment["LAUNCHER_STORE"].removeprefix("s3://")
    said = reader.types(_COMMANDS["look"].replace("BUCKET/PREFIX", place)).stdout
    assert re.search(r"^ok +cluster ", said, re.MULTILINE), said
    assert said.count("created (server dry run)") == len(_STAGES)
    assert reader.cluster.get(reader.namespace, "jobs,pods")["items"] == []


def test_the_first_run_is_promoted_and_each_way_to_look_at_it_answers(
    reader: Reader, run: str
) -> None:
    """The rows of the table below "The first run", but those that end a run."""
    [pod] = [
        one["metadata"]["name"]
        for one in reader.cluster.get(reader.namespace, "pods")["items"]
        if one["metadata"]["labels"]["distill-ledger/stage"] == "retrain"
    ]
    rows = {}
    for row in _table("you want"):
        for command in re.findall(r"`((?:launcher|kubectl) [^`]+)`", row):
            if " cancel " not in command and " delete " not in command:
                rows[command] = reader.types(command, RUN=run, POD=pod).stdout
    assert rows["launcher status RUN"].startswith(f"{run}  succeeded"), rows
    assert rows["launcher logs RUN retrain -f"] == "trained\n"
    listed = rows["kubectl -n distill get jobs,pods -l distill-ledger/run=RUN"]
    assert listed.count("job.batch/") == listed.count("pod/") == len(_STAGES), listed
    assert "trained\n" in rows["kubectl -n distill logs -f POD -c command"]
    assert rows["kubectl -n distill logs POD -c fetch"]
    assert f"Name:             {pod}" in rows["kubectl -n distill describe pod POD"]


def test_what_is_left_of_a_run_is_cleaned_up(reader: Reader, run: str) -> None:
    assert reader.types(_COMMANDS["cleanup"], RUN=run).stdout.count(" deleted") == len(_STAGES)
    assert reader.cluster.get(reader.namespace, "jobs")["items"] == []
    assert reader.types(f"launcher logs {run} llm_off").stdout == "teacher\n"


def _table(heading: str) -> list[str]:
    """The rows of the page's table whose first column is called so."""
    lines = (REPOSITORY / "docs" / _PAGE).read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows
