"""Runs that succeeded, and promoters that may move pointers: the smallest world in which they do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from launcher import clock
from launcher.journal import Journal
from launcher.promotion import Promoter
from launcher.settings import Settings
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.port import ObjectStore
from launcher.workspace import Workspace, open_workspace
from ledger import events as e
from ledger.decider import RunState
from ledger.ids import run_stream
from ledger.stores.memory import MemoryEventStore
from ledger.stores.port import EventStore
from tests.rig.stores import project_store

TARGET = "checkpoints/stable/student_latest.pt"
SPEC = "sha256:" + "0" * 64


def student_of(run_id: str) -> bytes:
    """The bytes of the checkpoint that run ``run_id`` trains."""
    return f"student of {run_id}\n".encode()


def add_run(
    journal: Journal, store: ObjectStore, run_id: str, content: bytes | None, root: Path = Path("/")
) -> RunState:
    """A run in the ledger that succeeded and left ``content`` as its student; None for none at all."""
    facts: list[e.EventData] = [
        e.RunRequested(
            run_id=run_id,
            project=root.name or "p",
            project_root=str(root),
            output_root="runs/self_distill",
            config=e.ConfigRef(path=None, digest=SPEC),
            stages=(e.StagePlan(name="retrain", command="true", spec_digest=SPEC),),
            provenance=e.Provenance(launcher_version="0"),
        ),
        e.StageIntended(stage="retrain", attempt=1, executor="local", spec_digest=SPEC),
        e.StageSubmitted(stage="retrain", attempt=1, handle=e.Handle(), log="log"),
        e.StageStarted(stage="retrain", attempt=1, node="here"),
        e.StageSucceeded(stage="retrain", attempt=1, manifest_digest=SPEC, log_digest=None),
    ]
    if content is not None:
        blob = store.ingest_bytes(content)
        facts.append(
            e.CheckpointRecorded(
                path=f"runs/self_distill/{run_id}/checkpoints/student.pt",
                digest=blob.digest,
                size_bytes=blob.size_bytes,
                format="pt",
                stage="retrain",
                attempt=1,
                student=bool(content),
            )
        )
    return journal.record_run(run_id, lambda _: [*facts, e.RunSucceeded()])


@dataclass
class World:
    """One store and one ledger; every ``promoter`` is another process's view of them."""

    root: Path
    project: str = "p"
    ledger: EventStore = field(default_factory=MemoryEventStore)
    _store: ObjectStore | None = None

    @property
    def store(self) -> ObjectStore:
        return self._store or FilesystemStore(self.root / "objects")

    def promoter(self, actor: str = "ana", project: str | None = None) -> Promoter:
        return Promoter(
            Journal(self.ledger, actor, clock.now),
            self.store,
            root=self.root,
            project=project or self.project,
            new_id=clock.new_id,
        )

    def run(self, run_id: str, content: bytes | None = b"") -> RunState:
        """The run, made if it is new; without ``content`` its student is ``student_of`` it."""
        journal = Journal(self.ledger, "ana", clock.now)
        if self.ledger.read_stream(run_stream(run_id)):
            return journal.run(run_id)
        data = student_of(run_id) if content == b"" else content
        return add_run(journal, self.store, run_id, data)

    def live(self, name: str = TARGET) -> bytes | None:
        """The bytes that ``name`` names now."""
        body = self.promoter().history(name).live
        return self.store.read_blob(body.digest) if body and body.digest else None

    def kinds(self, name: str = TARGET) -> list[str]:
        """The kinds of the generations, from 1."""
        return [g.kind for g in self.promoter().history(name).generations]

    def file(self, name: str = TARGET) -> Path:
        return self.root / name

    def backups(self, name: str = TARGET) -> dict[str, bytes]:
        """What stands beside the target, by what follows its name."""
        path = self.file(name)
        return {
            p.name.removeprefix(path.name + ".bak."): p.read_bytes()
            for p in path.parent.iterdir()
            if p.name.startswith(path.name + ".bak.")
        }


def project_workspace(root: Path, *, writing: bool = True) -> Workspace:
    """The workspace of a project on disk, as ``launcher`` opens it in ``root``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
    env |= project_store(root)
    return open_workspace(Settings.from_environment(env, root, {}), root, writing=writing)


def make_project(root: Path, *run_ids: str) -> Path:
    """A project on disk whose runs succeeded and are not promoted."""
    root.mkdir(parents=True, exist_ok=True)
    ws = project_workspace(root)
    for run_id in run_ids:
        add_run(ws.journal, ws.store, run_id, student_of(run_id), root)
    ws.ledger.close()
    return root
