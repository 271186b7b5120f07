"""``bucket_append`` on a real S3 server (versitygw over a folder, which this starts).

``python -m benchmarks.s3_append [options of bucket_append but for --store]``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import bucket_append
from tests.rig.s3 import serving


def main() -> int:
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "server") as server:
        os.environ.update({**server.environment(), "XDG_CACHE_HOME": name})
        return bucket_append.main([*sys.argv[1:], "--store", f"s3://{server.bucket()}"])


if __name__ == "__main__":
    sys.exit(main())
