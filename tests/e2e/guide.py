"""The commands of a page of docs/, to be typed by a test as they stand there: fenced blocks with a name."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.project import REPOSITORY

__all__ = ["Typed", "bash", "blocks"]

Typed = subprocess.CompletedProcess[str]


def blocks(page: str) -> dict[str, str]:
    """What is fenced as ```bash NAME in docs/``page``, by name."""
    text = (REPOSITORY / "docs" / page).read_text()
    return dict(re.findall(r"```bash (\w+)\n(.*?)```", text, re.DOTALL))


def bash(text: str, folder: Path, environment: Mapping[str, str], seconds: float = 120) -> Typed:
    """Typed in ``folder``; the first command that fails ends it."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
