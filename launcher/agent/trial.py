"""In a probe's pod, where the collector would be: try the store, with the credentials and from the place that it has.

``python -m launcher.agent.trial --store=…``; its exit codes are those of ``launcher.agent.fetch``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from launcher.agent.pod_door import run, say

__all__ = ["main"]

_PROGRAM = "trial"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m launcher.agent.{_PROGRAM}", allow_abbrev=False
    )
    parser.add_argument("--store", required=True, help="a folder, or s3://bucket/prefix")
    place = parser.parse_args(arguments).store

    def work() -> int:
        from launcher.storage.trial import tried

        say(_PROGRAM, tried(place))
        return 0

    return run(_PROGRAM, work)


if __name__ == "__main__":
    sys.exit(main())
