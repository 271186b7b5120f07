"""Runs in a ledger and a store of their own, told as facts: no stage is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.settings import Settings
from launcher.storage.blobs import digest_bytes
from launcher.workspace import Workspace, open_workspace
from ledger import events as e

TAGS = "runs/self_distill/{run}/artifacts/tags.jsonl"
HOME = "runs/self_distill"


def open_project(root: Path, *, writing: bool = True) -> Workspace:
    """The workspace of a project in ``root``, with its default home."""
    root.mkdir(parents=True, exist_ok=True)
    settings = Settings.from_environment({}, root, {})
    return open_workspace(settings, root, writing=writing, actor="ana")


def digest(text: str) -> str:
    """A digest that stands for a file."""
    return digest_bytes(text.encode()).digest


def requested(ws: Workspace, run_id: str, **more: Any) -> e.RunRequested:
    """A request for a run of one relabel stage."""
    plan = e.StagePlan(name="relabel", command="python relabel.py", spec_digest=digest("relabel"))
    fields: dict[str, Any] = {
        "run_id": run_id,
        "project": "p",
        "project_root": str(ws.root),
        "output_root": HOME,
        "config": e.ConfigRef(path="c.env", digest=digest("config")),
        "stages": (plan,),
        "relabel_tag_file": TAGS.format(run=run_id),
        "provenance": e.Provenance(launcher_version="0.1.0"),
    }
    return e.RunRequested(**fields | more)


def say(ws: Workspace, run_id: str, *facts: e.EventData) -> None:
    """Append facts of a run."""
    ws.journal.record_run(run_id, lambda _: list(facts))


def relabelled(
    ws: Workspace, run_id: str, tags: bytes | None, *, ended: bool = True, **more: Any
) -> Path:
    """A run whose relabel stage left ``tags`` (None: no file), documents written. Returns the tag file's path."""
    request = requested(ws, run_id, **more)
    place = ws.root / (request.relabel_tag_file or "unset")
    blob = None
    if tags is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tags)
        blob = ws.store.ingest(place)
    stage: e.StageName = "relabel"
    say(ws, run_id, request)
    say(
        ws,
        run_id,
        e.StageIntended(stage=stage, attempt=1, executor="local", spec_digest=digest("relabel")),
    )
    say(
        ws,
        run_id,
        e.StageSubmitted(stage=stage, attempt=1, handle=e.Handle(pid=7), log="02_relabel.log"),
        e.StageStarted(stage=stage, attempt=1, node="n"),
        e.StageSucceeded(
            stage=stage, attempt=1, manifest_digest=digest("manifest"), log_digest=None
        ),
        e.RelabelTagsEmitted(
            tag_file=request.relabel_tag_file,
            digest=blob.digest if blob else None,
            size_bytes=blob.size_bytes if blob else None,
        ),
    )
    if ended:
        say(ws, run_id, e.RunSucceeded())
    ws.documents.write(run_id)
    return place


def promoted(ws: Workspace, pointer: str, run_id: str) -> None:
    """Say that a run's student became the next generation of ``pointer``."""
    now = ws.journal.pointer(pointer)
    number = now.latest + 1
    before = now.generations.get(number - 1)
    body = e.Generation(
        name=pointer,
        project="p",
        generation=number,
        kind="promotion",
        automatic=True,
        origin=number,
        digest=digest(f"{run_id} {number}"),
        size_bytes=9,
        run_id=run_id,
        promotion_id=digest(f"{pointer} {number}"),
        actor="ana",
        previous=e.PreviousGeneration(
            generation=number - 1, digest=before.digest if before else None
        ),
        time=ws.journal.clock(),
    )
    ws.journal.record_pointer(
        pointer, lambda _: [e.PromotionConfirmed(generation=body, imported=True)]
    )


def tag_events(ws: Workspace, run_id: str) -> list[e.Recorded[Any]]:
    """The tag events of a run, in order."""
    return [r for r in ws.ledger.read_stream(f"run/{run_id}") if r.type.startswith("RelabelTags")]
