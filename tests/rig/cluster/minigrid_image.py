"""The image of the demo's stages, built by buildah from examples/minigrid/Dockerfile on a base that is made here."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from tests.rig.cluster.agent_image import built
from tests.rig.cluster.images import cached

__all__ = ["minigrid_image"]

_ROOT = Path(__file__).parents[3]
_FOLDER = _ROOT / "examples" / "minigrid"
_KEPT = 2


def minigrid_image() -> tuple[str, Callable[[], Path]]:
    """The image's name, which tells what it is made of, and what has it ready for ``layers.bring``."""
    name = f"rig.local/minigrid:{_digest()[:12]}"
    return name, lambda: cached(name, lambda target: _build(name, target), ".image")


def _digest() -> str:
    """Of what the Dockerfile takes; of pyproject.toml, which changes often, only what it reads there."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    whole = hashlib.sha256(json.dumps(project["optional-dependencies"]["demo"]).encode())
    files = ("Dockerfile", "Dockerfile.dockerignore", "planner_server.py")
    for path in (_ROOT / "constraints.txt", *(_FOLDER / name for name in files)):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _build(name: str, target: Path) -> None:
    built(
        name,
        target,
        f"--file={_FOLDER / 'Dockerfile'}",
        f"--ignorefile={_FOLDER / 'Dockerfile.dockerignore'}",
        kept=_KEPT,
    )
