"""Real runs in a project of a test's own, and what must be true of them whatever was killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from launcher.agent.processes import members
from launcher.agent.protocol import AttemptPaths
from launcher.cli.main import main
from ledger.events import Recorded
from ledger.stores.sqlite import SqliteEventStore
from tests.e2e.project import LAUNCHER, SCORECARD, TEACHER, Done, Project, make_project

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "r"
GIVEN = ("--config", "c.env", "--teacher-checkpoint", TEACHER, "--teacher-scorecard", SCORECARD)
SUBMIT = ("submit", *GIVEN, "--run-id", RUN)

#: What a stage does first in these tests: it says that it runs, and proves that nobody else does.
ONCE = """
exec 9>>"{root}/$STAGE.alone"; flock -n 9 || { echo "$STAGE TWICE" >>"{root}/trace"; exit 99; }
echo "$STAGE $ATTEMPT" >>"{root}/trace"
"""
#: Hold still until the test says go.
HOLD = 'touch "{root}/$STAGE.$ATTEMPT.here"; until test -e "{root}/go"; do sleep 0.02; done\n'

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float = 30) -> T:
    """The first true value of ``look``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {look}"
        time.sleep(0.01)
    return found


@dataclass
class Runs:
    """A project whose stages are given to ``make_runs``, and what is seen of its run ``r``."""

    project: Project
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def home(self) -> Path:
        return self.root / "runs" / "self_distill"

    @property
    def run_dir(self) -> Path:
        return self.home / RUN

    def launcher(self, *arguments: str) -> Done:
        return self.project.launcher(*arguments)

    def submit(self, *options: str) -> Done:
        return self.launcher(*SUBMIT, *options)

    def resume(self, *options: str) -> Done:
        return self.launcher("resume", RUN, *options)

    def start(self, *arguments: str, command: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """A launcher in the background, in a session of its own."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("LAUNCHER_")}
        child = subprocess.Popen(
            [*(command or (str(LAUNCHER),)), *arguments],
            cwd=self.root,
            env={**env, **self.project.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(child)
        return child

    def in_process(self, *arguments: str) -> Done:
        """``launcher …`` without starting Python anew, for commands that start nothing."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            main(arguments)
        return Done(int(left.value.code or 0), out.getvalue(), err.getvalue())

    def end(self, child: subprocess.Popen[str], seconds: float = 60) -> Done:
        out, err = child.communicate(timeout=seconds)
        return Done(child.returncode, out, err)

    # --- what is there ---

    def trace(self) -> list[str]:
        path = self.root / "trace"
        return path.read_text().splitlines() if path.exists() else []

    def here(self, stage: str, attempt: int = 1) -> None:
        """Wait until a stage holds still."""
        until((self.root / f"{stage}.{attempt}.here").exists)

    def go(self) -> None:
        (self.root / "go").touch()

    def object(self, stage: str, name: str, attempt: int = 1) -> dict[str, Any]:
        """One of an attempt's objects, once it is there."""
        path = self.home / "objects" / "runs" / RUN / stage / str(attempt) / name
        until(path.exists)
        value = json.loads(path.read_bytes())
        assert isinstance(value, dict)
        return value

    def supervisor(self, stage: str, attempt: int = 1) -> int:
        return int(self.object(stage, "start.json", attempt)["pid"])

    def members(self, stage: str, attempt: int = 1) -> set[int]:
        return members(AttemptPaths(self.home, RUN, stage, attempt).lock)

    def metadata(self) -> dict[str, Any]:
        return self.project.metadata(RUN)

    def stages(self) -> dict[str, dict[str, Any]]:
        return {stage["stage"]: stage for stage in self.metadata()["stages"]}

    def events(self, stream: str = f"run/{RUN}") -> list[Recorded[Any]]:
        path = self.home / "ledger.db"
        if not path.exists():
            return []
        store = SqliteEventStore(path, read_only=True)
        try:
            return store.read_stream(stream)
        finally:
            store.close()

    def types(self, stream: str = f"run/{RUN}") -> list[str]:
        return [event.type for event in self.events(stream)]

    def causes(self) -> list[str]:
        return [event.data.cause for event in self.events() if event.type == "StageFailed"]

    # --- what must be true ---

    def check(self) -> None:
        """The oracle: nothing runs, one end, nothing ran twice at once, documents as the ledger says."""
        types = self.types()
        ends = [t for t in types if t in ("RunSucceeded", "RunFailed", "RunCancelled")]
        assert len(ends) == 1, types
        assert not [line for line in self.trace() if "TWICE" in line], self.trace()
        for event in self.events():
            if event.type == "StageIntended":
                assert not self.members(event.data.stage, event.data.attempt)
        done = self.in_process("replay", "--check")
        assert done.code == 0, done
        before = (self.types(), self.project.files())
        again = self.in_process("resume", RUN)
        assert again.code not in (1, 2, 4, 5), again
        assert (self.types(), self.project.files()) == before


@contextlib.contextmanager
def made_runs(root: Path, *stages: tuple[str, str], more: str = "") -> Iterator[Runs]:
    """``stages`` are (name, command); ``{root}`` in a command is the project's root."""
    config = "".join(
        f"{name.upper()}_CMD='{command}'\n" for name, command in stages if "'" not in command
    )
    assert config.count("_CMD=") == len(stages)
    project = make_project(root)
    (root / "c.env").write_text(config.replace("{root}", str(root)) + more)
    project.environment = {"LAUNCHER_GRACE_SECONDS": "1"}
    runs = Runs(project)
    try:
        yield runs
    finally:
        runs.go()
        for child in runs.started:
            if child.poll() is None:
                child.kill()
            child.communicate()
        for event in runs.events():
            if event.type == "StageIntended":
                for pid in runs.members(event.data.stage, event.data.attempt):
                    with contextlib.suppress(ProcessLookupError):  # it ended by itself
                        os.kill(pid, signal.SIGKILL)


def python(*arguments: str) -> tuple[str, ...]:
    """A program of these tests, with its arguments."""
    return (sys.executable, *arguments)
