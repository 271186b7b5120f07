"""An S3 server for the tests: versitygw over a folder, on loopback, started and stopped here.

``server`` is one per test process; each test takes a bucket of its own (``S3Server.bucket``), which is a folder
that the test may look into and change behind the server's back.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rig.tools import go_tool, skip

__all__ = [
    "ACCESS_KEY",
    "SECRET_KEY",
    "VERSION",
    "S3Server",
    "client_of",
    "s3_program",
    "s3_server",
    "serving",
]

VERSION = "1.8.0"
ACCESS_KEY, SECRET_KEY = "rigaccesskey", "rig-secret-key-that-no-output-may-show"
_START_SECONDS = 20


@dataclass
class S3Server:
    """A server at ``endpoint``, whose buckets are the folders of ``root``."""

    endpoint: str
    root: Path
    pid: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def bucket(self, name: str | None = None) -> str:
        """A new bucket's name; a folder that is made is a bucket."""
        name = name or f"bucket-{next(self._numbers)}"
        (self.root / name).mkdir()
        return name

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a client finds in its environment. ``endpoint``: another one that leads here."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }


def client_of(environment: Mapping[str, str]) -> Any:
    """boto3 itself, as whoever has this environment (``S3Server.environment``)."""
    # Every test process imports this module, few ask for a client.
    import boto3
    from botocore.client import Config

    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )


def s3_program() -> Path:
    """The server's program, built where it is not there yet."""
    return go_tool("github.com/versity/versitygw", "cmd/versitygw", VERSION)


@contextmanager
def serving(
    folder: Path,
    *options: str,
    scheme: str = "http",
    versions: Path | None = None,
    inside: Sequence[str] = (),
    address: tuple[str, int] | None = None,
) -> Iterator[S3Server]:
    """A server over ``folder``, until the end of the block. Skips where there is none to be had.

    ``options``: of versitygw; with ``--cert`` and ``--key`` the scheme is https. ``versions``: where buckets that keep
    versions have their older ones. ``inside``: what to put before the command, where it is to run in another
    network; ``address`` is then its host and port there.
    """
    program = s3_program()
    root, notes, log = folder / "buckets", folder / "notes", folder / "log"
    root.mkdir(parents=True, exist_ok=True)
    notes.mkdir(exist_ok=True)
    host, port = address or ("127.0.0.1", _free_port())
    # A file system that keeps no extended attributes gets a folder of notes instead.
    aside = [] if _keeps_attributes(root) else ["--sidecar", str(notes)]
    if versions is not None:
        versions.mkdir(parents=True, exist_ok=True)
        aside += ["--versioning-dir", str(versions)]
    listen = ["--port", f"{host}:{port}", "--quiet", "--keep-alive"]
    command = [*_tied(), *inside, str(program), *listen, *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "posix", *aside, str(root)],
            env={
                "PATH": os.environ.get("PATH", ""),
                "ROOT_ACCESS_KEY": ACCESS_KEY,
                "ROOT_SECRET_KEY": SECRET_KEY,
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait((host, port), process, log)
        yield S3Server(f"{scheme}://{host}:{port}", root, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of a process."""
    folder = Path(tempfile.mkdtemp(prefix="distill-ledger-s3-"))
    try:
        with serving(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tied() -> list[str]:
    """What to put before a command that is to end with the thread that started it, were that killed."""
    setpriv = shutil.which("setpriv")  # util-linux
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _keeps_attributes(folder: Path) -> bool:
    if not hasattr(os, "setxattr"):
        return False
    try:
        os.setxattr(folder, "user.rig", b"1")
        os.removexattr(folder, "user.rig")
    except OSError:
        return False
    return True


def _wait(address: tuple[str, int], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            skip(f"versitygw ended at once: {log.read_text(errors='replace')[-400:]}")
        try:
            socket.create_connection(address, timeout=5).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    skip(f"versitygw did not listen within {_START_SECONDS} seconds")
