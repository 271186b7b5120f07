"""A team whose store is a bucket: a project with finished runs, and machines that have nothing but the bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.settings import Settings
from launcher.workspace import open_workspace
from tests.cli.session import Done, Session
from tests.launcher.pointer_world import add_run, student_of
from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server

__all__ = ["Team", "make_team"]


class Team:
    """A project whose store is ``url``; its ledger is there too (``store``), or in a file (``sqlite``)."""

    def __init__(self, server: S3Server, root: Path, ledger: str) -> None:
        self.server, self.bucket = server, server.bucket()
        self.url = f"s3://{self.bucket}/team"
        root.mkdir(parents=True)
        env = {
            **server.environment(),
            "LAUNCHER_STORE": self.url,
            "LAUNCHER_LEDGER": ledger,
            "LAUNCHER_ACTOR": "ana",
            "XDG_CACHE_HOME": str(root.parent / "cache"),
        }
        self.session = Session(root, env)

    def runs(self, *run_ids: str) -> None:
        """Runs that succeeded and are not promoted."""
        settings = Settings.from_environment(self.session.env(), self.session.root, {})
        ws = open_workspace(settings, self.session.root, writing=True)
        for run_id in run_ids:
            add_run(ws.journal, ws.store, run_id, student_of(run_id), self.session.root)
        ws.ledger.close()

    def look(self, *arguments: str, **more: str) -> Done:
        done = self.session.look(*arguments, **more)
        for secret in (ACCESS_KEY, SECRET_KEY):
            assert secret not in done.out + done.err
        return done

    def ok(self, *arguments: str, **more: str) -> str:
        done = self.look(*arguments, **more)
        assert done.code == 0, done
        return done.out

    @property
    def objects(self) -> Path:
        return self.server.root / self.bucket / "team"

    def keys(self) -> set[str]:
        return {str(p.relative_to(self.objects)) for p in self.objects.rglob("*") if p.is_file()}

    def elsewhere(self, folder: Path) -> Session:
        """A machine with nothing but the bucket: no project, no home, no settings of ours."""
        folder.mkdir()
        return Session(
            folder, {**self.server.environment(), "LAUNCHER_ACTOR": "eve", "HOME": "/nonexistent"}
        )


def make_team(server: S3Server, root: Path, ledger: str, patch: pytest.MonkeyPatch) -> Team:
    """A team without runs; this process is on its machine."""
    team = Team(server, root, ledger)
    for name, value in team.session.environment.items():
        if name.startswith(("AWS", "XDG")):
            patch.setenv(name, value)
    return team
