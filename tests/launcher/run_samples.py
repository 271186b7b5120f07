"""A run of four stages in a ledger in memory, for tests of what follows from its state."""

from __future__ import annotations

from launcher.executors.port import StageResult
from launcher.journal import Journal
from ledger import events as e
from ledger.stores.memory import MemoryEventStore

RUN = "r"
DIGEST = "sha256:" + "0" * 64
HANDLE = e.Handle(machine_id="here", pid=7, started=1.0, boot_id="b")
NOW = "2026-01-31T02:00:00.000250Z"


def plan(name: e.StageName, command: str | None = "true", retries: int = 0) -> e.StagePlan:
    return e.StagePlan(name=name, command=command, spec_digest=DIGEST, retries=retries)


def request(*plans: e.StagePlan, infrastructure_retries: int = 2) -> e.RunRequested:
    """A request for ``plans``, or for all four stages."""
    return e.RunRequested(
        run_id=RUN,
        project="p",
        project_root="/p",
        output_root="runs",
        config=e.ConfigRef(path=None, digest=DIGEST),
        stages=plans or tuple(plan(name) for name in e.STAGES),
        infrastructure_retries=infrastructure_retries,
        provenance=e.Provenance(launcher_version="1"),
    )


def journal(*events: e.EventData) -> Journal:
    """A journal in which ``events`` happened, one after the other."""
    made = Journal(MemoryEventStore(), "tester", lambda: NOW)
    for event in events:
        made.record_run(RUN, lambda _state, event=event: [event])
    return made


def result(exit_code: int | None = 0, closed_by: str | None = None) -> StageResult:
    """A committed result; a success has a manifest."""
    manifest = DIGEST if exit_code == 0 else None
    return StageResult(exit_code, closed_by, manifest_digest=manifest, handle=HANDLE)
