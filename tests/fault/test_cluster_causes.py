"""Why a stage ended, in the program's own words: each cause on a real cluster, early, and not looped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from k8s.pods import seen
from tests.fault.cluster_pods import PodRuns, pod_runs, processes_of
from tests.rig.k8s import GPU, Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster


@dataclass(frozen=True)
class Case:
    """A run of one stage, and what has to be said of its end."""

    cause: str
    says: str
    command: str = "sleep 300"
    profile: str = ""
    config: str = "RETRAIN_RETRIES=1\nINFRASTRUCTURE_RETRIES=0"
    code: int = 70
    attempts: int = 1


_STUBBORN = (
    'trap "" TERM; bash -c "trap \\"\\" TERM; while :; do sleep 0.2; done" {mark} & '
    'echo half > "$CHECKPOINT_DIR/part"; mv "$CHECKPOINT_DIR/part" "$CHECKPOINT_DIR/half.pt"; '
    "while :; do sleep 0.2; done"
)
CASES = {
    "memory": Case(
        "out_of_memory",
        "",
        'x=$(head -c 100m /dev/zero | tr "\\0" x)',
        "resources: {memory: 32Mi}",
        code=137,
    ),
    "volume": Case(
        "application",
        'evicted for its own use of the disk: Usage of EmptyDir volume "workspace" exceeds the limit "8Mi"',
        'head -c 32m /dev/zero > "$ARTIFACT_DIR/big"; sleep 300',
        "workspace_size: 8Mi",
        config="RETRAIN_RETRIES=0",
    ),
    "deadline": Case("timeout", "not done within 8 s", profile="deadline_seconds: 8"),
    "image": Case(
        "image",
        "it waited longer than 4 s: the image 127.0.0.1:1/nothing:1 cannot be had: ",
        profile='image: "127.0.0.1:1/nothing:1"\npending_deadline_seconds: 4',
        config="INFRASTRUCTURE_RETRIES=1",
        attempts=2,
    ),
    "place": Case(
        "unschedulable",
        "it waited longer than 4 s: of 1 node, 1 has too little example.com/none free",
        profile="resources: {extended: {example.com/none: 1}}\npending_deadline_seconds: 4",
    ),
    "quota": Case(
        "unschedulable",
        f"asks for 2 requests.{GPU}, and the quota gpus allows 1",
        profile="resources: {gpus: 2}\npending_deadline_seconds: 4",
    ),
    "late": Case(
        "timeout",
        "it ran longer than 3 s and was stopped",
        _STUBBORN.format(mark="stubborn-late"),
        config="RETRAIN_TIMEOUT=3\nRETRAIN_RETRIES=1",
    ),
}


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodRuns]:
    """All of them at once."""
    with pod_runs(cluster, tmp_path_factory.mktemp("causes")) as made:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "gpus"},
            "spec": {"hard": {f"requests.{GPU}": "1"}},
        }
        cluster.apply(made.namespace, quota)
        for name, case in CASES.items():
            made.begin(name, case.command, case.profile, case.config)
        made.begin("unwanted", _STUBBORN.format(mark="stubborn-unwanted"))
        yield made


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_said_and_the_run_ends(runs: PodRuns, name: str) -> None:
    case, ended = CASES[name], runs.ended(name)
    assert ended.code == case.code, ended.said
    wanted = f"{name} failed: stage=retrain cause={case.cause} exit_code={case.code}"
    assert ended.last.endswith(wanted), ended.said
    failed = runs.events(name, "StageFailed")
    assert [one["cause"] for one in failed] == [case.cause] * case.attempts
    assert case.says in failed[-1]["message"], failed
    assert failed[-1]["exit_code"] == (case.code if case.code != 70 else None)
    # A pod that the Job makes after it finds the attempt closed, and runs nothing.
    runs.until(lambda: _have_ended(runs.pods(name)))
    begun = [one for one in runs.pods(name) if seen(one).started_at is not None]
    assert len(begun) <= case.attempts, begun


def _have_ended(pods: list[dict[str, Any]]) -> bool:
    return {one["status"]["phase"] for one in pods} <= {"Succeeded", "Failed"}


def test_what_ignores_term_is_gone_when_its_time_is_up_and_what_it_saved_is_kept(
    runs: PodRuns,
) -> None:
    runs.ended("late")
    _is_gone(runs, "late", "timeout")


def test_what_ignores_term_is_gone_when_it_is_cancelled_and_what_it_saved_is_kept(
    runs: PodRuns,
) -> None:
    runs.started("unwanted")
    runs.until(lambda: processes_of("stubborn-unwanted"))
    asked = time.monotonic()
    said = runs.launcher("cancel", "unwanted")
    assert (said.code, said.last) == (0, "unwanted  cancelled"), said
    assert time.monotonic() - asked < 60
    assert runs.ended("unwanted").code == 130
    _is_gone(runs, "unwanted", "cancelled")
    assert runs.pods("unwanted") == runs.jobs("unwanted") == []


def _is_gone(runs: PodRuns, run: str, closed_by: str) -> None:
    assert processes_of(f"stubborn-{run}") == []
    result, kept = runs.object(run, "result.json"), runs.object(run, "collected.json")
    assert result is not None
    assert (result["exit_code"], result["closed_by"]) == (None, closed_by)
    assert kept is not None
    [saved] = kept["checkpoints"]
    assert (saved["path"], runs.blob(saved["digest"])) == ("checkpoints/half.pt", b"half\n")
    [failed] = runs.events(run, "StageFailed")
    assert (failed["cause"], failed["exit_code"]) == (closed_by, None)
