"""A pod's log that breaks off is taken up where it ended, and one that cannot be had is let be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k8s.containers import COMMAND
from k8s.errors import ClusterRefusedError, ClusterUnavailableError
from k8s.outcome import Outcome
from k8s.pods import PodSeen
from launcher.executors.listening import Listening

_LOG = b"one\ntwo\nthree\n"


class Logs:
    """A cluster whose command's log breaks off after so many bytes, the first time; its collector's has no end."""

    def __init__(self, breaks_after: int, error: Exception) -> None:
        self.asked: list[str] = []
        self._breaks_after, self._error = breaks_after, error

    def log(self, pod: str, container: str, *, follow: bool = False) -> Logs:
        assert follow
        if container == COMMAND:
            self.asked.append(pod)
        self._container = container
        return self

    def lines(self) -> Iterator[bytes]:
        yield from ()

    def parts(self) -> Iterator[bytes]:
        if len(self.asked) > 1:
            yield from (_LOG[:5], _LOG[5:])
            return
        yield _LOG[: self._breaks_after]
        raise self._error


def listened(logs: Logs, place: Path, done: bytes) -> None:
    """Look, as an executor does, until the file holds that."""
    listening, end = Listening(), time.monotonic() + 10
    seen: Any = Outcome("running", pod=PodSeen("p", "u", "n", None, None))
    while not place.exists() or place.read_bytes() != done:
        assert time.monotonic() < end, place.read_bytes()
        listening.to(seen, logs, None, place)  # type: ignore[arg-type]
        time.sleep(0.01)
    for _ in range(3):
        listening.to(seen, logs, None, place)  # type: ignore[arg-type]


def test_a_log_that_breaks_off_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    logs = Logs(7, ClusterUnavailableError("dropped"))
    listened(logs, tmp_path / "log", _LOG)
    assert logs.asked == ["p", "p"]


def test_a_log_that_may_not_be_read_is_not_asked_for_again(tmp_path: Path) -> None:
    logs = Logs(7, ClusterRefusedError("forbidden", 403))
    listened(logs, tmp_path / "log", _LOG[:7])
    assert logs.asked == ["p"]
