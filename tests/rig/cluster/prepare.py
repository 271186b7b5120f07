"""Have all that the cluster takes ready before the tests start, so that none of them waits for a build.

    python -m tests.rig.cluster.prepare

Minutes the first time; then seconds, or what a changed checkout's image takes. Where no cluster can run it says so
and ends well, since the tests then say it too; with CI=true it ends badly, as they would.
"""

from __future__ import annotations

import sys
import time

import pytest

from tests.rig.cluster.agent_image import agent_archive
from tests.rig.cluster.images import debian_archive
from tests.rig.cluster.programs import given, programs

__all__ = ["main"]


def main() -> int:
    """Programs first, then images, each said with what it took."""
    try:
        if path := given():
            print(f"the tests of a cluster use the one of {path}, each in a namespace of its own")
            return 0
        for what, make in (
            ("programs", programs),
            ("base image", debian_archive),
            ("this project's image", agent_archive()[1]),
        ):
            began = time.monotonic()
            make()
            print(
                f"cluster of the tests: {what} ready after {time.monotonic() - began:.1f} s",
                flush=True,
            )
    except pytest.skip.Exception as exc:
        print(f"the tests of a cluster will be skipped: {exc}", file=sys.stderr)
    except pytest.fail.Exception as exc:
        print(exc, file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
