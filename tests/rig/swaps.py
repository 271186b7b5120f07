"""Runs that succeeded, told as facts, and a pointer of theirs that moves in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher import clock
from launcher.journal import Journal
from launcher.promotion import Promoter
from launcher.storage.opening import open_store
from launcher.storage.port import ObjectStore
from ledger import events as e
from ledger.decider import RunState
from ledger.stores.sqlite import SqliteEventStore

__all__ = ["NAME", "Swaps", "swaps"]

NAME = "student"
_SPEC = "sha256:" + "0" * 64


class Swaps:
    """A project with a ledger in a file and a store that may be a bucket."""

    def __init__(self, root: Path, store: ObjectStore, ledger: SqliteEventStore) -> None:
        self.root, self.store, self.ledger = root, store, ledger

    def promoter(self) -> Promoter:
        """One process's view, which has looked at nothing yet."""
        journal = Journal(self.ledger, "ana", clock.now)
        return Promoter(journal, self.store, root=self.root, project="p", new_id=clock.new_id)

    def run(self, run_id: str, digest: str, size_bytes: int) -> RunState:
        """A run that succeeded and left this blob as its student."""
        facts: list[e.EventData] = [
            e.RunRequested(
                run_id=run_id,
                project="p",
                project_root=str(self.root),
                output_root="runs/self_distill",
                config=e.ConfigRef(path=None, digest=_SPEC),
                stages=(e.StagePlan(name="retrain", command="true", spec_digest=_SPEC),),
                provenance=e.Provenance(launcher_version="0"),
            ),
            e.StageIntended(stage="retrain", attempt=1, executor="local", spec_digest=_SPEC),
            e.StageSubmitted(stage="retrain", attempt=1, handle=e.Handle(), log="log"),
            e.StageStarted(stage="retrain", attempt=1, node="here"),
            e.StageSucceeded(stage="retrain", attempt=1, manifest_digest=_SPEC, log_digest=None),
            e.CheckpointRecorded(
                path="checkpoints/student.pt",
                digest=digest,
                size_bytes=size_bytes,
                format="pt",
                stage="retrain",
                attempt=1,
                student=True,
            ),
            e.RunSucceeded(),
        ]
        return Journal(self.ledger, "ana", clock.now).record_run(run_id, lambda _: facts)


@contextmanager
def swaps(root: Path, url: str) -> Iterator[Swaps]:
    """A project at ``root`` whose store is at ``url``, already known to be good."""
    root.mkdir(parents=True, exist_ok=True)
    store = open_store(url)
    store.create(f"warm/{clock.new_id()}", b"")
    ledger = SqliteEventStore(root / "ledger.db")
    try:
        yield Swaps(root, store, ledger)
    finally:
        ledger.close()
