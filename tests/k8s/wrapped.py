"""The wrapper, run by a real bash over a folder of its own; the test plays the collector."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from k8s.wrapper import WRAPPER

__all__ = ["Wrapped"]

_SECONDS = 20


class Wrapped:
    """One wrapper process; leaving the block ends it, whatever it does."""

    def __init__(
        self,
        folder: Path,
        command: str,
        *,
        grace: int = 10,
        save: int = 10,
        collect: int = 20,
        log: Path | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        self.handover = folder / "handover"
        self.log = log or folder / "run" / "logs" / "03_retrain.log"
        self.words = folder / "termination-log"
        self.seen = folder / "seen"
        self.seen.mkdir()
        self.handover.mkdir()
        numbers = [str(grace), str(save), str(collect)]
        given = [str(self.handover), str(self.log), *numbers, str(self.words), command]
        self.process = subprocess.Popen(
            [*before, "bash", "-c", WRAPPER, "launcher", *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "SEEN": str(self.seen)},
            start_new_session=True,
        )

    def __enter__(self) -> Wrapped:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.stop()
        self.process.communicate(timeout=_SECONDS)

    def until(self, asked: Callable[[], Any]) -> Any:
        """The first true answer."""
        end = time.monotonic() + _SECONDS
        while not (answer := asked()):
            assert time.monotonic() < end, f"{asked} never came; {self.process.poll()}"
            time.sleep(0.01)
        return answer

    def file(self, name: str) -> Path:
        """The file of the handover folder, once it is there."""
        path = self.handover / name
        self.until(path.exists)
        return path

    def saw(self, name: str) -> None:
        """Wait until the command made $SEEN/``name``."""
        self.until((self.seen / name).exists)

    def has(self, name: str) -> bool:
        return (self.handover / name).exists()

    def handed_over(self) -> dict[str, Any]:
        """exit.json, once it is there: whole, since it came by rename."""
        return dict(json.loads(self.file("exit.json").read_text()))

    def collected(self, word: str = "committed") -> None:
        """Say that the collection is done."""
        part = self.handover / "collected.part"
        part.write_text(f"{word}\n")
        part.rename(self.handover / "collected")

    def stop(self) -> None:
        (self.handover / "stop").touch()

    def tell(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def left(self) -> int:
        """The wrapper's own exit code, once it has ended."""
        return self.process.wait(_SECONDS)

    def last_words(self) -> dict[str, Any]:
        return dict(json.loads(self.words.read_text()))
