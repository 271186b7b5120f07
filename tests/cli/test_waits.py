"""What a stage on a cluster waits for: status asks the cluster and never waits long for it; list asks nobody."""

from __future__ import annotations

import json
import re
import time
from io import StringIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from k8s.driver import DRIVER
from k8s.names import STAGE
from launcher.cli.progress import Screen
from launcher.cli.waits import _ANSWER_SECONDS, waits_line
from launcher.drivers import note_driver
from launcher.executors.port import Running
from ledger import events as e
from ledger.identity import identify
from ledger.ids import run_stream
from tests.cli.session import Done, Session, make_session
from tests.launcher.pointer_world import project_workspace
from tests.rig.recorded_cluster import kubeconfig, recorded, serving

_DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project")


def on_cluster(session: Session, run_id: str, *more: e.EventData) -> None:
    """An open run whose llm_on was given to a cluster; nobody drives it."""
    ledger = project_workspace(session.root).ledger
    facts: list[e.EventData] = [
        e.RunRequested(
            run_id=run_id,
            project="project",
            project_root=str(session.root),
            output_root="runs/self_distill",
            config=e.ConfigRef(path="loop.env", digest=_DIGEST),
            stages=(e.StagePlan(name="llm_on", command="true", spec_digest=_DIGEST),),
            executor="kubernetes",
            provenance=e.Provenance(launcher_version="0.1.0"),
        ),
        e.StageIntended(stage="llm_on", attempt=1, executor="kubernetes", spec_digest=_DIGEST),
        e.StageSubmitted(
            stage="llm_on",
            attempt=1,
            handle=e.Handle(namespace="distill", job_name="a-job", job_uid="u"),
            log="01_llm_on.log",
        ),
        *more,
    ]
    stream = run_stream(run_id)
    now = "2026-01-31T02:00:00.000000Z"
    ledger.append(stream, 0, [identify(stream, f) for f in facts], now=now, actor="ana")
    ledger.close()


def looked(session: Session, moment: str, *arguments: str) -> Done:
    """``launcher …`` while the cluster is as it was recorded."""
    with serving(recorded(moment)) as (url, asked):
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        done = session.launcher(*arguments, **access)
    assert done.code == 0, done
    assert asked
    assert all("/namespaces/distill/" in path for path in asked)
    return done


@pytest.mark.parametrize(
    ("moment", "state", "words"),
    [
        ("waiting-for-gpu", "unschedulable", "1 has too little nvidia.com/gpu free"),
        ("quota", "blocked", "the quota none allows 0"),
        ("exit-7", "failed", "nobody has put that on record yet"),
        ("deleted", "absent", "there is no Job of it in the cluster"),
    ],
)
def test_status_says_for_what(session: Session, moment: str, state: str, words: str) -> None:
    on_cluster(session, "r")
    found = json.loads(looked(session, moment, "status", "r", "--json").out)["cluster"]
    assert (found["stage"], found["attempt"], found["state"]) == ("llm_on", 1, state)
    assert words in found["waits_for"]
    assert found["error"] is None


def test_status_says_it_on_one_line_and_since_when(session: Session) -> None:
    on_cluster(session, "r")
    shown = looked(session, "waiting-for-gpu", "status")
    [line] = [line for line in shown.lines if line.startswith("waits ")]
    words = "of 1 node, 1 has too little nvidia.com/gpu free"
    assert re.fullmatch(rf"waits   llm_on: {words}  for \d+h\d\dm, since 2026-11-25T\S+Z", line)


def test_status_says_where_a_stage_runs_that_waits_for_nothing(session: Session) -> None:
    on_cluster(session, "r")
    shown = looked(session, "running", "status", "r")
    assert any(re.fullmatch(r"pod     running-\w+ on rig-node", line) for line in shown.lines), (
        shown
    )
    assert not any(line.startswith("waits") for line in shown.lines)


@pytest.mark.parametrize("how", ["refuses", "is silent", "is not known"])
def test_a_cluster_that_cannot_be_asked_is_one_line(session: Session, how: str) -> None:
    on_cluster(session, "r")
    with serving(recorded("running"), delay_seconds=60) as (url, asked):
        url = "http://127.0.0.1:9" if how == "refuses" else url
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        if how == "is not known":
            access = {"KUBECONFIG": str(session.root / "absent"), "HOME": str(session.root)}
        before = time.monotonic()
        shown = session.launcher("status", "r", **access)
        took = time.monotonic() - before
    assert (shown.code, shown.err) == (0, "")
    assert [line for line in shown.lines if line.startswith("cluster ")] != []
    assert any(
        "llm_on" in line and "submitted" in line for line in shown.lines
    )  # the ledger's view
    assert took < 15
    assert bool(asked) == (how == "is silent")


def driven(session: Session, run_id: str) -> None:
    """It was given a driver in the cluster, too."""
    on_cluster(session, run_id)
    ws = project_workspace(session.root)
    note_driver(ws.store, run_id, "distill", "the-driver")
    ws.ledger.close()


def test_a_silent_cluster_is_waited_for_once_for_the_stage_and_for_its_driver(
    session: Session,
) -> None:
    driven(session, "r")
    with serving(recorded("running"), delay_seconds=60) as (url, asked):
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        before = time.monotonic()
        shown = session.look("status", "r", **access)
        took = time.monotonic() - before
    assert shown.code == 0, shown
    assert sum(line.startswith("cluster ") for line in shown.lines) == 1
    assert "driver  Job distill/the-driver" in shown.lines
    assert sorted(_chosen(path) for path in asked) == [DRIVER, "llm_on"]
    # Each is given up after _ANSWER_SECONDS: one after the other they take twice as long.
    assert _ANSWER_SECONDS <= took < 2 * _ANSWER_SECONDS


def test_a_stage_and_its_driver_are_asked_for_at_the_same_time(session: Session) -> None:
    driven(session, "r")
    with serving(recorded("running"), silent_until=2) as (url, _):
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        shown = session.look("status", "r", **access)
    assert any(line.startswith("pod ") for line in shown.lines), shown
    assert any("which ended: there is no such Job" in line for line in shown.lines), shown


def _chosen(path: str) -> str:
    """The stage whose objects are asked for."""
    labels = parse_qs(urlsplit(path).query)["labelSelector"][0].split(",")
    return next(one for one in labels if one.startswith(f"{STAGE}=")).partition("=")[2]


def test_list_asks_nobody_and_the_overview_says_for_what(session: Session) -> None:
    on_cluster(session, "r")
    with serving(recorded("waiting-for-gpu")) as (url, asked):
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        assert session.launcher("list", **access).code == 0
        assert asked == []
        shown = session.launcher(**access)
    assert any(
        line.startswith("waits   llm_on") and "nvidia.com/gpu" in line for line in shown.lines
    )


def test_the_overview_asks_for_its_runs_at_the_same_time(session: Session) -> None:
    for run in ("r1", "r2", "r3"):
        on_cluster(session, run)
    with serving(recorded("waiting-for-gpu"), silent_until=3) as (url, asked):
        access = {"KUBECONFIG": str(kubeconfig(session.root / "kubeconfig", url))}
        shown = session.launcher(**access)
    assert sum(line.startswith("waits   llm_on") for line in shown.lines) == 3, shown
    assert len(asked) >= 3


def test_a_run_on_this_machine_asks_no_cluster(session: Session) -> None:
    assert session.submit("--run-id", "r").code == 0
    assert session.json("status", "r")["cluster"] is None


def test_in_a_pipe_it_is_said_once_for_each_thing_that_lasts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cluster(session, "r")
    ws = project_workspace(session.root)
    state = ws.journal.run("r")
    moment, out = [100.0], StringIO()
    monkeypatch.setattr("launcher.cli.progress.time.monotonic", lambda: moment[0])
    monkeypatch.setattr("sys.stdout", out)
    screen, stage = Screen(ws), state.stages["llm_on"]
    story = (
        ["in the queue gpus"] * 4 + ["for the scheduler"] + ["an image is pulled"] * 4 + [""] * 3
    )
    for words in story:
        screen.stage_waits(state, stage, Path("log"), Running(e.Handle(), (), words))
        moment[0] += 1.0
    assert out.getvalue().splitlines() == [
        "llm_on  waits: in the queue gpus",
        "llm_on  waits: an image is pulled",
    ]
    ws.ledger.close()


def test_what_others_wrote_stays_on_one_line() -> None:
    assert waits_line("", None) == ""
    assert waits_line("a\nb\x1b[31mc", None) == "waits: a bc"
    assert waits_line("a", "2999-01-01T00:00:00Z") == "waits 0.0s: a"
