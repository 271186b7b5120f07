"""Runs with real manifests, pointers and collections, in a workspace whose days pass when a test says so."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from launcher import clock
from launcher.documents import Documents
from launcher.journal import Journal
from launcher.promotion import Promoter
from launcher.retention.collect import Collected, collect
from launcher.retention.look import Look, Seen
from launcher.retention.reach import DAY_SECONDS, Policy, digests_in, manifests_in
from launcher.settings import Settings
from launcher.storage.blobs import digest_bytes
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.manifest import Entry, Manifest
from launcher.storage.port import BlobMissingError, ObjectStore
from launcher.storage.s3 import S3Store
from launcher.workspace import Workspace
from ledger import events as e
from ledger.stores.memory import MemoryEventStore
from ledger.stores.port import EventStore

POINTER = "student"
WEEK = Policy(7 * DAY_SECONDS)
SPEC = "sha256:" + "0" * 64


class LaterFolder(FilesystemStore):
    """A folder whose clock is the world's; what is in it is as old as its files really are."""

    def __init__(self, root: Path, world: RetentionWorld) -> None:
        super().__init__(root)
        self._world = world

    def clock(self) -> float:
        return self._world.now()


class LaterBucket(S3Store):
    """The same of a bucket."""

    def __init__(self, url: str, world: RetentionWorld) -> None:
        super().__init__(url, marks=world.root / "marks")
        self._world = world

    def clock(self) -> float:
        return self._world.now()


@dataclass
class RetentionWorld:
    """One ledger, one folder or bucket. ``later`` lets days pass; what is stored gets no younger by it."""

    root: Path
    days: float = 0.0
    ledger: EventStore = field(default_factory=MemoryEventStore)
    bucket: str = ""

    def now(self) -> float:
        return time.time() + self.days * DAY_SECONDS

    def later(self, days: float) -> None:
        self.days += days

    def text(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def today(self) -> str:
        return self.text()[:10]

    def store(self) -> ObjectStore:
        if self.bucket:
            return LaterBucket(self.bucket, self)
        return LaterFolder(self.root / "objects", self)

    def ws(self, store: ObjectStore | None = None) -> Workspace:
        store = store or self.store()
        journal = Journal(self.ledger, "ana", self.text)
        settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, self.root, {})
        promoter = Promoter(journal, store, root=self.root, project="p", new_id=clock.new_id)
        documents = Documents(journal, self.root / "locks")
        return Workspace(
            self.root, settings, self.root, self.ledger, store, journal, documents, promoter
        )

    def collect(self, policy: Policy = WEEK, store: ObjectStore | None = None) -> Collected:
        ws = self.ws(store)
        return collect(ws, Look(ws, policy), self.now)

    def seen(self, policy: Policy = WEEK) -> Seen:
        return Look(self.ws(), policy)(self.now())

    # --- runs ---

    def request(self, run_id: str, target: str | None = None) -> set[str]:
        """Request a run, its one stage under way; returns the blobs that it names."""
        ws = self.ws()
        config = ws.store.ingest_bytes(f"config of {run_id}".encode())
        teacher = ws.store.ingest_bytes(b"the teacher of all")
        given = e.InputRef(
            ref="teacher.pt",
            path="teacher.pt",
            digest=teacher.digest,
            size_bytes=teacher.size_bytes,
        )
        request = e.RunRequested(
            run_id=run_id,
            project="p",
            project_root=str(self.root),
            output_root="runs",
            config=e.ConfigRef(path="c.env", digest=config.digest),
            stages=(e.StagePlan(name="retrain", command="true", spec_digest=SPEC),),
            teacher_checkpoint=given,
            promotion=e.PromotionPlan(target=target) if target else None,
            provenance=e.Provenance(launcher_version="0"),
        )
        begun = (
            e.StageIntended(stage="retrain", attempt=1, executor="local", spec_digest=SPEC),
            e.StageSubmitted(stage="retrain", attempt=1, handle=e.Handle(), log="log"),
            e.StageStarted(stage="retrain", attempt=1, node="here"),
        )
        ws.journal.record_run(run_id, lambda _: [request, *begun])
        return {config.digest, teacher.digest}

    def upload(self, run_id: str, shared: str = "") -> set[str]:
        """Store what the stage left, as its supervisor does, before anything names it."""
        return {
            self.store().ingest_bytes(data).digest
            for data in self._outputs(run_id, shared).values()
        }

    def finish(self, run_id: str, shared: str = "", *, stored: bool = False) -> set[str]:
        """The stage's success and the run's; returns the blobs that they name. ``stored``: by ``upload``, before."""
        ws = self.ws()
        entries = []
        for path, data in sorted(self._outputs(run_id, shared).items()):
            found = digest_bytes(data) if stored else ws.store.ingest_bytes(data)
            entries.append(Entry(path, found.digest, found.size_bytes))
        manifest = ws.store.ingest_bytes(Manifest(tuple(entries)).to_bytes())
        log = ws.store.ingest_bytes(f"log of {run_id}".encode())
        student = entries[0]
        facts: list[e.EventData] = [
            e.StageSucceeded(
                stage="retrain",
                attempt=1,
                manifest_digest=manifest.digest,
                log_digest=log.digest,
            ),
            e.CheckpointRecorded(
                path=f"runs/{run_id}/{student.path}",
                digest=student.digest,
                size_bytes=student.size_bytes,
                format="pt",
                stage="retrain",
                attempt=1,
                student=True,
            ),
            e.RunSucceeded(),
        ]
        ws.journal.record_run(run_id, lambda _: facts)
        return {manifest.digest, log.digest, *(entry.digest for entry in entries)}

    def lineage(self, run_id: str) -> set[str]:
        """Every blob that a run names, in its manifest too where that can be read."""
        ws = self.ws()
        records = ws.ledger.read_stream(f"run/{run_id}")
        text = "".join(record.data.model_dump_json() for record in records)
        found = set(digests_in(text)) - {SPEC}
        for manifest in manifests_in(text):
            with suppress(BlobMissingError):
                found |= digests_in(ws.store.read_blob(manifest).decode())
        return found

    def seconds_since(self, time: str | None) -> float | None:
        return self.now() - clock.parse_time(time).timestamp() if time else None

    def run(self, run_id: str, shared: str = "") -> set[str]:
        """A whole run; returns every blob that it names."""
        return self.request(run_id) | self.upload(run_id, shared) | self.finish(run_id, shared)

    def student(self, run_id: str) -> str:
        found = self.ws().journal.run(run_id).student
        assert found is not None
        return found.digest

    def promote(self, run_id: str) -> None:
        ws = self.ws()
        ws.promoter.promote(ws.journal.run(run_id), POINTER, automatic=False)

    def rollback(self) -> None:
        ws = self.ws()
        history = ws.promoter.history(POINTER)
        to = history.rollback_target(None)
        ws.promoter.rollback(POINTER, to, reason="bad", base=history.latest)

    def _outputs(self, run_id: str, shared: str) -> dict[str, bytes]:
        return {
            "checkpoints/student.pt": f"student of {run_id}".encode(),
            "metadata/metrics.json": f"metrics {shared or run_id}".encode(),
        }

    # --- what is where ---

    def in_place(self) -> set[str]:
        return {"sha256:" + o.key.rpartition("/")[2] for o in self.store().list("blobs/")}

    def trashed(self, date: str) -> set[str]:
        return {"sha256:" + o.key.rpartition("/")[2] for o in self.store().trashed(date)}

    def anywhere(self) -> set[str]:
        store = self.store()
        return self.in_place().union(*(self.trashed(date) for date in store.trash_dates()))

    def storage_events(self) -> list[str]:
        return [record.type for record in self.ledger.read_stream("storage")]
