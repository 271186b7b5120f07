"""Which facts a run's state holds already, so that saying them again adds nothing. Pure.

Two launchers that resume one run see the same result and say the same facts; the second one's are known.
A fact that contradicts the state is not known: the decider refuses it.
"""

from __future__ import annotations

from typing import Any

from ledger import events as e
from ledger.run_state import RunState, StageState

__all__ = ["already_said"]


def already_said(state: RunState, data: Any) -> bool:
    """Whether the state holds this fact, so that saying it again adds nothing."""
    match data:
        case e.RunRequested():
            return data == state.request
        case e.RunSucceeded():
            return state.status == "succeeded"
        case e.RunFailed() | e.RunCancelled():
            return data == state.end
        case e.CheckpointRecorded():
            return data in state.checkpoints
        case e.RelabelTagsEmitted():
            return state.tags is not None
        case e.RelabelTagsValidated() | e.RelabelTagsRejected() | e.RelabelTagsReopened():
            return state.tags is not None and data == state.tags.said
    stage = state.stages.get(data.stage) if hasattr(data, "stage") else None
    return stage is not None and _stage_said(stage, data)


def _stage_said(stage: StageState, data: Any) -> bool:
    """As ``already_said``, of a stage. An attempt ends once: of two failures the first stands."""
    match data:
        case e.StageSkipped():
            return stage.status == "skipped"
        case e.StageReused():
            return (stage.reused_from, stage.manifest_digest) == (data.of_run, data.manifest_digest)
        case e.StageFailed():
            return any(f.attempt == data.attempt for f in stage.failures)
    if stage.status == "reused" or stage.attempt < data.attempt:
        return False
    older = stage.attempt > data.attempt
    match data:
        case e.StageIntended():
            return True
        case e.StageSubmitted():
            return older or stage.status != "intended"
        case e.StageStarted():
            # A pod that is seen only after its attempt ended adds nothing to an ended attempt.
            over = older or stage.status in ("succeeded", "failed")
            return over or (data.pod_uid or "") in stage.pods
        case e.StageSucceeded():
            return not older and stage.status == "succeeded"
        case _:
            return stage.measured and not older
