"""A cluster for a person: ``python -m tests.rig.cluster`` has one until Ctrl-C, and says how to reach it."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress

import pytest

from tests.rig.k8s import using


def main() -> int:
    """Print the environment that leads to the cluster, one ``export NAME=VALUE`` a line, then an empty line."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), using() as cluster:
            for name, value in cluster.environment().items():
                print(f"export {name}={value}")
            print(f"export PATH={cluster.program.rpartition('/')[0]}:$PATH")
            print(flush=True)
            said = f"the cluster is there after {time.monotonic() - began:.1f} s, until Ctrl-C"
            print(said, file=sys.stderr, flush=True)
            while True:
                signal.pause()
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        print(f"no cluster: {exc}", file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
