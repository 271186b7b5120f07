"""A project's ledger and store with many finished runs in it, made without running anything."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import PointerHistory, Pointers
from ledger import events as e
from ledger.identity import identify
from ledger.ids import pointer_stream, promotion_id, run_stream
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["make_ledger"]

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def digest(text: str) -> str:
    """Some digest."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_ledger(root: Path, runs: int) -> list[str]:
    """``root/runs/self_distill`` with ``runs`` runs, one an hour; returns their ids, oldest first.

    Each fifth fails in retrain; all others are promoted to the pointer ``student``.
    """
    home = root / "runs" / "self_distill"
    ledger = SqliteEventStore(home / "ledger.db")
    pointers = Pointers(FilesystemStore(home / "objects"))
    ids: list[str] = []
    bodies: list[e.Generation] = []
    for number in range(runs):
        moment = (_BEGIN + timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        run_id = f"{moment[:19].replace('-', '').replace(':', '')}Z-{number:04x}"
        failed = number % 5 == 4
        stream = run_stream(run_id)
        facts = [identify(stream, data) for data in _facts(root, run_id, failed=failed)]
        ledger.append(stream, 0, facts, now=moment, actor="bench")
        ids.append(run_id)
        if not failed:
            body = _promotion(bodies, run_id, moment)
            pointers.create(body)
            said = [
                identify(pointer_stream("student"), data)
                for data in (
                    e.PromotionIntended(generation=body),
                    e.PromotionConfirmed(generation=body),
                )
            ]
            version = 2 * len(bodies)
            ledger.append(pointer_stream("student"), version, said, now=moment, actor="bench")
            bodies.append(body)
    ledger.close()
    return ids


def _promotion(before: list[e.Generation], run_id: str, moment: str) -> e.Generation:
    return PointerHistory("student", before).promotion_body(
        project="bench",
        automatic=True,
        digest=digest(run_id),
        size_bytes=1_900_000,
        run_id=run_id,
        promotion_id=promotion_id(run_id, "student"),
        actor="bench",
        reason=None,
        time=moment,
    )


def _facts(root: Path, run_id: str, *, failed: bool) -> list[e.EventData]:
    plans = tuple(
        e.StagePlan(name=name, command="python -m work", spec_digest=digest(name))
        for name in e.STAGES
    )
    facts: list[e.EventData] = [
        e.RunRequested(
            run_id=run_id,
            project="bench",
            project_root=str(root),
            output_root="runs/self_distill",
            config=e.ConfigRef(path="bench.env", digest=digest("config")),
            stages=plans,
            promotion=e.PromotionPlan(target="student"),
            provenance=e.Provenance(launcher_version="0.1.0"),
        )
    ]
    for plan in plans:
        facts += _stage(plan)
        if failed and plan.name == "retrain":
            return [*facts, *_failure()]
        facts.append(_success(plan))
        facts += _outputs(run_id, plan)
    return [*facts, e.RunSucceeded()]


def _stage(plan: e.StagePlan) -> list[e.EventData]:
    log = f"runs/self_distill/x/logs/{plan.name}.log"
    return [
        e.StageIntended(stage=plan.name, attempt=1, executor="local", spec_digest=plan.spec_digest),
        e.StageSubmitted(stage=plan.name, attempt=1, handle=e.Handle(machine_id="m"), log=log),
        e.StageStarted(stage=plan.name, attempt=1, node="m"),
    ]


def _success(plan: e.StagePlan) -> e.StageSucceeded:
    return e.StageSucceeded(
        stage=plan.name, attempt=1, manifest_digest=digest(plan.name), log_digest=digest("log")
    )


def _failure() -> list[e.EventData]:
    said = "the command ended with exit code 7"
    return [
        e.StageFailed(stage="retrain", attempt=1, exit_code=7, cause="application", message=said),
        e.RunFailed(stage="retrain", exit_code=7, cause="application", reason=said),
    ]


def _outputs(run_id: str, plan: e.StagePlan) -> list[e.EventData]:
    if plan.name == "relabel":
        return [e.RelabelTagsEmitted(tag_file=None, digest=None)]
    if plan.name == "retrain":
        return [
            e.CheckpointRecorded(
                path=f"runs/self_distill/{run_id}/checkpoints/student.pt",
                digest=digest(run_id),
                size_bytes=1_900_000,
                format="pt",
                stage="retrain",
                attempt=1,
                student=True,
            )
        ]
    if plan.name == "llm_off":
        return [e.MetricsRecorded(stage="llm_off", attempt=1, metrics={"success_rate": 0.5})]
    return []
