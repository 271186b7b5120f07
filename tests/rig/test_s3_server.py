"""The S3 server of the tests ends with whoever started it, killed or not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.rig.s3 import serving
with serving(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_test_run_leaves_no_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, end = int(done.stdout), time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)
