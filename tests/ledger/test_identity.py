"""What makes each fact unique: saying it again is the same id, and a different fact never is."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from ledger import events as e
from ledger.events import EVENT_TYPES
from ledger.identity import identify
from ledger.ids import promotion_id
from tests.ledger.samples import requested

ZERO, ONE = "sha256:" + "0" * 64, "sha256:" + "1" * 64


def body(number: int = 1, promotion: str = "p1", reason: str | None = None) -> e.Generation:
    return e.Generation(
        name="student",
        project="p",
        generation=number,
        kind="promotion",
        automatic=True,
        origin=number,
        digest=ZERO,
        size_bytes=1,
        run_id="r",
        promotion_id=promotion,
        actor="ana",
        reason=reason,
        previous=e.PreviousGeneration(generation=0, digest=None),
        time="t",
    )


SAMPLES: dict[str, e.EventData] = {
    "RunRequested": requested("0.1.0"),
    "StageIntended": e.StageIntended(stage="llm_on", attempt=1, executor="local", spec_digest=ZERO),
    "StageSubmitted": e.StageSubmitted(stage="llm_on", attempt=1, handle=e.Handle(pid=1), log="l"),
    "StageStarted": e.StageStarted(stage="llm_on", attempt=1, node="n"),
    "StageSucceeded": e.StageSucceeded(
        stage="llm_on", attempt=1, manifest_digest=ZERO, log_digest=None
    ),
    "StageFailed": e.StageFailed(
        stage="llm_on", attempt=1, exit_code=1, cause="application", message="m"
    ),
    "StageSkipped": e.StageSkipped(stage="llm_on", reason="r"),
    "StageReused": e.StageReused(stage="llm_on", of_run="b", attempt=1, manifest_digest=ZERO),
    "RelabelTagsEmitted": e.RelabelTagsEmitted(tag_file="t", digest=ZERO),
    "RelabelTagsValidated": e.RelabelTagsValidated(tag_file="t", digest=ZERO, follows="f"),
    "RelabelTagsRejected": e.RelabelTagsRejected(tag_file="t", digest=ZERO, follows="f"),
    "RelabelTagsReopened": e.RelabelTagsReopened(tag_file="t", digest=ZERO, follows="f"),
    "CheckpointRecorded": e.CheckpointRecorded(
        path="c.pt", digest=ZERO, size_bytes=1, format="pt", stage="llm_on", attempt=1
    ),
    "MetricsRecorded": e.MetricsRecorded(stage="llm_on", attempt=1, metrics={}),
    "RunSucceeded": e.RunSucceeded(),
    "RunFailed": e.RunFailed(stage="llm_on", exit_code=1, cause="application", reason="r"),
    "RunCancelled": e.RunCancelled(stage=None, reason="r"),
    "PromotionIntended": e.PromotionIntended(generation=body()),
    "PromotionConfirmed": e.PromotionConfirmed(generation=body()),
    "PromotionAborted": e.PromotionAborted(
        promotion_id="p1", run_id=None, winner=body(), reason="r"
    ),
    "PromotionRefused": e.PromotionRefused(
        promotion_id="p1", kind="promotion", run_id=None, automatic=True, cause="held", reason="r"
    ),
    "PointerHeld": e.PointerHeld(generation=1, reason=None),
    "PointerReleased": e.PointerReleased(generation=1, reason=None),
    "StorageMeasured": e.StorageMeasured(store="s", bytes_by_class={}, free_bytes=None),
    "GarbagePlanned": e.GarbagePlanned(plan_digest=ZERO, objects=1, size_bytes=1),
    "GarbageCollected": e.GarbageCollected(plan_digest=ZERO, objects=1, size_bytes=1),
    "RunFolderRetired": e.RunFolderRetired(
        run_id="a", folder="/p/a", machine_id="m", files=1, size_bytes=1
    ),
    "RunFolderRestored": e.RunFolderRestored(
        run_id="a", folder="/p/a", machine_id="m", follows="f"
    ),
    "SlotClaimed": e.SlotClaimed(slot="2026-02-01T02:00:00Z", run_id="a", schedule="0 2 * * *"),
    "SlotMissed": e.SlotMissed(slot="2026-02-01T02:00:00Z", schedule="0 2 * * *"),
    "SlotPassedOver": e.SlotPassedOver(
        slot="2026-02-01T02:00:00Z", schedule="0 2 * * *", cause="overlap", reason="r"
    ),
    "PipelinePaused": e.PipelinePaused(reason="r"),
    "PipelineUnpaused": e.PipelineUnpaused(reason="r", follows="f"),
}
_STAGE, _ATTEMPT = ("stage", "retrain"), ("attempt", 2)
_CHECK = [("digest", ONE), ("digest", None), ("schema_digest", ONE), ("follows", "g")]
#: The fields that make a fact another one. Those of pointer events: another promotion.
TELLS_APART: dict[str, list[tuple[str, Any]]] = {
    "StageIntended": [_STAGE, _ATTEMPT],
    "StageSubmitted": [_STAGE, _ATTEMPT],
    "StageSucceeded": [_STAGE, _ATTEMPT],
    "StageFailed": [_STAGE, _ATTEMPT],
    "MetricsRecorded": [_STAGE, _ATTEMPT],
    "StageStarted": [_STAGE, _ATTEMPT, ("pod_uid", "pod-1"), ("pod_uid", "pod-2")],
    "StageSkipped": [_STAGE],
    "StageReused": [_STAGE],
    "CheckpointRecorded": [_STAGE, _ATTEMPT, ("path", "d.pt"), ("digest", ONE)],
    "RelabelTagsValidated": _CHECK,
    "RelabelTagsRejected": _CHECK,
    "RelabelTagsReopened": [("digest", ONE), ("digest", None), ("follows", "g")],
    "PromotionIntended": [("generation", body(promotion="p2"))],
    "PromotionConfirmed": [("generation", body(promotion="p2"))],
    "PromotionAborted": [("promotion_id", "p2")],
    "PromotionRefused": [("promotion_id", "p2")],
    "PointerHeld": [("generation", 2)],
    "PointerReleased": [("generation", 2)],
    "GarbagePlanned": [("plan_digest", ONE)],
    "GarbageCollected": [("plan_digest", ONE)],
    "RunFolderRetired": [("run_id", "b"), ("follows", "f")],
    "RunFolderRestored": [("run_id", "b"), ("follows", "g")],
    "SlotClaimed": [("slot", "2026-02-02T02:00:00Z")],
    "SlotMissed": [("slot", "2026-02-02T02:00:00Z")],
    "SlotPassedOver": [("slot", "2026-02-02T02:00:00Z")],
    "PipelinePaused": [("follows", "f"), ("follows", "g")],
    "PipelineUnpaused": [("follows", "g")],
}  # fmt: skip
#: Fields that a second teller may see otherwise without telling another fact.
SAME_FACT: dict[str, list[tuple[str, Any]]] = {
    "RunRequested": [("note", "again")],
    "StageSubmitted": [("log", "x"), ("handle", e.Handle(pid=2))],
    "StageStarted": [("node", "m")],
    "StageSucceeded": [("manifest_digest", ONE)],
    "StageFailed": [("cause", "lost"), ("message", "x")],
    "StageSkipped": [("reason", "x")],
    "RelabelTagsEmitted": [("digest", ONE)],
    "RelabelTagsValidated": [("counts", {"a": 1})],
    "CheckpointRecorded": [("student", True)],
    "MetricsRecorded": [("metrics", {"a": 1.0})],
    "RunFailed": [("reason", "x")],
    "RunCancelled": [("reason", "x")],
    "PromotionIntended": [("generation", body(number=2, reason="x"))],
    "PromotionAborted": [("reason", "x")],
    "PromotionRefused": [("cause", "race")],
    "PointerHeld": [("reason", "x")],
    "RunFolderRetired": [("folder", "/q"), ("machine_id", "n"), ("files", 2)],
    "SlotClaimed": [("run_id", "b"), ("schedule", "@daily")],
    "SlotPassedOver": [("cause", "paused"), ("reason", "x")],
    "PipelinePaused": [("reason", "x"), ("failed", ("a",))],
    "PipelineUnpaused": [("reason", "x")],
}


def fact_id(data: e.EventData, stream: str = "run/a") -> str:
    return identify(stream, data).id


def test_there_is_a_sample_of_every_event() -> None:
    assert SAMPLES.keys() == EVENT_TYPES.keys()
    assert all(data.type == type_ for type_, data in SAMPLES.items())


def test_no_two_types_share_an_id_and_no_two_streams() -> None:
    found = [
        fact_id(data, stream)
        for data in SAMPLES.values()
        for stream in ("run/a", "run/b", "storage")
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("type_", TELLS_APART)
def test_what_makes_a_fact_another_one(type_: str) -> None:
    data = SAMPLES[type_]
    facts = [data, *(data.model_copy(update=dict([change])) for change in TELLS_APART[type_])]
    for one, other in combinations(facts, 2):
        assert fact_id(one) != fact_id(other)


@pytest.mark.parametrize("type_", SAME_FACT)
def test_what_does_not(type_: str) -> None:
    data = SAMPLES[type_]
    for change in SAME_FACT[type_]:
        assert fact_id(data.model_copy(update=dict([change]))) == fact_id(data)


def test_a_key_tells_apart_what_nothing_else_does() -> None:
    measured = SAMPLES["StorageMeasured"]
    found = {identify("storage", measured, key).id for key in ("", "a", "b")}
    assert len(found) == 3


def test_a_run_takes_one_automatic_decision_about_a_pointer() -> None:
    assert promotion_id("a", "student") == promotion_id("a", "student")
    found = {promotion_id(r, p) for r in ("a", "b") for p in ("student", "other")}
    assert len(found) == 4
