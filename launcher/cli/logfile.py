"""A stage's log: on disk while the run's folder is there, else the copy in the store.

A log is raw bytes; it may be gigabytes, or no text at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from launcher.agent.saved import saved_of
from launcher.cli.terminal import one_line
from launcher.errors import LauncherError, UsageError
from launcher.pipeline import log_name
from launcher.workspace import Workspace
from ledger.decider import RunState
from ledger.events import StageFailed, StageName, StageSucceeded
from ledger.ids import run_stream

__all__ = ["last_lines", "log_path", "opened_log", "stored_log", "tail_of_attempt"]

_TAIL_BYTES: Final = 64 * 1024


def log_path(ws: Workspace, state: RunState, stage: StageName, attempt: int) -> Path:
    """Where an attempt's log lies while the run's folder is there. The run was requested."""
    assert state.request is not None
    return ws.documents.run_dir(state.request) / "logs" / log_name(stage, attempt)


@contextmanager
def opened_log(
    ws: Workspace, state: RunState, stage: StageName, attempt: int
) -> Iterator[BinaryIO]:
    """An attempt's log, open for reading; verified where it comes from the store.

    Raises UsageError where it is neither here nor there, IntegrityError, UnavailableError.
    """
    path = log_path(ws, state, stage, attempt)
    # Of a pod's log only what could be followed is here.
    partial = state.request is not None and state.request.executor == "kubernetes"
    digest = stored_log(ws, state, stage, attempt) if partial or not path.is_file() else None
    if digest is None and path.is_file():
        with path.open("rb") as file:
            yield file
        return
    if digest is None:
        raise UsageError(f"{path} is not there and the store has no copy of it")
    with tempfile.TemporaryDirectory(prefix="launcher-log-") as folder:
        copy = Path(folder, "log")
        ws.store.fetch_blob(digest, copy)
        with copy.open("rb") as file:
            yield file


def stored_log(ws: Workspace, state: RunState, stage: StageName, attempt: int) -> str | None:
    """The digest of the stored log of an attempt that ended, or None."""
    for record in ws.ledger.read_stream(run_stream(state.run_id)):
        data = record.data
        ended = isinstance(data, StageSucceeded | StageFailed)
        if ended and (data.stage, data.attempt) == (stage, attempt) and data.log_digest:
            return str(data.log_digest)
    # Of an attempt that was closed (a timeout, a cancel) the log was saved after its result.
    return saved_of(ws.store, state.run_id, stage, attempt).log_digest


def tail_of_attempt(
    ws: Workspace, state: RunState, stage: StageName, attempt: int, count: int
) -> list[str]:
    """The last lines of an attempt's log, as ``last_lines``; [] where there is none to be had."""
    path = log_path(ws, state, stage, attempt)
    if path.exists():
        return last_lines(path, count)
    try:
        digest = stored_log(ws, state, stage, attempt)
        data = ws.store.read_blob(digest) if digest else b""
    except LauncherError:
        return []
    return _lines(data, count)


def last_lines(log: Path, count: int) -> list[str]:
    """The last ``count`` lines that have text, printable; [] if the log is absent.

    Of a progress bar the last state that it drew counts.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return _lines(file.read(), count)
    except OSError:
        return []


def _lines(data: bytes, count: int) -> list[str]:
    text = data[-_TAIL_BYTES:].decode("utf-8", "replace")
    drawn = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return [shown for line in drawn if (shown := one_line(line))][-count:]
