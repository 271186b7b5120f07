"""A project after two promoted runs, which tests may damage: it is put back as it was before each."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.audit import Report, Scene, audit
from launcher.settings import Settings
from launcher.workspace import Workspace, open_workspace
from ledger.stores.port import TreeHead
from tests.e2e.project import TARGET, Project, make_project

HOME = "runs/self_distill"


@dataclass
class Finished:
    """``project`` lives at one place for good, because the ledger names it; ``pristine`` is its copy."""

    project: Project
    pristine: Path

    @classmethod
    def make(cls, folder: Path) -> Finished:
        project = make_project(folder / "my project")
        for run_id in ("a", "b"):
            done = project.script("--run-id", run_id, "--promotion-target", TARGET)
            assert done.code == 0, done
        return cls(project, folder / "pristine").keep()

    def keep(self) -> Finished:
        """What is there now is what ``restore`` restores."""
        shutil.rmtree(self.pristine, ignore_errors=True)
        shutil.copytree(self.root, self.pristine, symlinks=True)
        return self

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def home(self) -> Path:
        return self.root / HOME

    @property
    def store(self) -> Path:
        return self.home / "objects"

    def restore(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.pristine, self.root, symlinks=True)

    def workspace(self, *, writing: bool = False) -> Workspace:
        settings = Settings.from_environment({"LAUNCHER_ACTOR": "ana"}, self.root, {})
        return open_workspace(settings, self.root, writing=writing)

    def audit(self, *heads: TreeHead, quick: bool = False) -> Report:
        ws = self.workspace()
        scene = Scene(ws.ledger, ws.store, ws.root, ws.home, ws.settings.project)
        report = audit(scene, quick=quick, elsewhere=heads)
        ws.ledger.close()
        return report

    @contextmanager
    def unguarded(self) -> Iterator[sqlite3.Connection]:
        """The ledger as somebody meets it who drops the triggers, changes rows, and puts the triggers back."""
        with sqlite3.connect(self.home / "ledger.db") as db:
            triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            kept = triggers.fetchall()
            for name, _ in kept:
                db.execute(f"DROP TRIGGER {name}")
            yield db
            for _, sql in kept:
                db.execute(sql)
        db.close()

    def blob(self, digest: str) -> Path:
        hexadecimal = digest.removeprefix("sha256:")
        return self.store / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal


def overwrite(path: Path, data: bytes) -> None:
    """Change a file that is protected against changes."""
    path.chmod(0o644)
    path.write_bytes(data)
