"""Single attempts on this machine, without a run around them: a real supervisor, a real command."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from launcher.agent.processes import members
from launcher.agent.protocol import AttemptPaths, StageSpec
from launcher.executors.local import LocalExecutor
from launcher.executors.port import Ended, Observation, StageResult
from launcher.storage.filesystem import FilesystemStore

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float = 30) -> T:
    """The first true value of ``look``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)
    return found


@dataclass
class Attempts:
    """A run's folder, its store, and an executor; ``spec`` makes an attempt at one of its stages."""

    root: Path
    executor: LocalExecutor = field(init=False)
    store: FilesystemStore = field(init=False)
    specs: list[StageSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FilesystemStore(self.root / "home" / "objects")
        self.executor = LocalExecutor(self.store, self.root / "home")
        for name in ("logs", "checkpoints", "artifacts", "metadata"):
            (self.run_dir / name).mkdir(parents=True)

    @property
    def run_dir(self) -> Path:
        return self.root / "home" / "r"

    def spec(self, command: str, **more: Any) -> StageSpec:
        plain = StageSpec(
            run_id="r",
            stage="retrain",
            attempt=1,
            index=3,
            command=command,
            cwd=str(self.root),
            environment={"PATH": os.environ["PATH"], "C": "home/r/checkpoints"},
            run_dir=str(self.run_dir),
            log_path=str(self.run_dir / "logs" / "03_retrain.log"),
            store=str(self.store.root),
            home=str(self.root / "home"),
            previous_manifests=(),
            collect_exclude=(),
            student_glob=None,
            tag_file=None,
            timeout_seconds=None,
            grace_seconds=0.5,
            spec_digest="sha256:x",
        )
        return replace(plain, **more)

    def start(self, command: str, **more: Any) -> StageSpec:
        spec = self.spec(command, **more)
        self.specs.append(spec)
        self.executor.start(spec)
        return spec

    def run(self, command: str, **more: Any) -> StageResult:
        """Start an attempt and wait for its end."""
        return self.result(self.start(command, **more))

    def result(self, spec: StageSpec) -> StageResult:
        seen = self.executor.wait(spec.run_id, spec.stage, spec.attempt, timeout_seconds=30)
        assert isinstance(seen, Ended), seen
        return seen.result

    def observe(self, spec: StageSpec) -> Observation:
        return self.executor.observe(spec.run_id, spec.stage, spec.attempt)

    def stop(self, spec: StageSpec, **more: Any) -> None:
        given = {"closed_by": "cancelled", "reason": None, "grace_seconds": spec.grace_seconds}
        self.executor.stop(spec.run_id, spec.stage, spec.attempt, **{**given, **more})

    def paths(self, spec: StageSpec) -> AttemptPaths:
        return AttemptPaths(self.root / "home", spec.run_id, spec.stage, spec.attempt)

    def members(self, spec: StageSpec) -> set[int]:
        return members(self.paths(spec).lock)

    def log(self) -> bytes:
        return (self.run_dir / "logs" / "03_retrain.log").read_bytes()


@contextlib.contextmanager
def made_attempts(root: Path) -> Iterator[Attempts]:
    """Nothing that an attempt started outlives the test."""
    attempts = Attempts(root)
    try:
        yield attempts
    finally:
        attempts.executor.close()
        for spec in attempts.specs:
            if not isinstance(attempts.observe(spec), Ended):
                for pid in attempts.members(spec):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        until(lambda: attempts.executor._spawner.reap() == 0)
