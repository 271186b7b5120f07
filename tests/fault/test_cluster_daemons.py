"""Parts of the cluster itself that go while stages run: the API server is killed in each of a run's four stages and
comes back after half a minute, etcd does not answer for as long, the kubelet is killed and comes back at once.

A stage of each run waits at a gate until its part is gone. The launchers' way alone is cut in
``test_cluster_outages.py``; here controllers, scheduler and kubelet lose theirs, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.fault.cluster_runs import ClusterRuns, Ended, Launch, cluster_runs
from tests.rig.gate import Gate, gate
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = [*on_cluster, pytest.mark.alone]

_AWAY_SECONDS = 30.0
_STAGES = ("llm_on", "relabel", "retrain", "llm_off")
#: Run: the stages that wait at the gate, each of them, while the API server is away.
KILLED: dict[str, tuple[str, ...]] = {
    f"in-{stage.replace('_', '-')}": _STAGES[at : at + 2] for at, stage in enumerate(_STAGES)
}
#: The same, of the runs whose etcd or kubelet goes.
OTHERS: dict[str, tuple[str, ...]] = {
    "paused": ("relabel", "retrain"),
    "restarted": ("relabel", "retrain"),
}
RUNS = {**KILLED, **OTHERS}
_AWAY = "trying again for up to"


@dataclass
class Story:
    """All that happened. ``shown``: what ``status`` said of a run while the API server was away."""

    runs: ClusterRuns
    doors: Gate
    ends: dict[str, Ended] = field(default_factory=dict)
    shown: str = ""

    def launched(self, pool: ThreadPoolExecutor, *names: str) -> Future[dict[str, Ended]]:
        """Launchers of these runs, all at their gates when this returns."""
        launches = {}
        for run in names:
            held, *after = RUNS[run]
            stages = {held: f'{self.doors.coming}; sleep 1; echo "$STAGE ran"'}
            stages |= dict.fromkeys(after, f'{self.doors.passing}; echo "$STAGE ran"')
            launches[run] = Launch(run, self.runs.submit(run, **stages))
        driven = pool.submit(self.runs.forked, launches)
        for run in names:
            self.doors.here(f"{run} {RUNS[run][0]}")
            self.runs.until_recorded(run, "StageStarted", RUNS[run][0])
        return driven

    def go(self, *names: str) -> None:
        self.doors.go(*(f"{run} {RUNS[run][0]}" for run in names))

    def until_said(self, words: str, *names: str) -> None:
        for run in names:
            self.runs.until(lambda run=run: words in self.runs.forked_said(run))  # type: ignore[misc]


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with (
        cluster_runs(cluster, tmp_path_factory.mktemp("daemons")) as runs,
        ThreadPoolExecutor(1) as pool,
        gate() as doors,
    ):
        made = Story(runs, doors)
        driven = made.launched(pool, *KILLED)
        _without_api_server(made)
        made.ends |= driven.result()

        driven = made.launched(pool, *OTHERS)
        cluster.stop("kubelet", "kill")
        cluster.start("kubelet")
        made.go("restarted")
        runs.until_recorded("restarted", "RunSucceeded", "")
        _without_etcd(made)
        made.ends |= driven.result()
        yield made


def _without_api_server(story: Story) -> None:
    cluster, began = story.runs.cluster, time.monotonic()
    cluster.stop("kube-apiserver", "kill")
    try:
        story.go(*KILLED)
        story.until_said(_AWAY, *KILLED)
        story.shown = story.runs.typed("in-llm-on", "status", "in-llm-on").stdout
        time.sleep(max(_AWAY_SECONDS - (time.monotonic() - began), 0.0))
    finally:
        cluster.start("kube-apiserver")


def _without_etcd(story: Story) -> None:
    """The stage's result is committed; the API server, which answers nothing new, is to make the next Job."""
    cluster, began = story.runs.cluster, time.monotonic()
    cluster.stop("etcd", "pause")
    try:
        story.go("paused")
        result = story.runs.objects("paused") / "runs" / "paused" / "relabel" / "1" / "result.json"
        story.runs.until(result.exists)
        time.sleep(max(_AWAY_SECONDS - (time.monotonic() - began), 0.0))
    finally:
        cluster.go_on("etcd")


@pytest.mark.parametrize("run", RUNS)
def test_each_command_runs_once_and_the_run_ends_once(story: Story, run: str) -> None:
    assert story.ends[run].code == 0, story.ends[run].said
    story.runs.check(run, *RUNS[run])
    for stage in RUNS[run]:
        assert story.runs.log(run, stage) == f"{stage} ran\n"
        assert story.doors.came.count(f"{run} {stage}") == 1
    audited = story.runs.typed(run, "audit")
    assert audited.returncode == 0, audited.stdout + audited.stderr


@pytest.mark.parametrize("run", KILLED)
def test_that_the_api_server_was_away_is_said_and_that_it_answers_again(
    story: Story, run: str
) -> None:
    """Where a stage follows: of a last one the store has the result, and nothing more is asked."""
    said = story.ends[run].said
    assert _AWAY in said, said
    assert "the API server does not answer" in said, said
    assert "the cluster answers again" in said or len(KILLED[run]) == 1, said


@pytest.mark.parametrize("run", KILLED)
def test_that_its_watches_broke_is_on_record_of_the_stage_that_ran(story: Story, run: str) -> None:
    """Each of the three once, however long the API server was away."""
    broke = story.runs.watch_restarts(run)
    assert broke[KILLED[run][0]] >= 3, broke


def test_a_kubelet_breaks_no_watch(story: Story) -> None:
    assert story.runs.watch_restarts("restarted") == dict.fromkeys(RUNS["restarted"], 0)


def test_status_says_it_too_and_all_else(story: Story) -> None:
    [line] = [one for one in story.shown.splitlines() if one.startswith("cluster")]
    assert "the API server does not answer" in line
    assert story.shown.startswith("in-llm-on"), story.shown


def test_a_kubelet_that_is_started_again_is_not_noticed(story: Story) -> None:
    said = story.ends["restarted"].said
    assert _AWAY not in said, said
    assert "does not answer" not in said, said
