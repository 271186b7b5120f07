"""Many commands at one moment: processes that are ready to go, and are let go together.

``python -m tests.rig.racers`` reads commands from its standard input, as JSON: ``[{"arguments": [...], "environment":
{...}}, ...]``. It has read the program's modules; for each command it forks a process, which waits for the others, runs
``launcher`` and ends. What each said is printed, as JSON. So the race is between commands, not between imports.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.cli.main import main
from launcher.storage import opening
from tests.cli.session import Done, Session

__all__ = ["race"]

REPOSITORY = Path(__file__).resolve().parents[2]
_SECONDS = 120
_MODULES = ("pointers", "rollback", "common")


def race(session: Session, *commands: Sequence[str], actors: Sequence[str] = ()) -> list[Done]:
    """What each of these commands said, all begun at once. ``actors``: who each of them is."""
    told = [
        {"arguments": list(command), "environment": {"LAUNCHER_ACTOR": actor} if actor else {}}
        for command, actor in zip(commands, actors or [""] * len(commands), strict=True)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.rig.racers"],
        cwd=session.root,
        env=session.env(PYTHONPATH=str(REPOSITORY)),
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Done(**one) for one in json.loads(done.stdout)]


def _run(told: dict[str, Any], folder: Path, ready: int, go: int) -> None:
    """One racer; does not return."""
    code = 1
    try:
        for fd, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600), fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(told["environment"])
        os.write(ready, b".")
        os.read(go, 1)  # nothing comes: it ends when all are ready
        main(told["arguments"])
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _race(commands: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    for module in _MODULES:
        importlib.import_module(f"launcher.cli.{module}")
    opening.warm("s3://any")
    (said, ready), (go, start) = os.pipe(), os.pipe()
    children: list[tuple[int, Path]] = []
    with tempfile.TemporaryDirectory() as top:
        for number, told in enumerate(commands):
            folder = Path(top, str(number))
            folder.mkdir()
            pid = os.fork()
            if pid == 0:
                os.close(start)
                _run(told, folder, ready, go)
            children.append((pid, folder))
        for _ in children:
            assert os.read(said, 1)
        os.close(start)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
        return [
            {"code": code, "out": (at / "out").read_text(), "err": (at / "err").read_text()}
            for code, (_, at) in zip(codes, children, strict=True)
        ]


if __name__ == "__main__":
    print(json.dumps(_race(json.load(sys.stdin))))
