"""What a stage had saved when it failed or was stopped is named, and comes back; on this machine as from a pod."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.agent.pod_progress import Progress, SavedFile, progress_key
from launcher.agent.saved import SavedOfAttempt, saved_of
from launcher.storage.manifest import Entry
from launcher.workspace import Workspace
from ledger import events as e
from ledger.identity import identify
from ledger.ids import run_stream
from tests.cli.session import Session, make_session, until
from tests.launcher.pointer_world import project_workspace

_DIGEST = "sha256:" + "0" * 64
_HALF = 'echo half > "$CHECKPOINT_DIR/half.pt"; echo saved; '
_PREFIX = "runs/r/retrain/1"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path / "project")


def killed(session: Session, *, cause: str = "out_of_memory") -> Workspace:
    """A run whose pod was killed whole: nothing but its collector's saving is left of it."""
    ws = project_workspace(session.root)
    plan = e.StagePlan(name="retrain", command="true", spec_digest=_DIGEST)
    facts: list[e.EventData] = [
        e.RunRequested(
            run_id="r",
            project="project",
            project_root=str(session.root),
            output_root="runs/self_distill",
            config=e.ConfigRef(path="loop.env", digest=_DIGEST),
            stages=(plan,),
            executor="kubernetes",
            provenance=e.Provenance(launcher_version="0.1.0"),
        ),
        e.StageIntended(stage="retrain", attempt=1, executor="kubernetes", spec_digest=_DIGEST),
        e.StageSubmitted(stage="retrain", attempt=1, handle=e.Handle(job_name="j"), log="l"),
        e.StageFailed(stage="retrain", attempt=1, exit_code=None, cause=cause, message="m"),  # type: ignore[arg-type]
    ]
    end = e.RunFailed(stage="retrain", exit_code=None, cause=cause, reason="m")  # type: ignore[arg-type]
    stream, now = run_stream("r"), "2026-01-31T02:00:00.000000Z"
    ws.ledger.append(stream, 0, [identify(stream, f) for f in (*facts, end)], now=now, actor="ana")
    return ws


def progress(ws: Workspace, pod: str, number: int, files: dict[str, bytes], log: bytes) -> None:
    blobs = {path: ws.store.ingest_bytes(data) for path, data in files.items()}
    saved = tuple(SavedFile(p, b.digest, b.size_bytes, 1) for p, b in sorted(blobs.items()))
    said = Progress(pod, number, "2026-01-31T02:00:00Z", saved, ws.store.ingest_bytes(log).digest)
    ws.store.create(progress_key(f"{_PREFIX}/progress", pod, number), said.to_bytes())


def test_what_a_pod_had_saved_before_it_was_killed_comes_back(session: Session) -> None:
    ws = killed(session)
    progress(ws, "a", 1, {"checkpoints/one.pt": b"one\n"}, b"before\n")
    progress(ws, "b", 2, {"checkpoints/one.pt": b"one\n", "checkpoints/two.pt": b"two\n"}, b"log\n")
    ws.ledger.close()
    shown = session.look("status", "r")
    assert "kept    2 checkpoints, 8 B: launcher restore r" in shown.lines
    assert "log     log" in shown.lines
    kept = json.loads(session.look("status", "r", "--json").out)["kept"]
    assert [one["path"] for one in kept] == ["checkpoints/one.pt", "checkpoints/two.pt"]
    assert session.look("logs", "r", "retrain").out == "log\n"
    assert session.launcher("restore", "r").code == 0
    folder = session.home / "r"
    assert (folder / "checkpoints" / "two.pt").read_text() == "two\n"
    assert (folder / "logs" / "03_retrain.log").read_text() == "log\n"


def test_where_nothing_was_kept_nothing_is_said(session: Session) -> None:
    killed(session).ledger.close()
    shown = session.look("status", "r")
    assert shown.code == 0
    assert not any(line.startswith("kept") for line in shown.lines)
    assert json.loads(session.look("status", "r", "--json").out)["kept"] == []


def test_damage_keeps_nothing_from_being_shown(session: Session) -> None:
    ws = killed(session)
    ws.store.create(f"{_PREFIX}/collected.json", b"[]")
    ws.store.create(progress_key(f"{_PREFIX}/progress", "a", 1), b"{")
    assert saved_of(ws.store, "r", "retrain", 1) == SavedOfAttempt()
    ws.ledger.close()
    assert session.look("status", "r").code == 0


def test_what_closed_it_says_more_than_what_it_saved_on_the_way(session: Session) -> None:
    ws = killed(session, cause="timeout")
    blob = ws.store.ingest_bytes(b"last\n")
    said = {
        "log_digest": blob.digest,
        "checkpoints": [{"path": "checkpoints/l.pt", "digest": blob.digest, "size_bytes": 5}],
        "seconds": {"running": 7.5},
    }
    ws.store.create(f"{_PREFIX}/collected.json", json.dumps(said).encode())
    progress(ws, "a", 1, {"checkpoints/one.pt": b"one\n"}, b"before\n")
    entry = Entry("checkpoints/l.pt", blob.digest, 5)
    assert saved_of(ws.store, "r", "retrain", 1) == SavedOfAttempt((entry,), blob.digest, 7.5)
    ws.ledger.close()


def test_on_this_machine_a_failure_and_a_cancel_say_it_too(session: Session) -> None:
    done = session.submit("--run-id", "failed", "--set", f"RETRAIN_EXTRA={_HALF} exit 7")
    assert done.code == 7
    assert "kept    1 checkpoint, 5 B: launcher restore failed" in done.lines
    waits = 'touch waiting; until [ -e "never" ]; do sleep 0.02; done'
    run = session.start_submit("--run-id", "stopped", "--set", f"RETRAIN_EXTRA={_HALF} {waits}")
    until((session.root / "waiting").exists, "it waits")
    assert session.launcher("cancel", "stopped").code == 0
    out, _ = run.communicate(timeout=60)
    line = "kept    1 checkpoint, 5 B: launcher restore stopped"
    assert line in out.decode().splitlines()
    assert line in session.look("status", "stopped").lines
    assert session.launcher("audit").code == 0
    (session.home / "stopped" / "checkpoints" / "half.pt").unlink()
    assert session.launcher("restore", "stopped").code == 0
    assert (session.home / "stopped" / "checkpoints" / "half.pt").read_text() == "half\n"
