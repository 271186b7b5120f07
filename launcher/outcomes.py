"""From a committed result to the facts that it proves. Pure.

A result with exit code 0 and no ``closed_by`` is a success and nothing else is: a trainer that caught
SIGTERM at a timeout, saved half a student and exited 0 has a result that says ``closed_by`` timeout.

A fact is at most 64 KiB, while a trainer may leave a thousand checkpoints and as many metrics: what does
not fit is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, get_args

from launcher.executors.port import StageResult
from ledger import events as e
from ledger.decider import StageState

__all__ = ["result_events"]

#: The part of an event that each of these may fill.
_METRICS_LIMIT_BYTES: Final = 24 * 1024
_NAMES_LIMIT_BYTES: Final = 12 * 1024
_MESSAGE_LIMIT_BYTES: Final = 4 * 1024

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
    launcher died in between) gets that fact first, and that it started if it did.
    """
    name, attempt = stage.plan.name, stage.attempt
    facts: list[e.EventData] = []
    if stage.status == "intended":
        handle = result.handle or e.Handle()
        facts.append(e.StageSubmitted(stage=name, attempt=attempt, handle=handle, log=log))
        if result.handle is not None and result.handle.job_name is None:
            node = handle.machine_id or "unknown"
            facts.append(e.StageStarted(stage=name, attempt=attempt, node=node))
    seconds, held = _spent(stage, result)
    if result.closed_by is not None or result.exit_code != 0 or result.manifest_digest is None:
        return [*facts, _failure(stage, result, seconds, held)]
    facts.append(
        e.StageSucceeded(
            stage=name,
            attempt=attempt,
            manifest_digest=result.manifest_digest,
            log_digest=result.log_digest,
            seconds=seconds,
            gpus=result.gpus,
            held=held,
            watch_restarts=result.watch_restarts,
        )
    )
    return [*facts, *_outputs(request, stage, result)]


def _spent(
    stage: StageState, result: StageResult
) -> tuple[e.StageSeconds, e.ResourceSeconds | None]:
    """Where the time went and what was held; both of all pods, those on record that nobody could count too.

    A launcher that came later does not see pods that were gone by then. One that is on record was there from when its
    node took it, and at most until the first that was counted was made: that time it ran. What it had waited for its
    node counts as queued.
    """
    gone = [since for uid, since in stage.held_since.items() if uid not in result.counted]
    more = 0.0
    if gone and result.counted_since:
        ends, begins = result.counted_since, min(gone, key=datetime.fromisoformat)
        passed = datetime.fromisoformat(ends) - datetime.fromisoformat(begins)
        more = max(passed.total_seconds(), 0.0)
    queued, running = result.queued_seconds, result.running_seconds
    seconds = e.StageSeconds(
        queued=max(queued - more, 0.0) if queued is not None else None,
        scheduled=result.scheduled_seconds,
        pulling=result.pulling_seconds,
        running=(running or 0.0) + more if more else running,
        collecting=result.collecting_seconds,
    )
    had, held = result.asked, result.held_seconds + more
    if had is None:
        return seconds, None
    gpus = {name: count * held for name, count in had.gpus.items()}
    return seconds, e.ResourceSeconds(gpus=gpus, cpu=had.cpu * held, memory=had.memory * held)


def _failure(
    stage: StageState,
    result: StageResult,
    seconds: e.StageSeconds,
    held: e.ResourceSeconds | None,
) -> e.StageFailed:
    closed = result.closed_by
    cause: e.Cause = "application"
    if closed is not None:
        cause = closed if closed in get_args(e.Cause) else "lost"  # type: ignore[assignment]
    elif result.oom_kills:
        cause = "out_of_memory"
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
        message=_shortened(message),
        log_digest=result.log_digest,
        seconds=seconds,
        gpus=result.gpus,
        held=held,
        watch_restarts=result.watch_restarts,
    )


def _outputs(request: e.RunRequested, stage: StageState, result: StageResult) -> list[e.EventData]:
    name, attempt = stage.plan.name, stage.attempt
    facts: list[e.EventData] = []
    run_dir = f"{request.output_root}/{request.run_id}"
    also = _fitting([f"{run_dir}/{path}" for path in reversed(result.also_matched)])
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
                also_matched=also if saved.student else (),
            )
        )
    if result.metrics or result.metrics_ignored:
        kept = _kept_metrics(result)
        ignored = [*result.metrics_ignored, *sorted(result.metrics.keys() - kept.keys())]
        facts.append(
            e.MetricsRecorded(stage=name, attempt=attempt, metrics=kept, ignored=_fitting(ignored))
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


def _kept_metrics(result: StageResult) -> dict[str, float]:
    """The metrics that fit into one event, shorter names first: those are the ones that gates name."""
    kept: dict[str, float] = {}
    room = _METRICS_LIMIT_BYTES
    for name in sorted(result.metrics, key=lambda n: (len(n), n)):
        room -= _size(name) + 32
        if room < 0:
            break
        kept[name] = result.metrics[name]
    return kept


def _fitting(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` as far as they fit into one event; the last one says how many more there were."""
    kept: list[str] = []
    room = _NAMES_LIMIT_BYTES
    for name in names:
        room -= _size(name) + 3
        if room < 0:
            return (*kept, f"… and {len(names) - len(kept)} more")
        kept.append(name)
    return tuple(kept)


def _shortened(message: str) -> str:
    """A message that fits into an event, its end cut off if need be."""
    data = message.encode()
    if len(data) <= _MESSAGE_LIMIT_BYTES:
        return message
    return data[:_MESSAGE_LIMIT_BYTES].decode("utf-8", "ignore") + "…"


def _size(text: str) -> int:
    """Bytes in an event, at most: a character that JSON escapes takes up to six."""
    return sum(6 if ord(c) < 32 or c in '"\\' else len(c.encode()) for c in text)
