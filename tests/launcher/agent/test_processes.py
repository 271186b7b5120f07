"""Who belongs to an attempt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.agent import processes
from launcher.agent.processes import MARK, descendants, members
from tests.launcher.executors.attempts import until

WAIT = "import sys; sys.stdin.read()"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "r.retrain.1.lock"
    path.touch()
    return path


@pytest.fixture(params=["proc", "psutil"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of looking give the same answers; the second one is for machines without /proc."""
    if request.param == "psutil":
        monkeypatch.setattr(processes, "_HAS_PROC", False)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    children: list[subprocess.Popen[bytes]] = []
    yield children
    for child in children:
        child.communicate()


def child(*command: str, env: dict[str, str], fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=env, pass_fds=fds, stdin=subprocess.PIPE)


@pytest.mark.usefixtures("way")
def test_marked_holding_and_descended_processes_belong(
    lock: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    fd = os.open(lock, os.O_RDWR)
    started += [
        child(sys.executable, "-c", WAIT, env={MARK: str(lock)}),
        child(sys.executable, "-c", WAIT, env={}, fds=(fd,)),
        child(sys.executable, "-c", WAIT, env={MARK: f"{lock}x"}),
        child(sys.executable, "-c", WAIT, env={}),
    ]
    os.close(fd)
    marked, holding, *others = [one.pid for one in started]
    until(lambda: members(lock) == {marked, holding})
    assert set(others) <= descendants(os.getpid())
    for one in started[:2]:
        one.communicate()
    assert members(lock) == set()


@pytest.mark.usefixtures("way")
def test_a_child_of_a_member_belongs_whatever_it_gave_up(
    lock: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    nested = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {WAIT!r}], env={{}})"
    one = child(sys.executable, "-c", nested, env={MARK: str(lock)})
    started.append(one)
    until(lambda: len(members(lock)) == 2)
    assert members(lock) == {one.pid} | descendants(one.pid)


@pytest.mark.usefixtures("way")
def test_a_zombie_and_the_one_who_looks_do_not_count(
    lock: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    # Earlier tests may have left this process children, such as multiprocessing's resource tracker; they may end.
    kept = descendants(os.getpid())
    with lock.open() as held:
        assert members(lock) - kept == set()
        one = subprocess.Popen(["true"], env={MARK: str(lock)}, pass_fds=(held.fileno(),))
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert members(lock) - kept == set()
        assert one.wait() == 0
