"""What stages held of a cluster and what that may have cost: in status and list, where there is something to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger import events as e
from ledger.identity import identify
from ledger.ids import run_stream
from tests.cli.session import Session, make_session
from tests.launcher.pointer_world import project_workspace

_DIGEST = "sha256:" + "0" * 64
PRICES = {"LAUNCHER_PRICES": "EUR nvidia.com/gpu=2.40 memory=0.36"}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project")


def ended(session: Session, run_id: str, resource: str = "nvidia.com/gpu") -> None:
    """A run whose retrain was lost after 10 minutes on two GPUs and failed after 20 more."""
    plan = e.StagePlan(name="retrain", command="true", spec_digest=_DIGEST)
    facts: list[e.EventData] = [
        e.RunRequested(
            run_id=run_id,
            project="project",
            project_root=str(session.root),
            output_root="runs/self_distill",
            config=e.ConfigRef(path="loop.env", digest=_DIGEST),
            stages=(plan,),
            executor="kubernetes",
            provenance=e.Provenance(launcher_version="0.1.0"),
        )
    ]
    for attempt, (cause, seconds) in enumerate((("lost", 600.0), ("application", 1200.0)), start=1):
        facts += [
            e.StageIntended(
                stage="retrain", attempt=attempt, executor="kubernetes", spec_digest=_DIGEST
            ),
            e.StageSubmitted(
                stage="retrain", attempt=attempt, handle=e.Handle(job_name="j"), log="l"
            ),
            e.StageFailed(
                stage="retrain",
                attempt=attempt,
                exit_code=7 if cause == "application" else None,
                cause=cause,  # type: ignore[arg-type]
                message="m",
                seconds=e.StageSeconds(queued=0, scheduled=41, pulling=9, running=seconds - 9),
                gpus=2,
                held=e.ResourceSeconds(gpus={resource: 2 * seconds}, cpu=0, memory=16 * seconds),
                watch_restarts=attempt,
            ),
        ]
    facts.append(e.RunFailed(stage="retrain", exit_code=7, cause="application", reason="m"))
    ledger, stream = project_workspace(session.root).ledger, run_stream(run_id)
    now = "2026-01-31T02:00:00.000000Z"
    ledger.append(stream, 0, [identify(stream, f) for f in facts], now=now, actor="ana")
    ledger.close()


def test_status_shows_what_all_attempts_waited_and_held(session: Session) -> None:
    ended(session, "r")
    first, stage, *_ = session.look("status", "r").lines
    assert "  1.0 GPU-h  " in first
    assert "EUR" not in first
    assert stage.endswith("exit code 7  waited 1m22s  pulled 18s  2 GPU 1.0 GPU-h")
    first = session.look("status", "r", **PRICES).lines[0]
    assert "  1.0 GPU-h  5.28 EUR  " in first  # an hour of a GPU, eight of a GiB


def test_as_json_it_is_of_each_stage_and_of_the_run(session: Session) -> None:
    ended(session, "r")
    held = {
        "gpu_seconds": {"nvidia.com/gpu": 3600},
        "cpu_seconds": 0,
        "memory_gib_seconds": 28800,
    }
    document = json.loads(session.look("status", "r", "--json").out)
    assert (document["held"], document["cost"]) == (held, None)
    [stage] = document["stages"]
    assert (stage["gpus"], stage["held"], stage["cost"]) == (2, held, None)
    assert stage["watch_restarts"] == 1 + 2
    assert stage["time"] == {
        "queued": 0,
        "scheduled": 82,
        "pulling": 18,
        "running": 1782,
        "collecting": None,
    }
    assert document["failure"]["attempt"] == 2
    document = json.loads(session.look("status", "r", "--json", **PRICES).out)
    assert document["cost"] == {"amount": 5.28, "currency": "EUR", "unpriced": []}
    [row] = json.loads(session.look("list", "--json", **PRICES).out)["runs"]
    assert (row["held"], row["cost"]) == (held, document["cost"])


def test_list_has_columns_and_a_sum_where_there_is_something_to_show(session: Session) -> None:
    assert session.submit("--run-id", "here").code == 0
    shown = session.look("list", **PRICES)
    assert not any("GPU-h" in line or "EUR" in line for line in shown.lines)
    assert json.loads(session.look("list", "--json", **PRICES).out)["runs"][0]["held"] is None
    [*stages] = json.loads(session.look("status", "here", "--json").out)["stages"]
    assert {one["watch_restarts"] for one in stages if one["status"] == "completed"} == {0}
    ended(session, "r")
    ended(session, "other", "amd.com/gpu")
    shown = session.look("list")
    assert "GPU-h" in shown.out
    assert "COST" not in shown.out
    assert shown.lines[-1] == "sum of these:  2.0 GPU-h"
    shown = session.look("list", **PRICES)
    rows = {line.split()[0]: line for line in shown.lines}
    assert "  1.0    5.28 EUR  " in rows["r"]
    assert "  1.0    2.88 EUR +" in rows["other"]  # its GPU has no price
    assert "EUR" not in rows["here"]
    assert shown.lines[-1] == "sum of these:  2.0 GPU-h  8.16 EUR"
    assert "without amd.com/gpu" in session.look("status", "other", **PRICES).lines[0]


def test_prices_that_are_none_are_refused(session: Session) -> None:
    done = session.look("list", LAUNCHER_PRICES="2.49")
    assert done.code == 2
    assert "no currency and prices per hour" in done.err
