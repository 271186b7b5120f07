"""Writes schema3.jsonl, the golden ledger of schema 3 of how stages end, which says how many watches broke.

Run once, before the first release of it; it refuses to overwrite what it wrote, as make_schema1 does.
"""

from __future__ import annotations

from pathlib import Path

from ledger import events as e
from ledger.ids import run_stream
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import Story, digest, keep, request

TARGET = Path(__file__).with_name("schema3.jsonl")
RUN = "20260303T020000Z-5e21"
_HELD = e.ResourceSeconds(gpus={"nvidia.com/gpu": 94.125}, cpu=94.125, memory=1506)


def tell() -> MemoryEventStore:
    """The API server went in the first attempt, which its command's own failure ended; the second had no trouble."""
    story, stream = Story(), run_stream(RUN)
    commands: dict[e.StageName, str | None] = {**dict.fromkeys(e.STAGES), "retrain": "python t.py"}
    wanted = request(RUN, commands, executor="kubernetes", promotion=None, slot=None, note=None)
    story.say(stream, wanted)
    for stage in ("llm_on", "relabel"):
        story.say(stream, e.StageSkipped.model_validate({"stage": stage, "reason": "no command"}))
    _begun(story, 1)
    failed = e.StageFailed(
        stage="retrain",
        attempt=1,
        exit_code=1,
        cause="application",
        message="the command ended with exit code 1",
        log_digest=digest("log retrain"),
        seconds=e.StageSeconds(queued=0, scheduled=1, pulling=3, running=91, collecting=0.125),
        gpus=1,
        held=_HELD,
        watch_restarts=3,
    )
    story.say(stream, failed)
    _begun(story, 2)
    succeeded = e.StageSucceeded(
        stage="retrain",
        attempt=2,
        manifest_digest=digest("manifest retrain"),
        log_digest=digest("log retrain 2"),
        seconds=e.StageSeconds(queued=0, scheduled=1, pulling=0, running=92, collecting=0.125),
        gpus=1,
        held=_HELD,
        watch_restarts=0,
    )
    story.say(stream, succeeded)
    story.say(stream, e.StageSkipped(stage="llm_off", reason="no command"))
    story.say(stream, e.RunSucceeded())
    return story.store


def _begun(story: Story, attempt: int) -> None:
    stream, name = run_stream(RUN), f"grid-world-retrain-{attempt}-0a1b2c3d4e"
    intended = e.StageIntended(
        stage="retrain",
        attempt=attempt,
        executor="kubernetes",
        spec_digest=digest("retrain python t.py"),
        job_name=name,
    )
    handle = e.Handle(
        namespace="distill", job_name=name, job_uid=f"8d3f-{attempt}", task_digest=digest("task")
    )
    log = f"runs/self_distill/{RUN}/logs/03_retrain{f'.{attempt}' if attempt > 1 else ''}.log"
    started = e.StageStarted(
        stage="retrain",
        attempt=attempt,
        node="gpu-1",
        image_digest=f"registry.example.com/train@{digest('image')}",
        pod_uid=f"pod-{attempt}",
        held_since=f"2026-03-03T02:0{attempt}:00Z",
    )
    story.say(stream, intended)
    story.say(stream, e.StageSubmitted(stage="retrain", attempt=attempt, handle=handle, log=log))
    story.say(stream, started)


if __name__ == "__main__":
    raise SystemExit(keep(TARGET, tell))
