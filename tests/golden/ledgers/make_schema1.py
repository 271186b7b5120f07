"""Writes schema1.jsonl, the golden ledger of schema 1: one canonical event a line, in position order.

Run once, before the first release of schema 1; a golden ledger is never written again, so this refuses to
overwrite one. A later schema gets a file and a script of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from ledger import events as e
from ledger.identity import identify
from ledger.ids import pointer_stream, promotion_id, run_stream
from ledger.stores.memory import MemoryEventStore

TARGET = Path(__file__).with_name("schema1.jsonl")
POINTER = "checkpoints/stable/student_latest.pt"
ROOT = "/home/ana/grid world"
START = datetime(2026, 1, 31, 2, 0, 0, 250, tzinfo=UTC)


def digest(text: str) -> str:
    """A digest that stands for a file."""
    return "sha256:" + sha256(text.encode()).hexdigest()


class Story:
    """A ledger under construction; each chapter is one append, some seconds after the one before."""

    def __init__(self) -> None:
        self.store = MemoryEventStore()
        self.moment = START
        self.last_id = ""

    def time(self) -> str:
        return self.moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def say(
        self, stream: str, *data: e.EventData, actor: str = "cron nightly", after: float = 7.5
    ) -> None:
        self.moment += timedelta(seconds=after)
        version = len(self.store.read_stream(stream))
        facts = [identify(stream, d, self.time() if stream == "storage" else "") for d in data]
        self.store.append(stream, version, facts, now=self.time(), actor=actor)
        self.last_id = facts[-1].id


def request(run_id: str, commands: dict[e.StageName, str | None], **more: object) -> e.RunRequested:
    plans = tuple(
        e.StagePlan(
            name=name,
            command=commands[name],
            spec_digest=digest(f"{name} {commands[name]}"),
            retries=1 if name == "retrain" else 0,
            timeout_seconds=3600 if name == "retrain" else None,
        )
        for name in e.STAGES
    )
    return e.RunRequested.model_validate(
        {
            "run_id": run_id,
            "project": "grid-world",
            "project_root": ROOT,
            "output_root": "runs/self_distill",
            "config": e.ConfigRef(
                path="configs/self_distill/grid.env",
                digest=digest("config"),
                overrides={"EPOCHS": "5", "PLANNER_API_KEY": None},
            ),
            "stages": plans,
            "teacher_checkpoint": e.InputRef(
                ref="checkpoints/preplan.pt",
                path="checkpoints/preplan.pt",
                digest=digest("teacher"),
                size_bytes=48_213_120,
            ),
            "teacher_scorecard": e.InputRef(
                ref="results/calibration/teacher_scorecard.json",
                path="results/calibration/teacher_scorecard.json",
                digest=digest("scorecard"),
                size_bytes=911,
            ),
            "inputs": (
                e.InputRef(
                    ref="roms/*.gba",
                    path="roms/größe.gba",
                    digest=digest("rom"),
                    size_bytes=16_777_216,
                    stored=False,
                ),
            ),
            "relabel_tag_file": "planlets/tags.jsonl",
            "labels": {"team": "lab-3"},
            "provenance": e.Provenance(
                source_commit="a1b2c3d4e5f60718293a4b5c6d7e8f9001122334",
                dirty=3,
                code_digest=digest("code"),
                launcher_version="0.1.0",
            ),
            **more,
        }
    )


COMMANDS: dict[e.StageName, str | None] = {
    "llm_on": 'python capture.py --out "{ARTIFACT_DIR}/planlets.jsonl" | tee "$LOG_DIR/capture.txt"',
    "relabel": "python relabel.py && sort -u tags.jsonl > planlets/tags.jsonl",
    "retrain": "python retrain.py --epochs $EPOCHS --run {RUN_ID}",
    "llm_off": "python evaluate.py --text 'naïve ✓ \U0001f680'",
}


def attempt(story: Story, stream: str, stage: e.StageName, n: int, *end: e.EventData) -> None:
    """One attempt at a stage, from its intent to ``end``."""
    intended = e.StageIntended(
        stage=stage, attempt=n, executor="local", spec_digest=digest(f"{stage} {COMMANDS[stage]}")
    )
    story.say(stream, intended, after=0.031)
    handle = e.Handle(
        machine_id="9f3c", pid=4000 + n, started=1769824800.25 + n, boot_id="b00t-0001"
    )
    number = e.STAGES.index(stage) + 1
    log = f"logs/{number:02d}_{stage}{'' if n == 1 else f'.{n}'}.log"
    story.say(stream, e.StageSubmitted(stage=stage, attempt=n, handle=handle, log=log), after=0.002)
    story.say(stream, e.StageStarted(stage=stage, attempt=n, node="gpu-3"), after=0.01)
    story.say(stream, *end, after=91.125)


def succeeded(stage: e.StageName, n: int = 1) -> e.StageSucceeded:
    return e.StageSucceeded(
        stage=stage,
        attempt=n,
        manifest_digest=digest(f"manifest {stage}"),
        log_digest=digest(f"log {stage}"),
        seconds=e.StageSeconds(running=91.0, collecting=0.125),
        gpus=2 if stage == "retrain" else 0,
    )


def student(run_id: str) -> e.CheckpointRecorded:
    return e.CheckpointRecorded(
        path=f"runs/self_distill/{run_id}/checkpoints/student_005.pt",
        digest=digest(f"student {run_id}"),
        size_bytes=48_213_504,
        format="pt",
        stage="retrain",
        attempt=2,
        student=True,
        also_matched=(f"runs/self_distill/{run_id}/checkpoints/student_004.pt",),
    )


def generation(
    number: int,
    kind: str,
    content: str | None,
    *,
    origin: int,
    previous: str | None,
    time: str,
    run_id: str | None = None,
) -> e.Generation:
    automatic = kind == "promotion"
    decided = promotion_id(run_id, POINTER) if automatic and run_id else f"by-hand-{number}"
    return e.Generation.model_validate(
        {
            "name": POINTER,
            "project": "grid-world",
            "generation": number,
            "kind": kind,
            "automatic": automatic,
            "origin": origin,
            "digest": content,
            "size_bytes": 48_213_504,
            "run_id": run_id,
            "promotion_id": decided,
            "actor": "cron nightly" if automatic else "ana",
            "reason": "stuck in menus" if kind == "rollback" else None,
            "previous": {"generation": number - 1, "digest": previous},
            "time": time,
        }
    )


def good_run(story: Story, run_id: str) -> None:
    """Four stages, the third at its second attempt; tags checked downstream."""
    stream = run_stream(run_id)
    plan = e.PromotionPlan(target=POINTER, gate="success_rate >= 0.9")
    story.say(
        stream,
        request(run_id, COMMANDS, promotion=plan, slot="nightly/2026-01-31T02:00Z", note="first"),
    )
    attempt(story, stream, "llm_on", 1, succeeded("llm_on"))
    tags = e.RelabelTagsEmitted(
        tag_file="planlets/tags.jsonl", digest=digest("tags"), size_bytes=80_221
    )
    attempt(story, stream, "relabel", 1, succeeded("relabel"), tags)
    emitted = story.last_id
    failed = e.StageFailed(
        stage="retrain",
        attempt=1,
        exit_code=1,
        cause="application",
        message="CUDA error: “device busy”",
        log_digest=digest("log retrain 1"),
        seconds=e.StageSeconds(running=12.0, collecting=0.5),
    )
    attempt(story, stream, "retrain", 1, failed)
    attempt(story, stream, "retrain", 2, succeeded("retrain", 2), student(run_id))
    metrics = e.MetricsRecorded(
        stage="llm_off",
        attempt=1,
        metrics={"success_rate": 0.931, "episodes": 60.0, "lr": 1e-7, "seen": 1e20, "drift": -0.0},
        ignored=("comment",),
    )
    attempt(story, stream, "llm_off", 1, succeeded("llm_off"), metrics)
    story.say(
        stream,
        e.RelabelTagsValidated(
            tag_file="planlets/tags.jsonl",
            digest=digest("tags"),
            schema_digest=digest("planlet-v0.1"),
            counts={"planlets": 1187, "duplicates": 17},
            follows=emitted,
        ),
    )
    story.say(stream, e.RunSucceeded(), after=0.01)


def bad_run(story: Story, run_id: str, before: str) -> None:
    """A retry that reuses the capture, fails for good, and whose tags are rejected and reopened by a job."""
    stream = run_stream(run_id)
    wanted = request(run_id, {**COMMANDS, "llm_off": None})
    provenance = wanted.provenance.model_copy(update={"retry_of": before})
    story.say(stream, wanted.model_copy(update={"provenance": provenance}))
    story.say(
        stream,
        e.StageReused(
            stage="llm_on", of_run=before, attempt=1, manifest_digest=digest("manifest llm_on")
        ),
    )
    tags = e.RelabelTagsEmitted(tag_file="planlets/tags.jsonl", digest=digest("tags 2"))
    attempt(story, stream, "relabel", 1, succeeded("relabel"), tags)
    rejected = e.RelabelTagsRejected(
        tag_file="planlets/tags.jsonl",
        digest=digest("tags 2"),
        counts={"planlets": 3},
        errors=("line 2: planlet_id is empty",),
        follows=story.last_id,
    )
    story.say(stream, rejected)
    reopened = e.RelabelTagsReopened(
        tag_file="planlets/tags.jsonl", digest=digest("tags 2"), follows=story.last_id
    )
    story.say(stream, reopened, actor="file")
    for n in (1, 2):
        failed = e.StageFailed(
            stage="retrain", attempt=n, exit_code=137, cause="application", message="killed"
        )
        attempt(story, stream, "retrain", n, failed)
    story.say(
        stream, e.RunFailed(stage="retrain", exit_code=137, cause="application", reason="killed")
    )


def short_run(story: Story, run_id: str, *, cancelled: bool) -> None:
    """Nothing but skipped stages; or cancelled before the first."""
    stream = run_stream(run_id)
    story.say(stream, request(run_id, dict.fromkeys(e.STAGES)), actor="ana")
    if cancelled:
        story.say(stream, e.RunCancelled(stage=None, reason="Ctrl-C"), actor="ana")
        return
    skips = [e.StageSkipped(stage=stage, reason="no command") for stage in e.STAGES]
    story.say(stream, *skips, actor="ana")
    story.say(stream, e.RunSucceeded(), actor="ana")


def promote(story: Story, run_id: str) -> None:
    """A file that was there is adopted as generation 1, the run's student becomes generation 2."""
    stream, old, new = pointer_stream(POINTER), digest("old student"), digest(f"student {run_id}")
    for body in (
        generation(1, "adoption", old, origin=1, previous=None, time=story.time()),
        generation(2, "promotion", new, origin=2, previous=old, time=story.time(), run_id=run_id),
    ):
        backup = f"{POINTER}.bak.{run_id}" if body.generation == 2 else None
        path = student(run_id).path if body.generation == 2 else None
        story.say(stream, e.PromotionIntended(generation=body, promoted_from=path, backup=backup))
        story.say(
            stream,
            e.PromotionConfirmed(generation=body, promoted_from=path, backup=backup),
            after=0.2,
        )


def turn_back(story: Story, run_id: str, late: str) -> None:
    """Rolled back to generation 1, held, refused, released; an intent that lost its number to a fence."""
    stream, old, new = pointer_stream(POINTER), digest("old student"), digest(f"student {run_id}")
    back = generation(3, "rollback", old, origin=1, previous=new, time=story.time())
    story.say(stream, e.PromotionIntended(generation=back), actor="ana")
    story.say(
        stream,
        e.PromotionConfirmed(generation=back),
        e.PointerHeld(generation=3, reason="stuck in menus"),
        actor="ana",
    )
    refused = e.PromotionRefused(
        promotion_id=promotion_id(late, POINTER),
        kind="promotion",
        run_id=late,
        automatic=True,
        cause="held",
        reason="held since generation 3",
    )
    story.say(stream, refused)
    story.say(stream, e.PointerReleased(generation=3, reason="fixed"), actor="ana")
    wanted = generation(4, "promotion", new, origin=4, previous=old, time=story.time())
    story.say(stream, e.PromotionIntended(generation=wanted), actor="ana")
    fence = generation(4, "fence", old, origin=1, previous=old, time=story.time()).model_copy(
        update={"promotion_id": "fence-4"}
    )
    aborted = e.PromotionAborted(
        promotion_id=wanted.promotion_id, run_id=None, winner=fence, reason="the blob is missing"
    )
    story.say(stream, aborted, actor="ana")


def storage(story: Story, run_id: str) -> None:
    story.say(
        "storage",
        e.StorageMeasured(
            store="runs/self_distill/objects",
            bytes_by_class={"students": 96_427_008, "logs": 40_112, "backups": 48_213_504},
            free_bytes=812_004_331_520,
            obsolete=(
                e.ObsoleteCheckpoint(
                    path=f"{POINTER}.bak.{run_id}", size_bytes=48_213_504, why="superseded backup"
                ),
            ),
            obsolete_count=1,
            obsolete_bytes=48_213_504,
            run_id=run_id,
        ),
    )
    plan = digest("garbage plan")
    story.say("storage", e.GarbagePlanned(plan_digest=plan, objects=12, size_bytes=9_000_111))
    story.say(
        "storage",
        e.GarbageCollected(plan_digest=plan, objects=12, size_bytes=9_000_111),
        after=604_800,
    )


def tell() -> MemoryEventStore:
    """The whole ledger."""
    story = Story()
    first, second, third, fourth = (f"2026013{n}T020000Z-7f3{n}" for n in range(4))
    good_run(story, first)
    promote(story, first)
    storage(story, first)
    bad_run(story, second, first)
    short_run(story, third, cancelled=False)
    turn_back(story, first, third)
    short_run(story, fourth, cancelled=True)
    return story.store


def keep(target: Path, tell: Callable[[], MemoryEventStore]) -> int:
    """Write what ``tell`` tells to ``target``, once and never again; the exit code."""
    try:
        with target.open("xb") as file:
            file.writelines(stored.raw + b"\n" for stored in tell().read_raw())
    except FileExistsError:
        print(f"{target.name} exists; a golden ledger is never written again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(keep(TARGET, tell))
