"""Writes schema1_pipelines.jsonl, the golden ledger of the events of pipelines, which schema 1 got after its folders'.

Run once, before the first release of these events; it refuses to overwrite what it wrote, as make_schema1 does.
"""

from __future__ import annotations

from pathlib import Path

from ledger import events as e
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import Story, good_run, keep

TARGET = Path(__file__).with_name("schema1_pipelines.jsonl")
STREAM, SCHEDULE = "pipeline/nightly", "0 2 * * *"


def slot(day: int) -> str:
    return f"2026-02-{day:02d}T02:00:00Z"


def tell() -> MemoryEventStore:
    """A night that went well, one that nobody came for, one that overlapped, a pause, and its end."""
    story = Story()
    run = "nightly-20260201T0200Z"
    story.say(STREAM, e.SlotClaimed(slot=slot(1), run_id=run, schedule=SCHEDULE), actor="cron")
    good_run(story, run)
    story.say(STREAM, e.SlotMissed(slot=slot(2), schedule=SCHEDULE), actor="cron", after=172_800)
    passed = e.SlotPassedOver(
        slot=slot(3), schedule=SCHEDULE, cause="overlap", reason=f"{run} is still open"
    )
    story.say(STREAM, passed, actor="cron")
    paused = e.PipelinePaused(reason="3 runs in a row failed", failed=("a", "b", "c"))
    story.say(STREAM, paused, actor="cron")
    ended = e.PipelineUnpaused(reason="the planner is back", follows=story.last_id)
    story.say(STREAM, ended, actor="ana", after=604_800)
    story.say(STREAM, e.PipelinePaused(reason="holidays", follows=story.last_id), actor="ana")
    return story.store


if __name__ == "__main__":
    raise SystemExit(keep(TARGET, tell))
