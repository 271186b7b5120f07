"""What a launcher hears of its starter."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from launcher.executors import spawn
from tests.launcher.executors.attempts import made_attempts

#: Answers an attempt as a starter does whose supervisor found it taken: both lines in one write.
SAYS_BOTH_AT_ONCE = (
    "import os, sys; n = int.from_bytes(os.read(0, 8)); sys.stdin.buffer.read(n);"
    " os.write(1, b'71 forked\\n71 ended\\n'); os.read(0, 1)"
)


def test_a_supervisor_that_ended_before_it_was_heard_of_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "STARTER", (sys.executable, "-I", "-c", SAYS_BOTH_AT_ONCE))
    monkeypatch.setattr(spawn, "_START_SECONDS", 10.0)
    spawner = spawn.Spawner()
    began = time.monotonic()
    with made_attempts(tmp_path) as attempts:
        assert spawner.spawn(attempts.spec("true")) == 71
    assert not spawner.listen(71, 5.0)
    assert time.monotonic() - began < 10
    spawner.close()
