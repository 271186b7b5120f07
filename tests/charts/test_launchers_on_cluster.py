"""Launchers of a release on a real cluster: killed, left, beside another release, and with a verb less than they need.

The tests stand on each other, in their order: one release lives through all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from k8s.permissions import RUN
from tests.charts.releases import Team, minute, team
from tests.rig.k8s import Cluster, on_cluster
from tests.rig.k8s import cluster as cluster

pytestmark = on_cluster

_SLOW = (
    "LLM_ON_CMD='echo captured'\n"
    "RETRAIN_CMD='echo begun; until [ -e /tmp/go ]; do sleep 0.2; done; echo w > \"$CHECKPOINT_DIR/student.pt\"'\n"
)
_STUDENT = "RETRAIN_CMD='echo weights > \"$CHECKPOINT_DIR/student.pt\"'\n"


def pipeline(config: str, **more: Any) -> dict[str, Any]:
    """One that fires by hand alone."""
    return {
        **{"schedule": "* * * * *", "suspend": True, "config": config},
        "files": {"teacher.txt": "a teacher", "scorecard.json": "{}"},
        **{"teacherCheckpoint": "files/teacher.txt", "teacherScorecard": "files/scorecard.json"},
        **more,
    }


@pytest.fixture(scope="module")
def ours(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team(cluster, tmp_path_factory.mktemp("charts") / "team") as made:
        made.install("nightly", made.values(pipelines={"slow": pipeline(_SLOW)}))
        yield made


def runs(ours: Team, name: str) -> list[str]:
    """The ids of a pipeline's runs that were requested."""
    asked = [e["data"]["run_id"] for e in ours.events() if e["type"] == "RunRequested"]
    return [one for one in asked if one.startswith(f"{name}-")]


def go(ours: Team, run: str) -> None:
    """What its retrain waits for."""
    selector = (f"distill-ledger/run={run}", "distill-ledger/stage=retrain")
    (pod,) = ours.pods(*selector)
    name = pod["metadata"]["name"]
    ours.kubectl("exec", name, "-c", "command", "--", "bash", "-c", ": > /tmp/go")


def slow_run(ours: Team, slot: str) -> str:
    return f"slow-{slot.replace('-', '').replace(':', '')[:13]}Z"


def test_a_launcher_that_is_killed_is_replaced_and_each_stage_runs_once(ours: Team) -> None:
    slot = minute()
    run = slow_run(ours, slot)
    ours.fire("nightly-slow", "killed", slot)
    ours.until(f"run/{run}", "StageStarted", "retrain")
    (pod,) = ours.pods("job-name=killed")
    ours.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=2")
    ours.cluster.until(
        lambda: [
            one
            for one in ours.pods("job-name=killed")
            if one["metadata"]["uid"] != pod["metadata"]["uid"]
        ]
    )
    go(ours, run)
    assert ours.ended("killed") == "Complete", ours.log("killed")
    started = [stage for fact, stage in ours.facts(f"run/{run}") if fact == "StageStarted"]
    assert started == ["llm_on", "retrain"]
    assert len(ours.pods(f"distill-ledger/run={run}")) == 2


def test_whoever_comes_for_the_next_slot_finishes_what_was_left(ours: Team) -> None:
    slot = minute(1)
    run = slow_run(ours, slot)
    ours.fire("nightly-slow", "left", slot)
    ours.until(f"run/{run}", "StageStarted", "retrain")
    ours.kubectl("delete", "job", "left", "--grace-period=1", "--wait=true")
    # Its stages belong to nobody who went.
    assert ours.get("jobs", "-l", f"distill-ledger/run={run}")["items"]
    ours.fire("nightly-slow", "next", minute(2))
    ours.cluster.until(lambda: "passed over" in ours.log_or_nothing("next"))
    go(ours, run)
    assert ours.ended("next") == "Complete", ours.log("next")
    assert ours.facts(f"run/{run}")[-1][0] == "RunSucceeded"
    assert "is still open" in ours.log("next")


def test_two_releases_share_a_namespace_and_a_bucket(ours: Team) -> None:
    other = ours.values(pipelines={"other": pipeline(_STUDENT, promotionTarget="other")})
    ours.install("second", other)
    ours.fire("second-other", "others")
    assert ours.ended("others") == "Complete", ours.log("others")
    (run,) = runs(ours, "other")
    (job,) = ours.get("jobs", "-l", f"distill-ledger/run={run}")["items"]
    assert job["metadata"]["labels"]["distill-ledger-release"] == "second"
    assert ours.pointer("other")["generations"][-1]["run_id"] == run
    ours.helm("uninstall", "second", "--wait")
    assert ours.pointer("other")["generations"][-1]["run_id"] == run
    assert ours.get("cronjob", "nightly-slow")


def test_each_verb_that_is_taken_away_is_named_by_doctor(ours: Team) -> None:
    role = ours.get("role", "nightly-launcher")
    found = ours.get("configmap", "nightly-slow")["data"]["profile.yaml"]
    (ours.root / "profile.yaml").write_text(found)
    config = str(ours.as_account("nightly-launcher"))
    asked = ("doctor", "--no-probe", "--profile", "profile.yaml", "--stage", "retrain")
    for one in RUN:
        less = [
            {**rule, "verbs": [verb for verb in rule["verbs"] if verb != one.verb]}
            if one.resource in rule["resources"]
            else rule
            for rule in role["rules"]
        ]
        assert less != role["rules"]
        patch = json.dumps({"rules": [rule for rule in less if rule["verbs"]]})
        ours.kubectl("patch", "role", "nightly-launcher", "--type=merge", "-p", patch)
        said = ours.launcher(*asked, code=2, KUBECONFIG=config)
        assert f"may not {one.words}: {one.why}" in said
        assert said.count("may not ") - said.count("not looked at") == 1, said
    whole = json.dumps({"rules": role["rules"]})
    ours.kubectl("patch", "role", "nightly-launcher", "--type=merge", "-p", whole)
    assert f"all {len(RUN)} that a run takes" in ours.launcher(*asked, KUBECONFIG=config)
