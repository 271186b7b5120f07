"""``metadata.json``: one run as the written contract has it. Pure.

Fields: run_id, started_at, completed_at, config, teacher_checkpoint, teacher_scorecard,
student_checkpoint, stages[] (stage, status, command, log, attempt, started_at, completed_at, exit_code,
cause), status, metrics, ledger (position of the run's last folded event, root at that size).
"""

from __future__ import annotations

from typing import Any, Final

from ledger.decider import RunState, StageState, StageStatus

__all__ = ["metadata_document"]

_STAGE_STATUS: Final[dict[StageStatus, str]] = {
    "pending": "pending",
    "intended": "running",
    "submitted": "running",
    "running": "running",
    "succeeded": "completed",
    "failed": "failed",
    "skipped": "skipped",
    "reused": "completed",
}


def metadata_document(state: RunState, root: bytes) -> dict[str, Any]:
    """The document of a run that was requested; ``root`` is the Merkle root at its last event's size.

    Raises ValueError for a run that was never requested.
    """
    request = state.request
    if request is None:
        raise ValueError(f"{state.stream} was never requested")
    student = state.student
    teacher, scorecard = request.teacher_checkpoint, request.teacher_scorecard
    return {
        "run_id": state.run_id,
        "started_at": state.requested_at,
        "completed_at": state.ended_at,
        "config": request.config.path,
        "teacher_checkpoint": teacher.path if teacher else None,
        "teacher_scorecard": scorecard.path if scorecard else None,
        "student_checkpoint": student.path if student else None,
        "stages": [_stage(stage) for stage in state.stages.values()],
        "status": "running" if state.status == "open" else state.status,
        "metrics": dict(sorted(state.metrics.items())),
        "ledger": {"position": state.position, "root": root.hex()},
    }


def _stage(stage: StageState) -> dict[str, Any]:
    last = stage.failures[-1] if stage.failures and stage.status == "failed" else None
    exit_code = 0 if stage.status == "succeeded" else last.exit_code if last else None
    return {
        "stage": stage.plan.name,
        "status": _STAGE_STATUS[stage.status],
        "command": stage.plan.command,
        "log": stage.log,
        "attempt": stage.attempt,
        "started_at": stage.started_at,
        "completed_at": stage.completed_at,
        "exit_code": exit_code,
        "cause": last.cause if last else None,
    }
