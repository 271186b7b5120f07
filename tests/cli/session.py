"""A project whose runs take a moment, the installed program, and a terminal to run it in."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from launcher.cli.main import main
from tests.rig.stores import project_store

LAUNCHER = Path(sys.executable).with_name("launcher")
DEADLINE_SECONDS = 60.0
REPOSITORY = Path(__file__).resolve().parents[2]

#: Each stage does what its variables say: write a line, wait for a file, fail.
CONFIG = r"""
BATCH=256
RATE=0.9
LLM_ON_CMD='echo capturing; echo p > "$ARTIFACT_DIR/planlets.txt"; eval "${LLM_ON_EXTRA:-}"'
RELABEL_CMD='printf "{\"planlet_id\": \"a\"}\n{\"planlet_id\": \"b\"}\n" > "$RELABEL_TAG_FILE"'
RETRAIN_CMD='echo epoch 1; echo "loss 0.412"; eval "${RETRAIN_EXTRA:-}"; echo "$RUN_ID" > "$CHECKPOINT_DIR/student.pt"'
LLM_OFF_CMD='echo "{\"success_rate\": $RATE, \"duplicates\": 2}" > "$METADATA_DIR/metrics.json"'
RELABEL_TAG_FILE={ARTIFACT_DIR}/tags.jsonl
"""
GIVEN = ("--teacher-checkpoint", "teacher.pt", "--teacher-scorecard", "scorecard.json")


@dataclass
class Done:
    """What a command printed and left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Session:
    """A folder with a config ``loop.env``, a teacher and a scorecard."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "runs" / "self_distill"

    def env(self, **more: str) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("LAUNCHER_") and k not in ("NO_COLOR", "COLUMNS", "TERM")
        }
        own = {"TERM": "xterm-256color", **project_store(self.root)}
        return {**kept, **own, **self.environment, **more}

    def launcher(self, *arguments: str, **more: str) -> Done:
        """``launcher …`` with pipes, as a script has it."""
        done = subprocess.run(
            [str(LAUNCHER), *arguments],
            cwd=self.root,
            env=self.env(**more),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def later(self, days: float, *arguments: str) -> Done:
        """``launcher …`` so many days later: see ``tests.cli.later``."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.cli.later", str(days), *arguments],
            cwd=self.root,
            env=self.env(PYTHONPATH=str(REPOSITORY)),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def look(self, *arguments: str, **more: str) -> Done:
        """As ``launcher``, in this process: for commands that only look."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        environment = self.env(**more)
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, environment, clear=True),
        ):
            code = 0
            try:
                main(arguments)
            except SystemExit as exc:
                code = exc.code if isinstance(exc.code, int) else 1
            texts = []
            for stream in (out, err):
                stream.flush()
                texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
        return Done(code, *texts)

    def submit(self, *arguments: str) -> Done:
        return self.launcher("submit", "--config", "loop.env", *GIVEN, *arguments)

    def start(self, *arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        """``launcher …`` in the background."""
        return subprocess.Popen(
            [str(LAUNCHER), *arguments],
            cwd=self.root,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs},
        )

    def start_submit(self, *arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
        return self.start("submit", "--config", "loop.env", *GIVEN, *arguments, **kwargs)

    def json(self, *arguments: str) -> Any:
        done = self.look(*arguments, "--json")
        assert done.code == 0, done
        return json.loads(done.out)

    def stage_status(self, run_id: str, stage: str) -> str:
        """As metadata.json has it; ``absent`` before there is one."""
        path = self.home / run_id / "metadata.json"
        if not path.exists():
            return "absent"
        stages = json.loads(path.read_bytes())["stages"]
        return str(next(s["status"] for s in stages if s["stage"] == stage))


def make_session(root: Path, **environment: str) -> Session:
    """A fresh project under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "loop.env").write_text(CONFIG)
    (root / "teacher.pt").write_text("teacher\n")
    (root / "scorecard.json").write_text("{}\n")
    return Session(root, {"LAUNCHER_ACTOR": "ana", **environment})


def until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


class Terminal:
    """A command in a terminal of its own. What it drew is ``drawn``, escape sequences and all."""

    def __init__(self, session: Session, arguments: Sequence[str], **more: str) -> None:
        self.drawn = b""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(session.root)
            os.execve(LAUNCHER, [str(LAUNCHER), *arguments], session.env(**more))

    def _read(self, timeout: float) -> bool:
        """Whether there may be more."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        self.drawn += data
        return bool(data)

    def until(self, text: str) -> None:
        """Read until ``text`` has been drawn."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text.encode() not in self.drawn:
            assert time.monotonic() < deadline, self.drawn.decode("utf-8", "replace")
            assert self._read(0.1), self.drawn.decode("utf-8", "replace")

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def wait(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._read(0.1):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                raise AssertionError(self.drawn.decode("utf-8", "replace"))
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    @property
    def text(self) -> str:
        return self.drawn.decode("utf-8", "replace").replace("\r\n", "\n")
