"""What the commands of Jobs print, asked of the cluster: for a run that no launcher on this machine drives.

The log that counts is stored at a stage's end; this is for looking on, and may lack some of it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from launcher.cli.detaching import seen_driver
from launcher.cli.executing import executor_of
from launcher.executors.port import AwayError, Running
from launcher.pipeline import log_name
from launcher.workspace import Workspace
from ledger.events import RunRequested, StageName

__all__ = ["PodLogs"]

_LOOK_SECONDS: Final = 1.0


class PodLogs:
    """Of one run. A context manager: what it wrote down is gone at the end."""

    def __init__(self, ws: Workspace, wanted: RunRequested) -> None:
        self._run_id = wanted.run_id
        self._folder = tempfile.TemporaryDirectory(prefix="launcher-log-")
        self._executor = executor_of(ws, wanted, looks_only=True, logs=Path(self._folder.name))
        self._looked, self._goes_on = float("-inf"), True

    def __enter__(self) -> PodLogs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.close()
        self._folder.cleanup()

    def path(self, stage: StageName, attempt: int) -> Path:
        """The file that grows with the attempt's output, once ``goes_on`` has seen its pod."""
        return Path(self._folder.name, log_name(stage, attempt))

    def goes_on(self, at: tuple[StageName, int] | None) -> bool:
        """Whether more may come: the attempt runs, or the run has a driver. Raises UsageError."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._goes_on = self._look(at)
        return self._goes_on

    def copy(self, stage: StageName, attempt: int, out: BinaryIO) -> bool:
        """What the attempt's pod has printed so far; False where it has none."""
        parts = self._executor.log(self._run_id, stage, attempt)
        for part in parts or ():
            out.write(part)
        return parts is not None

    def _look(self, at: tuple[StageName, int] | None) -> bool:
        try:
            # First: it is what has the pod's output written down.
            runs = at is not None and isinstance(self._executor.observe(self._run_id, *at), Running)
            driver = seen_driver(self._executor, self._run_id)
        except AwayError:
            return True
        return runs or (driver is not None and driver.drives)
