"""A process that uses a store in a bucket and may be killed on the way. ``python -m tests.fault.s3_child``.

Arguments: the store's URL, the folder of marks, what to do, and what it needs: ``ingest FILE``, ``fetch DIGEST
DEST``, ``create KEY BYTES``. Prints one line: what came of it, and the process's peak memory in KiB.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from launcher.storage.port import ObjectExistsError
from launcher.storage.s3 import S3Store


def main(url: str, marks: str, job: str, first: str, second: str = "") -> None:
    store = S3Store(url, marks=Path(marks))
    if job == "ingest":
        came = store.ingest(Path(first)).digest
    elif job == "fetch":
        came = store.fetch_blob(first, Path(second)).digest
    else:
        try:
            store.create(first, second.encode())
            came = "won"
        except ObjectExistsError:
            came = "lost"
    print(came, peak_kib())


def peak_kib() -> int:
    """The most memory that this process had. Linux counts the parent's into ru_maxrss."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # macOS: bytes
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)


if __name__ == "__main__":
    main(*sys.argv[1:])
