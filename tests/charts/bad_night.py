"""A project in whose morning everything is wrong that an alert is about."""

from __future__ import annotations

from functools import partial

from launcher.settings import Settings
from launcher.workspace import open_workspace
from ledger import events as e
from tests.cli.session import GIVEN, Session

__all__ = ["LABELS", "bad_night", "on_a_cluster"]

#: Of every series of the release ``nightly`` in ``distill``, as its PodMonitor makes them.
LABELS = {"namespace": "distill", "release": "nightly"}


def bad_night(session: Session) -> Session:
    """A slot with a success, one that nobody came for, one that failed; and what else may be wrong in a morning."""
    flags = ("--schedule", "0 * * * *", "--pause-after", "1", "--", "--config", "loop.env", *GIVEN)
    promoting = (*flags, "--promotion-target", "student")
    for number in ("0", "1"):
        slot = f"2026-02-01T0{number}:00:00Z"
        assert session.launcher("cron", "nightly", "--slot", slot, *promoting).code == 0
    failing = (*promoting, "--set", "RETRAIN_EXTRA=exit 7")
    assert session.launcher("cron", "nightly", "--slot", "2026-02-01T03:00:00Z", *failing).code == 7
    assert session.launcher("rollback", "student", "--yes").code == 0
    # Held: it succeeds, and is not promoted.
    weekly = ("cron", "weekly", "--slot", "2026-02-01T03:00:00Z", *promoting)
    assert session.launcher(*weekly).code == 3
    # Well, and seldom.
    assert session.launcher("cron", "monthly", "--slot", "2026-02-01T00:00:00Z", *flags).code == 0
    digest = session.json("pointers", "student")["live"]["digest"].removeprefix("sha256:")
    blob = session.home / "objects" / "blobs" / "sha256" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().swapcase())
    on_a_cluster(session, "v", fails=True)
    on_a_cluster(session, "w", fails=False)
    return session


def on_a_cluster(session: Session, run_id: str, *, fails: bool) -> None:
    """What a launcher writes of a run that had a GPU there and failed, or of one that waits for a node."""
    ws = open_workspace(
        Settings.from_environment(session.env(), session.root, {}), session.root, writing=True
    )
    request = ws.journal.run(next(iter(ws.journal.run_ids()))).request
    assert request is not None
    first = request.stages[0]
    facts: list[e.EventData] = [
        request.model_copy(update={"run_id": run_id, "slot": None}),
        e.StageIntended(
            stage=first.name, attempt=1, executor="kubernetes", spec_digest=first.spec_digest
        ),
    ]
    why = {"exit_code": None, "cause": "out_of_memory"}
    if fails:
        failed = e.StageFailed(
            stage=first.name,
            attempt=1,
            message="killed at its limit",
            seconds=e.StageSeconds(queued=1, scheduled=2, pulling=3, running=4),
            held=e.ResourceSeconds(gpus={"nvidia.com/gpu": 10}, cpu=20, memory=30),
            **why,
        )
        facts += [failed, e.RunFailed(stage=first.name, reason="killed", **why)]
    for fact in facts:
        ws.journal.record_run(run_id, partial(_said, fact))
    ws.documents.write(run_id)
    ws.ledger.close()


def _said(fact: e.EventData, _state: object) -> list[e.EventData]:
    return [fact]
