"""From a committed result to the facts that it proves. Pure.

A result with exit code 0 and no ``closed_by`` is a success and nothing else is: a trainer that caught
SIGTERM at a timeout, saved half a student and exited 0 has a result that says ``closed_by`` timeout.
"""

from __future__ import annotations

from typing import Final, get_args

from launcher.executors.port import StageResult
from ledger import events as e
from ledger.decider import StageState

__all__ = ["result_events"]

_MESSAGES: Final[dict[str, str]] = {
    "timeout": "it ran past its time limit and was stopped",
    "cancelled": "it was cancelled",
    "lost": "its supervisor ended without a result",
    "outputs": "its outputs were refused",
    "storage": "its outputs could not be stored",
}


def result_events(
    request: e.RunRequested, stage: StageState, result: StageResult, log: str
) -> list[e.EventData]:
    """Everything that a result says, in the order in which it is to be appended as one batch.

    ``log`` is the attempt's log, project-relative. An attempt that was never recorded as submitted (the
    launcher died in between) gets that fact first.
    """
    name, attempt = stage.plan.name, stage.attempt
    facts: list[e.EventData] = []
    if stage.status == "intended":
        handle = result.handle or e.Handle()
        facts.append(e.StageSubmitted(stage=name, attempt=attempt, handle=handle, log=log))
    seconds = e.StageSeconds(running=result.running_seconds, collecting=result.collecting_seconds)
    if result.closed_by is not None or result.exit_code != 0 or result.manifest_digest is None:
        return [*facts, _failure(stage, result, seconds)]
    facts.append(
        e.StageSucceeded(
            stage=name,
            attempt=attempt,
            manifest_digest=result.manifest_digest,
            log_digest=result.log_digest,
            seconds=seconds,
        )
    )
    return [*facts, *_outputs(request, stage, result)]


def _failure(stage: StageState, result: StageResult, seconds: e.StageSeconds) -> e.StageFailed:
    closed = result.closed_by
    cause: e.Cause = "application"
    if closed is not None:
        cause = closed if closed in get_args(e.Cause) else "lost"  # type: ignore[assignment]
    message = result.message or (
        _MESSAGES.get(cause, cause)
        if closed
        else f"the command ended with exit code {result.exit_code}"
    )
    return e.StageFailed(
        stage=stage.plan.name,
        attempt=stage.attempt,
        exit_code=result.exit_code if closed is None else None,
        cause=cause,
        message=message,
        log_digest=result.log_digest,
        seconds=seconds,
    )


def _outputs(request: e.RunRequested, stage: StageState, result: StageResult) -> list[e.EventData]:
    name, attempt = stage.plan.name, stage.attempt
    facts: list[e.EventData] = []
    run_dir = f"{request.output_root}/{request.run_id}"
    for saved in result.checkpoints:
        facts.append(
            e.CheckpointRecorded(
                path=f"{run_dir}/{saved.path}",
                digest=saved.digest,
                size_bytes=saved.size_bytes,
                format=saved.format,
                stage=name,
                attempt=attempt,
                student=saved.student,
                also_matched=tuple(f"{run_dir}/{p}" for p in result.also_matched)
                if saved.student
                else (),
            )
        )
    if result.metrics or result.metrics_ignored:
        facts.append(
            e.MetricsRecorded(
                stage=name,
                attempt=attempt,
                metrics=dict(result.metrics),
                ignored=tuple(result.metrics_ignored),
            )
        )
    if name == "relabel":
        tags = result.tag_file
        facts.append(
            e.RelabelTagsEmitted(
                tag_file=request.relabel_tag_file,
                digest=tags.digest if tags else None,
                size_bytes=tags.size_bytes if tags else None,
            )
        )
    return facts
