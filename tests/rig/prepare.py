"""Have the programs that the tests build ready before any test starts, so that none waits for a build.

    python -m tests.rig.prepare

A minute or two the first time, nothing afterwards. Where one cannot be had it says so and ends well, since the tests
that need it then say it too; with CI=true it ends badly, as they would.
"""

from __future__ import annotations

import sys

import pytest

from tests.rig.s3 import s3_program

__all__ = ["main"]


def main() -> int:
    """Each program once; 5 where CI cannot have one."""
    try:
        s3_program()
    except pytest.skip.Exception as exc:
        print(f"tests will be skipped: {exc}", file=sys.stderr)
    except pytest.fail.Exception as exc:
        print(exc, file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
