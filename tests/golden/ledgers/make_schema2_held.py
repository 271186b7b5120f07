"""Writes schema2_held.jsonl: schema 2 of what is requested, started and ended, which says what stages held.

Run once, before the first release of it; it refuses to overwrite what it wrote, as make_schema1 does.
"""

from __future__ import annotations

from pathlib import Path

from ledger import events as e
from ledger.ids import run_stream
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import Story, digest, keep, request

TARGET = Path(__file__).with_name("schema2_held.jsonl")
RUN = "20260302T020000Z-11c8"


def tell() -> MemoryEventStore:
    """A first attempt lost its node, the second one ran out of memory."""
    story, stream = Story(), run_stream(RUN)
    commands: dict[e.StageName, str | None] = {**dict.fromkeys(e.STAGES), "retrain": "python t.py"}
    wanted = request(RUN, commands, executor="kubernetes", promotion=None, slot=None, note=None)
    plans = [
        plan.model_copy(update={"infrastructure_retries": 1 if plan.command else None})
        for plan in wanted.stages
    ]
    story.say(stream, wanted.model_copy(update={"stages": tuple(plans)}))
    for stage in ("llm_on", "relabel"):
        story.say(stream, e.StageSkipped.model_validate({"stage": stage, "reason": "no command"}))
    _attempt(story, 1, pods=1)
    lost = e.StageFailed(
        stage="retrain",
        attempt=1,
        exit_code=None,
        cause="lost",
        message="its node was lost: gpu-1",
        seconds=e.StageSeconds(queued=0, scheduled=41, pulling=9, running=300),
        gpus=2,
        held=e.ResourceSeconds(gpus={"nvidia.com/gpu": 618}, cpu=1236, memory=9888),
    )
    story.say(stream, lost)
    _attempt(story, 2, pods=2)
    failed = e.StageFailed(
        stage="retrain",
        attempt=2,
        exit_code=137,
        cause="out_of_memory",
        message="it met its memory limit of 32Gi",
        log_digest=digest("log retrain"),
        seconds=e.StageSeconds(queued=11.5, scheduled=2, pulling=6, running=91, collecting=0.125),
        gpus=2,
        held=e.ResourceSeconds(gpus={"nvidia.com/gpu": 196.25}, cpu=392.5, memory=3140),
    )
    story.say(stream, failed)
    message = "it met its memory limit of 32Gi"
    story.say(
        stream,
        e.RunFailed(stage="retrain", exit_code=137, cause="out_of_memory", reason=message),
    )
    again = request(
        RUN + "b", commands, executor="kubernetes", promotion=None, slot=None, note=None
    )
    _succeeded(story, again)
    return story.store


def _attempt(story: Story, number: int, *, pods: int, run_id: str = RUN) -> None:
    stream, name = run_stream(run_id), f"grid-world-retrain-{number}-0a1b2c3d4e"
    intended = e.StageIntended(
        stage="retrain",
        attempt=number,
        executor="kubernetes",
        spec_digest=digest("retrain python t.py"),
        job_name=name,
    )
    handle = e.Handle(
        namespace="distill", job_name=name, job_uid=f"8d3f-{number}", task_digest=digest("task")
    )
    log = f"runs/self_distill/{run_id}/logs/03_retrain.log"
    story.say(stream, intended)
    story.say(stream, e.StageSubmitted(stage="retrain", attempt=number, handle=handle, log=log))
    for pod in range(1, pods + 1):
        started = e.StageStarted(
            stage="retrain",
            attempt=number,
            node=f"gpu-{pod}",
            image_digest=f"registry.example.com/train@{digest('image')}",
            pod_uid=f"pod-{number}-{pod}",
            held_since=f"2026-03-02T02:0{number}:0{pod}Z",
        )
        story.say(stream, started)


def _succeeded(story: Story, wanted: e.RunRequested) -> None:
    stream = run_stream(wanted.run_id)
    story.say(stream, wanted)
    for stage in ("llm_on", "relabel"):
        story.say(stream, e.StageSkipped.model_validate({"stage": stage, "reason": "no command"}))
    _attempt(story, 1, pods=1, run_id=wanted.run_id)
    succeeded = e.StageSucceeded(
        stage="retrain",
        attempt=1,
        manifest_digest=digest("manifest retrain"),
        log_digest=digest("log retrain"),
        seconds=e.StageSeconds(queued=0, scheduled=1, pulling=3, running=91, collecting=0.125),
        gpus=1,
        held=e.ResourceSeconds(gpus={"amd.com/gpu": 94.125}, cpu=94.125, memory=1506),
    )
    story.say(stream, succeeded)
    story.say(stream, e.StageSkipped(stage="llm_off", reason="no command"))
    story.say(stream, e.RunSucceeded())


if __name__ == "__main__":
    raise SystemExit(keep(TARGET, tell))
