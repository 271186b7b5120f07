"""What an attempt's pod is to know, and the Job that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from k8s.containers import StageJob
from k8s.errors import ProfileError
from k8s.manifest import job_manifest
from k8s.names import Attempt
from k8s.profile_text import ReadProfile
from launcher.agent.protocol import StageSpec
from launcher.errors import UsageError

__all__ = ["PodSpec"]


@dataclass(frozen=True, slots=True)
class PodSpec(StageSpec):
    """An attempt as its pod is to know it: paths as they are there, no secret in ``environment``."""

    project: str = ""
    task: str = ""
    secrets: frozenset[str] = frozenset()
    private: tuple[str, ...] = ()

    @property
    def job(self) -> StageJob:
        """What the manifest wants to know."""
        return StageJob(
            attempt=Attempt(self.project, self.run_id, self.stage, self.attempt, self.spec_digest),
            command=self.command,
            log=self.log_path,
            task=self.task,
            store=self.store,
            cwd=self.cwd,
            environment=self.environment,
            secrets=self.secrets,
            private=self.private,
        )

    def manifest(self, read: ReadProfile) -> dict[str, Any]:
        """The Job. Raises UsageError."""
        try:
            return job_manifest(self.job, read, self.stage)  # type: ignore[arg-type]
        except ProfileError as exc:
            raise UsageError(str(exc)) from exc
