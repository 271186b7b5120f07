"""A node that does not answer while runs are on it: its kubelet is killed, and comes back after minutes.

Five runs are on it at once, each held at a gate. Nobody knows whether they run, and it is said; nothing is started
beside them. One ends meanwhile, and its result counts. One is cancelled, and one given up, by somebody who says that
what the node has of it is gone. One is to leave the node, and does so once it is back. The fifth just waits.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fault.cluster_pods import Ended, PodRuns, pod_runs, processes_of
from tests.rig.gate import Gate, gate
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = [*on_cluster, pytest.mark.alone]

_STUDENT = (
    'echo weights > "$CHECKPOINT_DIR/part"; mv "$CHECKPOINT_DIR/part" "$CHECKPOINT_DIR/student.pt"'
)
#: Told to end, it saves nothing more; the second pod goes on from what the first one had saved.
_LEAVES = f"""
if [ -n "${{RESUME_CHECKPOINT:-}}" ]; then echo "goes on from $(cat "$RESUME_CHECKPOINT")"; exit; fi
trap "exit 0" TERM
{_STUDENT}
echo trained
COMING || :
"""
_TOLERATES = (
    "tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute,"
    " tolerationSeconds: 1}]"
)
RUNS = ("waits", "ends", "cancelled", "given-up", "leaves")
_SILENT = "does not answer"
_NO_NODE = "of 1 node, 1 has a taint that it does not tolerate"
_ONCE = {"Intended": 1, "Submitted": 1, "Started": 1, "Succeeded": 1}


@dataclass
class Story:
    """What was seen while the node was away, by run, and how each ended."""

    runs: PodRuns
    doors: Gate
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: str = ""
    pods: dict[str, int] = field(default_factory=dict)
    asked: dict[str, Ended] = field(default_factory=dict)
    ends: dict[str, Ended] = field(default_factory=dict)

    def look(self, run: str, state: str) -> dict[str, Any]:
        """What ``status`` says of the cluster, once it is in this state."""

        def found() -> dict[str, Any]:
            shown = self.runs.launcher("status", run, "--json")
            said = json.loads(shown.said)["cluster"] if shown.code == 0 else None
            return dict(said) if said and said["state"] == state else {}

        return self.runs.until(found)

    def types(self, run: str) -> list[tuple[str, str]]:
        return [(one["type"], one.get("stage") or "") for one in self.runs.events(run)]

    def told(self, run: str, stage: str = "retrain") -> dict[str, int]:
        """How often each thing was said of the stage."""
        said = [kind.removeprefix("Stage") for kind, of in self.types(run) if of == stage]
        wanted = ("Intended", "Submitted", "Started", "Succeeded", "Failed")
        return {kind: said.count(kind) for kind in wanted if kind in said}


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with pod_runs(cluster, tmp_path_factory.mktemp("unreachable")) as runs, gate() as doors:
        made = Story(runs, doors)
        _begun(made)
        cluster.stop("kubelet", "kill")
        try:
            again = _meanwhile(made)
        finally:
            cluster.start("kubelet")
        # The one that is to leave does not go on before it is told to end.
        doors.go(*(f"{run} retrain" for run in RUNS if run != "leaves"))
        made.ends = {run: runs.ended(run) for run in RUNS}
        said, _ = again.communicate(timeout=400)
        made.asked["resume"] = Ended(again.returncode, said)
        yield made


def _begun(story: Story) -> None:
    runs, doors = story.runs, story.doors
    for run in RUNS:
        command = f"{doors.coming}; {_STUDENT}"
        if run == "leaves":
            command = _LEAVES.replace("COMING", doors.coming)
        if run == "cancelled":
            command = "sleep 1000; : unreachable-cancelled"
        more = "LLM_OFF_CMD='echo evaluated'" if run == "ends" else ""
        runs.begin(run, command, _TOLERATES if run == "leaves" else "", more)
    for run in RUNS:
        if run != "cancelled":
            doors.here(f"{run} retrain")
        runs.started(run)
    progress = runs.objects / "runs" / "leaves" / "retrain" / "1" / "progress"
    runs.until(lambda: progress.exists() and any(progress.glob("*/*.json")))
    # Another one is to go on with it.
    runs.begun("given-up").kill()


def _meanwhile(story: Story) -> subprocess.Popen[str]:
    """All while the node is away. Returns the launcher that goes on with what was given up."""
    runs, doors = story.runs, story.doors
    for run in RUNS:
        story.looks[run] = story.look(run, "unreachable")
    story.shown = runs.launcher("status", "waits").said
    doors.go("ends retrain")
    runs.until(lambda: ("StageSubmitted", "llm_off") in story.types("ends"))
    story.looks["ends, then"] = story.look("ends", "unschedulable")
    story.asked["cancel"] = runs.launcher("cancel", "cancelled")
    story.asked["cancel --force"] = runs.launcher("cancel", "cancelled", "--force")
    again = runs.launched("resume", "given-up", "--force")
    runs.until(lambda: story.types("given-up").count(("StageSubmitted", "retrain")) == 2)
    story.looks["given up, then"] = story.look("given-up", "unschedulable")

    # Where all nodes are away, as this one is, the controller may take itself for cut off and send nobody away.
    taint = ("--overwrite", "node.kubernetes.io/unreachable:NoExecute")
    runs.cluster.kubectl("taint", "node", story.looks["waits"]["node"], *taint)

    def sent_away() -> bool:
        [pod] = runs.pods("leaves")
        return "deletionTimestamp" in pod["metadata"]

    runs.until(sent_away)
    story.looks["leaves, then"] = story.look("leaves", "unreachable")
    story.pods = {run: len(runs.pods(run)) for run in RUNS}
    return again


def test_status_says_so_of_each_run(story: Story) -> None:
    for run in (*RUNS, "leaves, then"):
        found = story.looks[run]
        assert found["waits_for"] == f"its node {found['node']} {_SILENT}", found
        assert found["since"], found
        assert found["stage"] == "retrain"
    assert [line for line in story.shown.splitlines() if line.startswith("waits ")], story.shown
    assert f"retrain: its node {story.looks['waits']['node']} {_SILENT}" in story.shown


def test_a_run_whose_node_comes_back_goes_on_as_if_nothing_had_been(story: Story) -> None:
    ended = story.ends["waits"]
    assert ended.code == 0, ended.said
    assert ended.said.count(_SILENT) == 1, ended.said
    assert story.told("waits") == _ONCE
    assert story.doors.came.count("waits retrain") == 1
    assert (story.pods["waits"], len(story.runs.jobs("waits"))) == (1, 1)


def test_a_result_that_is_committed_meanwhile_counts_at_once(story: Story) -> None:
    """Its next stage is submitted, and waits for a node."""
    assert story.looks["ends, then"]["waits_for"] == _NO_NODE
    assert story.looks["ends, then"]["stage"] == "llm_off"
    assert story.ends["ends"].code == 0, story.ends["ends"].said
    assert story.doors.came.count("ends retrain") == 1
    assert story.told("ends") == story.told("ends", "llm_off") == _ONCE


def test_it_is_cancelled_by_force_alone(story: Story) -> None:
    refused, done = story.asked["cancel"], story.asked["cancel --force"]
    assert refused.code == 5, refused.said
    assert f"is closed, and is not seen gone: its node {story.looks['cancelled']['node']}" in (
        refused.last
    )
    assert "--force, once you know that it is gone" in refused.last
    assert (done.code, done.last) == (0, "cancelled  cancelled")
    assert story.ends["cancelled"].code == 130, story.ends["cancelled"].said
    assert story.runs.jobs("cancelled") == story.runs.pods("cancelled") == []
    [failed] = story.runs.events("cancelled", "StageFailed")
    assert (failed["cause"], failed["attempt"]) == ("cancelled", 1)
    # The node, which knew nothing of it, ended it when it was back.
    story.runs.until(lambda: not processes_of("unreachable-cancelled"))


def test_it_is_given_up_by_force_and_tried_again_when_there_is_a_node(story: Story) -> None:
    assert story.looks["given up, then"]["waits_for"] == _NO_NODE
    assert story.ends["given-up"].code == -9
    assert story.asked["resume"].code == 0, story.asked["resume"].said
    [failed] = story.runs.events("given-up", "StageFailed")
    assert (failed["cause"], failed["attempt"]) == ("lost", 1)
    assert failed["message"].startswith("given up by force: its node "), failed
    started = story.told("given-up")
    assert (started["Intended"], started["Submitted"], started["Succeeded"]) == (2, 2, 1), started
    assert story.doors.came.count("given-up retrain") == 2


def test_a_pod_that_is_sent_away_is_replaced_once_its_node_has_ended_it(story: Story) -> None:
    assert story.pods["leaves"] == 1
    assert story.ends["leaves"].code == 0, story.ends["leaves"].said
    assert story.told("leaves") == {**_ONCE, "Started": 2}
    [end] = story.runs.events("leaves", "StageSucceeded")
    log = story.runs.blob(end["log_digest"]).decode()
    assert log == "trained\ngoes on from weights\n"


def test_the_books_agree(story: Story) -> None:
    audited = story.runs.launcher("audit")
    assert audited.code == 0, audited.said
    checked = story.runs.launcher("replay", "--check")
    assert checked.code == 0, checked.said
