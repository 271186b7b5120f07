"""A tally as Prometheus' metric families. The one home of ``prometheus_client`` beside the server.

docs/metrics.md lists them; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from launcher.exporter.audits import Audits
from launcher.exporter.tally import Spread, Tally

__all__ = ["PREFIX", "audit_families", "families"]

PREFIX: Final = "distill_ledger_"


def families(tally: Tally) -> Iterator[Metric]:
    """Every family, in the order of docs/metrics.md; one without a sample is there all the same."""
    yield _gauge("events", "Events in the ledger.", (), {(): tally.position})
    yield _gauge(
        "newest_event_timestamp_seconds",
        "When the newest event was appended.",
        (),
        {} if tally.newest_event is None else {(): tally.newest_event},
    )
    yield from _runs(tally)
    yield from _stages(tally)
    yield from _pointers(tally)
    yield from _storage(tally)
    yield from _pipelines(tally)


def _runs(tally: Tally) -> Iterator[Metric]:
    open_runs: dict[tuple[str, ...], float] = {(name,): 0 for name in tally.paused}
    for run in tally.open.values():
        open_runs[run.pipeline,] = open_runs.get((run.pipeline,), 0) + 1
    yield _gauge("runs_open", "Runs that have not ended.", ("pipeline",), open_runs)
    yield _counter("runs", "Runs that ended.", ("pipeline", "status"), tally.runs)


def _stages(tally: Tally) -> Iterator[Metric]:
    yield _gauge("stage_attempts_open", "Attempts under way.", ("stage", "status"), tally.stages())
    yield _gauge(
        "stage_waiting_since_timestamp_seconds",
        "Since when the attempt waits that has waited longest.",
        ("stage",),
        {(stage,): since for stage, since in tally.waiting_since().items()},
    )
    yield _counter("stage_attempts", "Attempts that ended.", ("stage", "outcome"), tally.attempts)
    yield _histogram("stage_wait_seconds", "From the Job to its command.", tally.waited)
    yield _histogram("stage_run_seconds", "What the command took.", tally.ran)
    of_stage = ("pipeline", "stage")
    yield _counter(
        "gpu_seconds", "GPUs that were held.", (*of_stage, "resource"), tally.gpu_seconds
    )
    yield _counter("cpu_seconds", "CPUs that were held.", of_stage, tally.cpu_seconds)
    yield _counter(
        "memory_byte_seconds", "Memory that was held.", of_stage, tally.memory_byte_seconds
    )
    yield _counter("checkpoint_bytes", "Checkpoints recorded.", of_stage, tally.checkpoint_bytes)
    yield _counter(
        "watch_restarts", "Watches of a cluster that broke.", of_stage, tally.watch_restarts
    )


def _pointers(tally: Tally) -> Iterator[Metric]:
    labels = ("pointer",)
    yield _counter("promotions", "New generations.", ("pointer", "kind"), tally.promotions)
    yield _counter(
        "promotion_refusals", "Refused promotions.", ("pointer", "cause"), tally.refusals
    )
    yield _gauge(
        "pointer_generation",
        "The newest generation.",
        labels,
        {(name,): number for name, number in tally.generation.items()},
    )
    yield _gauge(
        "pointer_held",
        "1 while a rollback holds automatic promotions.",
        labels,
        {(name,): float(name in tally.held) for name in tally.generation},
    )
    yield _gauge(
        "pointer_held_since_timestamp_seconds",
        "Since when it is held; absent while it is not.",
        labels,
        {(name,): since for name, (_, since) in tally.held.items()},
    )
    yield _gauge(
        "pointer_live_timestamp_seconds",
        "When what is live became live.",
        labels,
        {(name,): since for name, since in tally.live_since.items()},
    )


def _storage(tally: Tally) -> Iterator[Metric]:
    stored = tally.stored
    classes = stored.bytes_by_class if stored else {}
    yield _gauge(
        "stored_bytes",
        "What is stored, when it was last measured.",
        ("class",),
        {(name,): size for name, size in classes.items()},
    )
    free, quota = (stored.free_bytes, stored.quota_bytes) if stored else (None, None)
    yield _gauge("free_bytes", "Free space then.", (), {} if free is None else {(): free})
    yield _gauge("quota_bytes", "The quota.", (), {} if quota is None else {(): quota})


def _pipelines(tally: Tally) -> Iterator[Metric]:
    labels = ("pipeline",)
    yield _counter("slots", "Slots that are settled.", ("pipeline", "outcome"), tally.slots)
    yield _gauge(
        "pipeline_newest_slot_timestamp_seconds",
        "The latest slot that is settled.",
        labels,
        {(name,): at for name, at in tally.newest_slot.items()},
    )
    yield _gauge(
        "pipeline_newest_missed_timestamp_seconds",
        "When a missed slot was last found.",
        labels,
        {(name,): at for name, at in tally.newest_missed.items()},
    )
    yield _gauge(
        "pipeline_newest_success_timestamp_seconds",
        "When a run last succeeded.",
        labels,
        {(name,): at for name, at in tally.newest_success.items()},
    )
    yield _gauge(
        "pipeline_failures_in_a_row",
        "Runs that failed since the last success.",
        ("pipeline", "pointer"),
        {
            (name, tally.promotes_to.get(name, "")): number
            for name, number in tally.failed_in_a_row.items()
        },
    )
    yield _gauge(
        "pipeline_paused",
        "1 while it starts no runs.",
        labels,
        {(name,): float(paused) for name, paused in tally.paused.items()},
    )


def audit_families(audits: Audits | None) -> Iterator[Metric]:
    """What the exporter's own audits found; without samples where it makes none."""
    last = audits.last if audits else None
    tried = audits is not None and audits.error is not None
    yield _gauge(
        "audit_up",
        "1 where the last try of an audit came to its end.",
        (),
        {(): float(audits.error == "")} if audits and tried else {},
    )
    yield _gauge(
        "audit_findings",
        "What the last audit found wrong.",
        ("check",),
        {(check,): number for check, number in last.findings.items()} if last else {},
    )
    yield _gauge("audit_timestamp_seconds", "When it ended.", (), {(): last.ended} if last else {})
    yield _gauge(
        "audit_duration_seconds", "How long it took.", (), {(): last.seconds} if last else {}
    )


def _gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Mapping[tuple[str, ...], float]
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family


def _counter(
    name: str, text: str, labels: tuple[str, ...], samples: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family


def _histogram(name: str, text: str, spreads: Mapping[str, Spread]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=("stage",))
    for stage, spread in spreads.items():
        family.add_metric((stage,), buckets=spread.cumulated(), sum_value=spread.total)
    return family
