"""An API server that is away while runs go on: for half a minute in each stage and while a Job is queued, for a
moment, and without a word, so that watches hang in the air; and credentials that expire. Each run ends as if nothing
had been.

One stage of each run waits at a gate until the launcher has lost its way to the API server, so that it ends meanwhile.
It is the launchers' way alone that is cut (``tests/rig/relay.py``); the cluster goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.fault.cluster_runs import ClusterRuns, Ended, Launch, cluster_runs
from tests.rig.accounts import Account
from tests.rig.gate import Gate, gate
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster
from tests.rig.relay import Relay, relayed

pytestmark = on_cluster

_AWAY_SECONDS = 30.0
_SAYS = 'echo "$STAGE ran"'
_STAGES = ("llm_on", "relabel", "retrain", "llm_off")
#: Run: the stage that waits at the gate, and the one after it.
HELD: dict[str, tuple[str, ...]] = {
    **{f"in-{stage.replace('_', '-')}": _STAGES[at : at + 2] for at, stage in enumerate(_STAGES)},
    "cut": ("relabel", "retrain"),
    "silent": ("relabel", "retrain"),
    "renewed": ("relabel", "retrain"),
}
_LONG = ["queued", *(run for run in HELD if run.startswith("in-"))]
_AWAY = "trying again for up to"
_BACK = "the cluster answers again"
#: The last stage of this one has its result while the cluster is away: it needs the cluster for nothing more.
_DOES_WITHOUT = "in-llm-off"


@dataclass
class Outages:
    """All that happened."""

    runs: ClusterRuns
    doors: Gate
    ends: dict[str, Ended]


@pytest.fixture(scope="module")
def outages(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    with (
        cluster_runs(cluster, tmp_path_factory.mktemp("outages")) as runs,
        ThreadPoolExecutor(1) as pool,
        gate() as doors,
        ExitStack() as stack,
    ):
        ways = {
            name: stack.enter_context(relayed(cluster, runs.root / f"{name}.kubeconfig"))
            for name in ("long", "cut", "silent")
        }
        account = Account(cluster, runs.namespace, runs.root / "renewed.kubeconfig")
        account.renew()
        launches = {}
        for run, (held, *after) in HELD.items():
            stages = {held: f"{doors.coming}; sleep 1; {_SAYS}"}
            stages |= dict.fromkeys(after, f"{doors.passing}; {_SAYS}")
            mine = runs.root / f"{'long' if run in _LONG else run}.kubeconfig"
            launches[run] = Launch(run, runs.submit(run, **stages), kubeconfig=mine)
        # Its queue lets it go when the API server is back.
        queued = runs.submit("queued", profile="queue: nobody", retrain=f"{doors.passing}; {_SAYS}")
        mine = runs.root / "long.kubeconfig"
        launches["queued"] = Launch("queued", queued, kubeconfig=mine)
        driven = pool.submit(runs.forked, launches)
        for run, (held, *_) in HELD.items():
            doors.here(f"{run} {held}")
            runs.until_recorded(run, "StageStarted", held)
        runs.until_recorded("queued", "StageSubmitted", "retrain")
        _happens(runs, doors, account, ways)
        yield Outages(runs, doors, driven.result())


def _happens(runs: ClusterRuns, doors: Gate, account: Account, ways: dict[str, Relay]) -> None:
    def end(run: str) -> None:
        doors.go(f"{run} {HELD[run][0]}")

    def said(run: str, words: str) -> None:
        runs.until(lambda: words in runs.forked_said(run))

    ways["long"].cut()
    began = time.monotonic()
    account.revoke()
    for run in _LONG[1:]:
        end(run)
    ways["silent"].silence()
    end("silent")
    ways["cut"].cut()
    end("cut")
    ways["cut"].back()
    for run in _LONG:
        said(run, _AWAY)
    time.sleep(max(_AWAY_SECONDS - (time.monotonic() - began), 0.0))
    ways["long"].back()
    # By now the API server has forgotten the token.
    end("renewed")
    for run in _LONG:
        if run != _DOES_WITHOUT:
            said(run, _BACK)
    [job] = runs.jobs("queued")
    let_go = ("patch", "job", job["metadata"]["name"], "-p", '{"spec": {"suspend": false}}')
    runs.cluster.kubectl("-n", runs.namespace, *let_go)
    said("renewed", "refuses the credentials")
    account.renew()


@pytest.mark.parametrize("run", HELD)
def test_the_run_ends_as_if_nothing_had_been(outages: Outages, run: str) -> None:
    stages = HELD[run]
    assert outages.ends[run].code == 0, outages.ends[run].said
    outages.runs.check(run, *stages)
    for stage in stages:
        assert outages.runs.log(run, stage) == f"{stage} ran\n"
        assert outages.doors.came.count(f"{run} {stage}") == 1


@pytest.mark.parametrize("run", _LONG)
def test_that_the_api_server_was_away_is_said(outages: Outages, run: str) -> None:
    said = outages.ends[run].said
    assert said.count(_AWAY) == 1, said
    assert said.count(_BACK) == (run != _DOES_WITHOUT), said
    assert "the API server does not answer" in said, said


def test_a_job_that_was_queued_meanwhile_runs_when_it_is_let_go(outages: Outages) -> None:
    assert outages.ends["queued"].code == 0, outages.ends["queued"].said
    outages.runs.check("queued", "retrain")


def test_credentials_that_expired_are_awaited_and_read_again(outages: Outages) -> None:
    said = outages.ends["renewed"].said
    assert said.count("refuses the credentials") == 1, said
    assert said.count(_BACK) == 1, said
