"""A stage that leaves 20,000 files, and one that leaves a checkpoint of 2 GiB, which the next one has again: whole,
and carried by containers that may hold 200 MiB."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fault.cluster_pods import PodRuns, pod_runs
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_FILES = 20_000
_FOLDERS = 200
_BYTES = 2 * 1024**3
_MANY = (
    f"for i in {{1..{_FOLDERS}}}; do mkdir $ARTIFACT_DIR/$i; done; "
    f"for i in {{1..{_FILES}}}; do echo planlet $i > $ARTIFACT_DIR/$(( i % {_FOLDERS} + 1 ))/$i; done; "
    'echo weights > "$CHECKPOINT_DIR/student.pt"'
)
#: It says what it wrote while it writes it.
_LARGE = (
    f'head -c {_BYTES} /dev/urandom | tee "$CHECKPOINT_DIR/student.pt" | sha256sum > "$ARTIFACT_DIR/sum"; '
    'cat "$ARTIFACT_DIR/sum"'
)
_AGAIN = "LLM_OFF_CMD='sha256sum < \"$STUDENT_CHECKPOINT\"'"
_LIMIT = {"memory": "200Mi"}


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodRuns]:
    """Both at once."""
    with pod_runs(cluster, tmp_path_factory.mktemp("sizes")) as made:
        try:
            made.begin("large", _LARGE, config=_AGAIN, agent=_LIMIT)
            made.begin("many", _MANY, agent=_LIMIT)
            yield made
        finally:
            made.end()
            shutil.rmtree(made.objects)


def test_a_checkpoint_of_two_gibibytes_is_kept_whole_and_comes_back(runs: PodRuns) -> None:
    ended = runs.ended("large")
    assert ended.code == 0, ended.said
    retrain, llm_off = runs.events("large", "StageSucceeded")
    written = runs.blob(retrain["log_digest"]).decode().split()[0]
    [student] = [one for one in _files(runs, retrain) if one["path"] == "checkpoints/student.pt"]
    assert (student["digest"], student["size_bytes"]) == (f"sha256:{written}", _BYTES)
    with (runs.objects / "blobs" / "sha256" / written[:2] / written).open("rb") as stored:
        assert hashlib.file_digest(stored, "sha256").hexdigest() == written
    assert runs.blob(llm_off["log_digest"]).decode().split()[0] == written
    _was_never_started_again(runs, "large", pods=2)


def test_twenty_thousand_files_are_all_kept_each_as_it_was(runs: PodRuns) -> None:
    ended = runs.ended("many")
    assert ended.code == 0, ended.said
    [end] = runs.events("many", "StageSucceeded")
    found = {one["path"]: one["digest"] for one in _files(runs, end)}
    wanted = {
        f"artifacts/{number % _FOLDERS + 1}/{number}": f"planlet {number}\n"
        for number in range(1, _FILES + 1)
    }
    assert set(found) == {*wanted, "checkpoints/student.pt"}
    for path, text in wanted.items():
        assert found[path] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        assert runs.blob(found[path]) == text.encode()
    _was_never_started_again(runs, "many", pods=1)


def _files(runs: PodRuns, end: dict[str, Any]) -> list[dict[str, Any]]:
    """What the stage left, as its manifest lists it."""
    return list(json.loads(runs.blob(end["manifest_digest"]))["files"])


def _was_never_started_again(runs: PodRuns, run: str, pods: int) -> None:
    """None of our containers met its limit."""
    found = runs.pods(run)
    assert len(found) == pods
    for pod in found:
        assert pod["status"]["phase"] == "Succeeded"
        for one in pod["status"]["initContainerStatuses"]:
            assert (one["restartCount"], one["lastState"]) == (0, {}), one
            [container] = [c for c in pod["spec"]["initContainers"] if c["name"] == one["name"]]
            assert container["resources"]["limits"]["memory"] == _LIMIT["memory"]
