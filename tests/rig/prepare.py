"""Have what the tests build ready before any test starts, so that none waits for a build.

    python -m tests.rig.prepare

The S3 server's program and helm, then the cluster's programs and images: minutes the first time; then seconds, or
what a changed checkout's image takes. Where one cannot be had it says so and ends well, since the tests that need it
then say it too; with CI=true it ends badly, as they would.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.cluster.agent_image import agent_image
from tests.rig.cluster.images import debian_archive
from tests.rig.cluster.minigrid_image import minigrid_image
from tests.rig.cluster.programs import given, programs
from tests.rig.helm import helm_program
from tests.rig.policed import policy_program
from tests.rig.prometheus import prometheus_program
from tests.rig.s3 import s3_program

__all__ = ["main"]


def main() -> int:
    """Each part once, said with what it took; 5 where CI cannot have one, or the cluster asked for is not there."""
    try:
        path = given()
    except pytest.fail.Exception as exc:
        print(exc, file=sys.stderr)
        return 5
    for what, make in _parts(path):
        began = time.monotonic()
        try:
            make()
        except pytest.skip.Exception as exc:
            print(f"{what}: tests will be skipped: {exc}", file=sys.stderr)
            return 0
        except pytest.fail.Exception as exc:
            print(f"{what}: {exc}", file=sys.stderr)
            return 5
        print(f"{what}: ready after {time.monotonic() - began:.1f} s", flush=True)
    return 0


def _parts(path: Path | None) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each stands on those before it."""
    yield "the tests' S3 server", s3_program
    yield "helm", helm_program
    if path is not None:
        print(f"the tests of a cluster use the one of {path}, each in a namespace of its own")
        return
    yield "the cluster's programs", programs
    yield "the base image", debian_archive
    yield "this project's image", agent_image()[1]
    yield "the demo's image", minigrid_image()[1]
    yield "Prometheus", prometheus_program
    yield "kube-router", policy_program


if __name__ == "__main__":
    sys.exit(main())
