"""Launchers killed before and after each call of the API server, and several at once on one run: every Job is made
once, and whoever comes next, on a machine that has the bucket alone, ends the run.

A run that is left in peace says which calls there are. Then others go through chains of launchers, each of which dies
one call, or one end of a call, later than the one before; the last one lives. Each test looks at its own run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.fault.cluster_runs import ClusterRuns, Ended, Launch, cluster_runs
from tests.rig.gate import Gate, gate
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_TRAIN = 'echo "$STAGE ran" | tee "$CHECKPOINT_DIR/student.pt"; sleep 2'
_FOREVER = "trap : TERM; sleep 600 & wait"
_ENDS = ("before", "after")
_ASLEEP = ("asleep-kept", "asleep-deleted")
_TOGETHER = ("together", "together-2", "together-3")

Point = tuple[str, int, str]


@dataclass
class Story:
    """All that happened. ``chains`` says at which points a run's launchers died, in their order."""

    runs: ClusterRuns
    doors: Gate
    chains: dict[str, list[Point]]
    ends: dict[str, Ended]


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with (
        cluster_runs(cluster, tmp_path_factory.mktemp("kills")) as runs,
        ThreadPoolExecutor(2) as pool,
        gate() as doors,
    ):
        yield _told(runs, doors, pool)


def _told(runs: ClusterRuns, doors: Gate, pool: ThreadPoolExecutor) -> Story:
    # Those that sleep through all of their runs, and wake when these have ended.
    once = f"{doors.passing}; {_TRAIN}"
    asleep = {
        run: Launch(
            run, runs.submit(run, retrain=once), death=("create jobs", 0, "sleeps")
        )
        for run in _ASLEEP
    }  # fmt: skip
    sleeping = pool.submit(runs.forked, asleep)
    sleepers = [runs.asleep(run) for run in _ASLEEP]

    lives = Launch("lives", _submit(runs, "lives", retrain=once))
    ends = runs.forked({"lives": lives})
    assert ends["lives"].code == 0, ends["lives"].said
    chains = _chains(ends["lives"].calls)

    launches: dict[str, Launch] = {}
    for run in ("lists-before", "lists-after", "ended-before", "ended-after"):
        launches |= _chain(run, _submit(runs, run, retrain=once), chains[run])
    held = f"{doors.coming}; {_TRAIN}"
    launches |= _chain("jobs", _submit(runs, "jobs", relabel=held, retrain=once), chains["jobs"])
    for end in _ENDS:
        launches |= _cancelled(runs, end)
    together = runs.submit("together", relabel=once, retrain=once)
    launches["together"] = Launch("together", together)
    for machine in _TOGETHER[1:]:
        launches[machine] = Launch("together", ["resume", "together"], machine, awaits=True)
    for run in _ASLEEP:
        launches[f"{run}-next"] = Launch(run, ["resume", run], f"{run}-next")
    told = pool.submit(runs.forked, launches)
    # The stage ends when those who die beside it are through; the last two die where the next one is created.
    ending = len(chains["jobs"]) - len(_ENDS)
    runs.until(lambda: told.done() or runs.begun(f"jobs-{ending}"))
    doors.go("jobs relabel")
    ends |= told.result()

    [job] = runs.jobs("asleep-deleted")
    gone = ("delete", "job", job["metadata"]["name"], "--wait=true")
    runs.cluster.kubectl("-n", runs.namespace, *gone)
    for pid in sleepers:
        os.kill(pid, signal.SIGCONT)
    return Story(runs, doors, chains, ends | sleeping.result())


def _submit(runs: ClusterRuns, run: str, **stages: str) -> list[str]:
    return runs.submit(run, "--promotion-target", "student", **stages)


def _chains(calls: Sequence[str]) -> dict[str, list[Point]]:
    """Points of death from the calls of a run of one stage.

    What is asked when a stage has ended is asked beside all else, so that nothing is sure to come after it.
    """
    numbered = [(call, calls[:at].count(call)) for at, call in enumerate(calls)]
    create = numbered.index(("create jobs", 0))
    # Whoever dies late at a watch, which is a thread's, may have created the Job: nothing else comes after those.
    lists = sorted(numbered[:create], key=lambda one: one[0].startswith("watch"))
    ends = [one for one in numbered[create:] if one[0].startswith("get")]
    jobs = [(*one, end) for one in numbered[create:] if one not in ends for end in _ENDS]
    return {
        "lists-before": [(*one, "before") for one in lists],
        "lists-after": [(*one, "after") for one in lists],
        "jobs": [*jobs, *(("create jobs", 0, end) for end in _ENDS)],
        **{f"ended-{end}": [(*one, end) for one in ends[:1]] for end in _ENDS},
    }


def _chain(run: str, submit: Sequence[str], points: Sequence[Point]) -> dict[str, Launch]:
    """The first launcher submits, the others come after it on machines of their own, and the last one lives."""
    found: dict[str, Launch] = {}
    for at, point in enumerate((*points, None)):
        arguments = ["resume", run] if at else submit
        after = f"{run}-{at - 1}" if at else ""
        found[f"{run}-{at}"] = Launch(run, arguments, f"{run}-{at}", point, after=after)
    return found


def _cancelled(runs: ClusterRuns, end: str) -> dict[str, Launch]:
    """A run whose launcher dies while it runs; the first who cancels it dies, too."""
    run = f"cancelled-{end}"
    typed = [runs.submit(run, retrain=_FOREVER), ["cancel", run], ["cancel", run]]
    deaths = [("log collect", 0, "after"), ("delete jobs", 0, end), None]
    return {
        f"{run}-{at}": Launch(
            run, arguments, f"{run}-{at}", death, after=f"{run}-{at - 1}" if at else ""
        )
        for at, (arguments, death) in enumerate(zip(typed, deaths, strict=True))
    }


def test_a_run_makes_the_calls_at_which_launchers_are_killed(story: Story) -> None:
    calls = set(story.ends["lives"].calls)
    lists = {f"{verb} {kind}" for verb in ("list", "watch") for kind in ("jobs", "pods", "events")}
    assert lists | {"create jobs", "log collect"} <= calls
    story.runs.check("lives", "retrain")


@pytest.mark.parametrize(
    ("run", "stages"),
    [
        ("lists-before", ["retrain"]),
        ("lists-after", ["retrain"]),
        ("ended-before", ["retrain"]),
        ("ended-after", ["retrain"]),
        ("jobs", ["relabel", "retrain"]),
    ],
)
def test_killed_at_any_call_another_machine_goes_on_and_no_command_runs_twice(
    story: Story, run: str, stages: list[str]
) -> None:
    points = story.chains[run]
    for at, point in enumerate(points):
        one = story.ends[f"{run}-{at}"]
        assert one.code == -9, (point, one.said, one.calls)
    last = story.ends[f"{run}-{len(points)}"]
    assert last.code == 0, last.said
    story.runs.check(run, *stages)
    for stage in stages:
        assert story.doors.came.count(f"{run} {stage}") == 1
        assert story.runs.log(run, stage) == f"{stage} ran\n"
    told = [one["type"] for one in story.runs.recorded(run, "pointer/student")]
    assert told == ["PromotionIntended", "PromotionConfirmed"]


@pytest.mark.parametrize("end", _ENDS)
def test_a_cancel_that_is_killed_is_finished_by_the_next(story: Story, end: str) -> None:
    run = f"cancelled-{end}"
    codes = [story.ends[f"{run}-{at}"].code for at in range(3)]
    assert codes == [-9, -9, 0], story.ends[f"{run}-2"].said
    told = [kind for kind, _ in story.runs.types(run)]
    assert told[-1] == "RunCancelled", told
    assert told.count("StageSubmitted") == told.count("StageFailed") == 1, told
    phases = {pod["status"]["phase"] for pod in story.runs.pods(run)}
    assert phases <= {"Succeeded", "Failed"}
    if end == "after":
        assert story.runs.jobs(run) == story.runs.pods(run) == []


def test_three_launchers_on_one_run_make_each_job_once_and_all_end_well(story: Story) -> None:
    for machine in _TOGETHER:
        assert story.ends[machine].code == 0, story.ends[machine].said
    story.runs.check("together", "relabel", "retrain")
    assert sorted(name for name in story.doors.came if name.startswith("together ")) == [
        "together relabel",
        "together retrain",
    ]


@pytest.mark.parametrize("run", _ASLEEP)
def test_a_launcher_that_slept_through_the_run_starts_nothing_again(story: Story, run: str) -> None:
    """Though it wakes right before it creates the Job, and though that Job may be deleted by then."""
    for name in (f"{run}-next", run):
        assert story.ends[name].code == 0, story.ends[name].said
    assert story.doors.came.count(f"{run} retrain") == 1
    told = [kind for kind, _ in story.runs.types(run)]
    assert told.count("StageSubmitted") == told.count("StageSucceeded") == 1, told
    if run == "asleep-kept":
        story.runs.check(run, "retrain")
