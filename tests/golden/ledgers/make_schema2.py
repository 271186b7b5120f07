"""Writes schema2.jsonl, the golden ledger of schema 2 of StageSubmitted, whose handle names a Job's task.

Run once, before the first release of it; it refuses to overwrite what it wrote, as make_schema1 does.
"""

from __future__ import annotations

from pathlib import Path

from ledger import events as e
from ledger.ids import run_stream
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import Story, digest, keep, request

TARGET = Path(__file__).with_name("schema2.jsonl")
RUN = "20260301T020000Z-7f34"


def tell() -> MemoryEventStore:
    """One stage as a Job: its first pod was taken away, the second one ended well."""
    story, stream = Story(), run_stream(RUN)
    commands: dict[e.StageName, str | None] = {**dict.fromkeys(e.STAGES), "retrain": "python t.py"}
    wanted = request(RUN, commands, executor="kubernetes", promotion=None, slot=None, note=None)
    provenance = wanted.provenance.model_copy(update={"profile_digest": digest("profile")})
    story.say(stream, wanted.model_copy(update={"provenance": provenance}))
    for stage in ("llm_on", "relabel"):
        story.say(stream, e.StageSkipped.model_validate({"stage": stage, "reason": "no command"}))
    name = "grid-world-20260301t020000z-7f34-retrain-1-0a1b2c3d4e"
    intended = e.StageIntended(
        stage="retrain",
        attempt=1,
        executor="kubernetes",
        spec_digest=digest("retrain python t.py"),
        job_name=name,
    )
    story.say(stream, intended)
    handle = e.Handle(
        namespace="distill", job_name=name, job_uid="8d3f-01", task_digest=digest("task")
    )
    log = f"runs/self_distill/{RUN}/logs/03_retrain.log"
    story.say(stream, e.StageSubmitted(stage="retrain", attempt=1, handle=handle, log=log))
    for number in (1, 2):
        started = e.StageStarted(
            stage="retrain",
            attempt=1,
            node=f"gpu-{number}",
            image_digest=f"registry.example.com/train@{digest('image')}",
            pod_uid=f"pod-{number}",
        )
        story.say(stream, started, after=91.125)
    succeeded = e.StageSucceeded(
        stage="retrain",
        attempt=1,
        manifest_digest=digest("manifest retrain"),
        log_digest=digest("log retrain"),
        seconds=e.StageSeconds(queued=0.5, scheduled=1, pulling=2.5, running=91, collecting=0.125),
        gpus=2,
    )
    story.say(stream, succeeded)
    story.say(stream, e.StageSkipped(stage="llm_off", reason="no command"))
    story.say(stream, e.RunSucceeded())
    return story.store


if __name__ == "__main__":
    raise SystemExit(keep(TARGET, tell))
