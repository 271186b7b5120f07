"""The way in for what runs in a pod: its arguments, its signal, its last line.

A container's first process ignores every signal that it does not ask for, and a pod waits its whole grace for one
that does. So the signal comes first here, and what takes long to read is read after it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from k8s.wrapper import PRIVATE
from launcher.errors import LauncherError

__all__ = ["Given", "Told", "give_back", "given", "run", "say"]


#: From <malloc.h>.
_M_MMAP_THRESHOLD: Final = -3


@dataclass(frozen=True, slots=True)
class Given:
    """Which store and task, where the workspace and the handover folder are, and which pod this is.

    ``private``: below it are the volumes that hold what is never stored.
    """

    store: str
    task: str
    workspace: Path
    handover: Path
    pod: dict[str, str]
    private: Path = Path(PRIVATE)

    @property
    def pod_uid(self) -> str:
        """What tells this pod from others of its attempt."""
        return self.pod.get("uid") or os.uname().nodename


class Told:
    """Whether this process was told to end, and a sleep that ends when it is."""

    def __init__(self) -> None:
        self._yes = False
        self._wake, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def __bool__(self) -> bool:
        return self._yes

    def wait(self, seconds: float | None) -> None:
        """Sleep; for less where a signal comes. None: until one comes."""
        if select.select([self._wake], [], [], seconds)[0]:
            os.read(self._wake, 4096)

    def _hear(self, *_: Any) -> None:
        self._yes = True


def given(program: str, arguments: Sequence[str] | None = None) -> Given:
    """The command line and what the pod says of itself. Exits with 2 where it is none."""
    parser = argparse.ArgumentParser(prog=f"python -m launcher.agent.{program}", allow_abbrev=False)
    parser.add_argument("--store", required=True, help="a folder, or s3://bucket/prefix")
    parser.add_argument("--task", required=True, help="the digest of the stored task")
    parser.add_argument("--workspace", required=True, type=Path)
    parser.add_argument("--handover", required=True, type=Path)
    parser.add_argument("--private", default=PRIVATE, type=Path, help="where fetch sees volumes")
    read = parser.parse_args(arguments)
    names = {"name": "POD_NAME", "uid": "POD_UID", "node": "NODE_NAME"}
    pod = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    return Given(read.store, read.task, read.workspace, read.handover, pod, read.private)


def run(program: str, work: Callable[[], int]) -> int:
    """What ``work`` returns, or the exit code of what it raises, said in one line."""
    give_back()
    try:
        return work()
    except LauncherError as exc:
        say(program, str(exc))
        return exc.exit_code


def give_back() -> None:
    """Have the memory of each big block go back when it is freed (glibc): a pod's limit counts what is kept, too."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 256 * 1024)


def say(program: str, text: str) -> None:
    """One line, whatever is in it: the last one is what Kubernetes shows."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    os.write(sys.stderr.fileno(), f"{program}: {line}\n".encode())
