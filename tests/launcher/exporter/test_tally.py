"""What a tally counts, event by event, over the kept ledgers and over small ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from launcher.exporter.families import families
from launcher.exporter.tally import BUCKETS, Spread, Tally, unix_time
from ledger import events as e
from ledger.stores.memory import MemoryEventStore
from tests.ledger.samples import requested

KEPT = Path(__file__).parents[2] / "golden" / "ledgers"
NOW = "2026-02-01T02:00:00.000000Z"


def kept(name: str) -> MemoryEventStore:
    store = MemoryEventStore()
    store.load_raw((KEPT / f"{name}.jsonl").read_bytes().splitlines())
    return store


def told(name: str) -> Tally:
    tally = Tally()
    for event in kept(name).read_all():
        tally.add(event)
    return tally


def tallied(*facts: tuple[str, e.EventData]) -> Tally:
    tally = Tally()
    for at, (stream, data) in enumerate(facts):
        tally.add(e.Recorded(at, str(at), data.type, 1, stream, at + 1, NOW, "ana", data))
    return tally


def samples(tally: Tally) -> dict[str, float]:
    """As Prometheus would read them, ``name{label="value"}`` without our prefix."""

    class Once:
        def collect(self) -> Any:
            return families(tally)

    registry = CollectorRegistry()
    registry.register(Once())  # type: ignore[arg-type]
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for one in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))
            found[
                one.name.removeprefix("distill_ledger_") + (f"{{{labels}}}" if labels else "")
            ] = one.value
    return found


def test_the_first_kept_ledger_is_counted() -> None:
    found = samples(told("schema1"))
    assert found["runs_total{pipeline=,status=succeeded}"] == 2
    assert found["runs_total{pipeline=,status=failed}"] == 1
    assert found["runs_total{pipeline=,status=cancelled}"] == 1
    pointer = next(key for key in found if key.startswith("pointer_generation"))
    assert found[pointer] == 4
    for kind in ("adoption", "promotion", "rollback", "fence"):
        assert found[f"promotions_total{{kind={kind},pointer={pointer[27:-1]}}}"] == 1
    assert "stage_attempts_open" not in {key.partition("{")[0] for key in found}


def test_a_nights_slots_are_counted_and_its_pause_is_seen() -> None:
    found = samples(told("schema1_pipelines"))
    for outcome in ("claimed", "missed", "overlap"):
        assert found[f"slots_total{{outcome={outcome},pipeline=nightly}}"] == 1
    assert found["pipeline_paused{pipeline=nightly}"] == 1
    assert found["runs_total{pipeline=nightly,status=succeeded}"] == 1
    assert found["runs_open{pipeline=nightly}"] == 0
    newest = found["pipeline_newest_slot_timestamp_seconds{pipeline=nightly}"]
    assert newest == unix_time("2026-02-03T02:00:00Z")
    missed = found["pipeline_newest_missed_timestamp_seconds{pipeline=nightly}"]
    assert newest - 7 * 86400 < missed < newest + 7 * 86400


def test_what_waits_and_what_runs_is_told_apart_with_the_oldest_wait() -> None:
    digest = "sha256:" + "0" * 64
    intended = e.StageIntended(stage="retrain", attempt=1, executor="local", spec_digest=digest)
    begun = [("run/a", requested("1")), ("run/a", intended)]
    found = samples(tallied(*begun))
    assert found["stage_attempts_open{stage=retrain,status=waiting}"] == 1
    assert found["stage_waiting_since_timestamp_seconds{stage=retrain}"] == unix_time(NOW)
    started = e.StageStarted(stage="retrain", attempt=1, node="n")
    found = samples(tallied(*begun, ("run/a", started)))
    assert found["stage_attempts_open{stage=retrain,status=running}"] == 1
    assert "stage_waiting_since_timestamp_seconds{stage=retrain}" not in found
    seconds = e.StageSeconds(queued=1, scheduled=2, pulling=3, running=70.0)
    failed = e.StageFailed(
        stage="retrain", attempt=1, exit_code=1, cause="out_of_memory", message="m", seconds=seconds
    )
    found = samples(tallied(*begun, ("run/a", started), ("run/a", failed)))
    assert found["stage_attempts_total{outcome=out_of_memory,stage=retrain}"] == 1
    assert found["stage_wait_seconds_bucket{le=5,stage=retrain}"] == 0
    assert found["stage_wait_seconds_bucket{le=15,stage=retrain}"] == 1
    assert found["stage_run_seconds_sum{stage=retrain}"] == 70
    assert found["runs_open{pipeline=}"] == 1


def test_what_stages_held_of_a_cluster_is_summed_failed_attempts_too() -> None:
    found = samples(told("schema2_held"))
    events = [r.data for r in kept("schema2_held").read_all()]
    ended = [d for d in events if isinstance(d, e.StageSucceeded | e.StageFailed) and d.held]
    assert any(isinstance(data, e.StageFailed) for data in ended)
    for name, of in (
        ("gpu_seconds_total", lambda held: sum(held.gpus.values())),
        ("cpu_seconds_total", lambda held: held.cpu),
        ("memory_byte_seconds_total", lambda held: held.memory * 2**30),
    ):
        said = sum(value for key, value in found.items() if key.startswith(f"{name}{{"))
        assert said == pytest.approx(sum(of(data.held) for data in ended)), name
        assert said > 0
    resources = {name for data in ended if data.held for name in data.held.gpus}
    assert {k.partition("resource=")[2].partition(",")[0] for k in found if "resource=" in k} == (
        resources
    )


def test_watches_that_broke_are_summed_failed_attempts_too() -> None:
    key = "watch_restarts_total{pipeline=,stage=retrain}"
    assert samples(told("schema3"))[key] == 3
    assert samples(told("schema2_held"))[key] == 0  # nobody counted


def test_checkpoints_are_counted_by_stage_and_pipeline() -> None:
    found = samples(told("schema1_pipelines"))
    recorded = [
        r.data.size_bytes
        for r in kept("schema1_pipelines").read_all()
        if isinstance(r.data, e.CheckpointRecorded)
    ]
    said = [v for key, v in found.items() if key.startswith("checkpoint_bytes_total{")]
    assert sum(said) == sum(recorded) > 0


def test_failures_in_a_row_end_with_a_success_or_with_a_person() -> None:
    def claim(run: str, hour: int) -> tuple[str, e.EventData]:
        slot = f"2026-02-01T{hour:02}:00:00Z"
        return "pipeline/nightly", e.SlotClaimed(slot=slot, schedule="@hourly", run_id=run)

    def run(name: str, end: e.EventData, hour: int) -> list[tuple[str, e.EventData]]:
        return [claim(name, hour), (f"run/{name}", requested("1")), (f"run/{name}", end)]

    failed = e.RunFailed(stage="retrain", exit_code=1, cause="application", reason="r")
    key = "pipeline_failures_in_a_row{pipeline=nightly,pointer=}"
    twice = [*run("a", failed, 1), *run("b", failed, 2)]
    assert samples(tallied(claim("a", 1)))[key] == 0
    assert samples(tallied(*twice))[key] == 2
    assert samples(tallied(*twice, *run("c", e.RunSucceeded(), 3)))[key] == 0
    assert samples(tallied(*twice, *run("c", e.RunCancelled(stage=None, reason="r"), 3)))[key] == 2
    go_on = ("pipeline/nightly", e.PipelineUnpaused(reason=None, follows="x"))
    assert samples(tallied(*twice, go_on))[key] == 0


def test_failures_in_a_row_name_the_pointer_that_the_newest_run_promotes_to() -> None:
    """So that an alert can name the way back."""

    def run(name: str, target: str | None) -> list[tuple[str, e.EventData]]:
        claimed = e.SlotClaimed(slot="2026-02-01T02:00:00Z", schedule="@daily", run_id=name)
        promotion = e.PromotionPlan(target=target) if target else None
        asked = requested("1").model_copy(update={"promotion": promotion})
        return [("pipeline/nightly", claimed), (f"run/{name}", asked)]

    def pointers(*facts: tuple[str, e.EventData]) -> list[str]:
        keys = [key for key in samples(tallied(*facts)) if "failures_in_a_row" in key]
        return [re.sub(r".*pipeline=nightly,pointer=(.*)}", r"\1", key) for key in keys]

    assert pointers(*run("a", "student")) == ["student"]
    assert pointers(*run("a", "student"), *run("b", "Other.one")) == ["Other.one"]
    assert pointers(*run("a", "student"), *run("b", None)) == [""]
    assert pointers(run("a", None)[0]) == [""]


def test_counters_are_there_before_their_first_step() -> None:
    """Prometheus sees no step from nothing to 1, so the first failure of a pipeline would not be one."""
    digest = "sha256:" + "0" * 64
    claimed = e.SlotClaimed(slot="2026-02-01T02:00:00Z", schedule="@daily", run_id="a")
    intended = e.StageIntended(stage="retrain", attempt=1, executor="local", spec_digest=digest)
    found = samples(
        tallied(
            ("pipeline/nightly", claimed), ("run/a", requested("1")), ("run/a", intended),
            ("pointer/student", e.PointerHeld(generation=1, reason=None)),
        )
    )  # fmt: skip
    for status in ("succeeded", "failed", "cancelled"):
        assert found[f"runs_total{{pipeline=nightly,status={status}}}"] == 0
    assert found["slots_total{outcome=missed,pipeline=nightly}"] == 0
    assert found["stage_attempts_total{outcome=succeeded,stage=retrain}"] == 0
    assert found["stage_run_seconds_count{stage=retrain}"] == 0
    assert found["promotions_total{kind=rollback,pointer=student}"] == 0
    assert found["watch_restarts_total{pipeline=nightly,stage=retrain}"] == 0


def test_a_hold_lasts_until_it_is_released() -> None:
    rollback = e.Generation(
        name="student",
        project="p",
        generation=1,
        kind="rollback",
        automatic=False,
        origin=1,
        digest="sha256:" + "0" * 64,
        size_bytes=1,
        run_id="a",
        promotion_id="p1",
        actor="ana",
        previous=e.PreviousGeneration(generation=0, digest=None),
        time=NOW,
    )
    made = ("pointer/student", e.PromotionConfirmed(generation=rollback, imported=True))
    held = ("pointer/student", e.PointerHeld(generation=1, reason=None))
    let_go = ("pointer/student", e.PointerReleased(generation=1, reason=None))
    since = "pointer_held_since_timestamp_seconds{pointer=student}"
    found = samples(tallied(made, held))
    assert (found["pointer_held{pointer=student}"], found[since]) == (1, unix_time(NOW))
    found = samples(tallied(made, held, let_go))
    assert (found["pointer_held{pointer=student}"], since in found) == (0, False)
    live = samples(tallied(made))["pointer_live_timestamp_seconds{pointer=student}"]
    assert live == unix_time(NOW)


@pytest.mark.parametrize(("seconds", "bound"), [(0, 1), (1, 1), (1.01, 5), (172800, 172800)])
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float, bound: int) -> None:
    spread = Spread()
    spread.add(seconds)
    assert dict(spread.cumulated())[str(bound)] == 1
    below = [b for b in BUCKETS if b < bound]
    assert all(dict(spread.cumulated())[str(b)] == 0 for b in below)


def test_what_took_longer_than_the_last_bound_is_in_the_last_bucket() -> None:
    spread = Spread()
    spread.add(1e9)
    assert spread.cumulated()[-1] == ("+Inf", 1)
    assert spread.cumulated()[-2][1] == 0
