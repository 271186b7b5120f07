"""The store under test (see tests/rig/stores.py), and signals as in a person's terminal."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.s3 import serving
from tests.rig.stores import BUCKET, FOLDER

# Who starts tests in the background, by a shell's & or nohup, has these ignored, and so have the tests' programs.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        ours = signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        signal.signal(_number, ours)


@pytest.fixture(scope="session", autouse=True)
def _store_under_test() -> Iterator[None]:
    """With ``TEST_STORE=s3`` every project has a place in one bucket of a server of this process."""
    wanted = os.environ.get("TEST_STORE") or "folder"
    if wanted not in ("folder", "s3"):
        raise pytest.UsageError(f"TEST_STORE={wanted} is neither folder nor s3")
    if wanted == "folder":
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="distill-ledger-s3-", ignore_cleanup_errors=True) as top,
        serving(Path(top)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment().items():
            patch.setenv(name, value)
        # What this server is known for, and the caches of its ledgers, end with it.
        patch.setenv("XDG_CACHE_HOME", f"{top}/cache")
        patch.setenv(BUCKET, f"s3://{server.bucket('projects')}")
        patch.setenv(FOLDER, str(server.root / "projects"))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``TEST_STORE=s3`` what is about folders alone is left out, and counted as deselected."""
    if os.environ.get("TEST_STORE") != "s3":
        return
    left = [item for item in items if item.get_closest_marker("folder")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]
