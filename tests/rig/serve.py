"""An S3 server for a person: ``python -m tests.rig.serve FOLDER BUCKET`` serves until its standard input ends.

Prints the environment that leads to it, one ``export NAME=VALUE`` a line, then an empty line.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.rig.s3 import serving


def main(folder: str, bucket: str) -> int:
    """Serve ``bucket``; what an earlier server kept in ``folder`` is there again."""
    try:
        with serving(Path(folder)) as server:
            if not (server.root / bucket).is_dir():
                server.bucket(bucket)
            for name, value in server.environment().items():
                print(f"export {name}={value}")
            print(flush=True)
            with suppress(KeyboardInterrupt):
                sys.stdin.read()
    except pytest.skip.Exception as exc:
        print(f"no S3 server: {exc}", file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
