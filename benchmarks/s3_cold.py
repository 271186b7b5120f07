"""What a machine without a cache waits for a ledger in a bucket, beside bare reads of the same segments.

``python -m benchmarks.s3_cold [--appends 1500] [--rounds 3]``. A versitygw over a folder, which this starts; the
segments are laid into that folder by a ledger of its own, since appending them is measured elsewhere (``s3_append``).
Ours reads, checks and indexes the log up to its end (``head``), with packs and without; its peer gets the same objects
with boto3, as many at a time, and looks at nothing. Milliseconds a segment.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config

from launcher.clock import sleep
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import LedgerObjects, open_ledger
from launcher.storage.opening import open_store
from ledger.events import StageSkipped
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.port import NewEvent
from ledger.stores.segments import segment_key
from tests.rig.s3 import serving

NOW = "2026-01-31T02:00:00.000250Z"
READERS = 24
TARGET = 0.5


def fill(folder: Path, appends: int) -> None:
    """A ledger of so many segments under ``folder``, twenty to a run."""
    ledger = ObjectsEventStore(LedgerObjects(FilesystemStore(folder)), sleep=sleep)
    for number in range(appends):
        event = NewEvent(f"e{number}", StageSkipped(stage="llm_off", reason="x" * 600))
        ledger.append(f"run/{number // 20}", number % 20, [event], now=NOW, actor="ana@somewhere")
    ledger.close()


def cold(url: str, appends: int, *, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as cache:
        ledger = open_ledger(open_store(url), Path(cache), writing=False, packed=packed)
        assert ledger.head().size == appends
        ledger.close()


def bare(bucket: str, appends: int) -> None:
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=READERS)
    client = boto3.client("s3", config=config)

    def get(number: int) -> bytes:
        found: bytes = client.get_object(Bucket=bucket, Key=segment_key(number))["Body"].read()
        return found

    with ThreadPoolExecutor(READERS) as pool:
        assert all(pool.map(get, range(1, appends + 1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--appends", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    appends: int = options.appends
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "server") as server:
        os.environ.update({**server.environment(), "XDG_CACHE_HOME": name})
        bucket = server.bucket()
        fill(server.root / bucket, appends)
        ways: dict[str, Callable[[], None]] = {
            "with packs": partial(cold, f"s3://{bucket}", appends, packed=True),
            "without": partial(cold, f"s3://{bucket}", appends, packed=False),
            "bare reads": partial(bare, bucket, appends),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, read in ways.items():
                begun = time.perf_counter()
                read()
                found[way].append((time.perf_counter() - begun) * 1e3 / appends)
    for way, each in found.items():
        print(f"{way:<12} {statistics.median(each):6.3f} ms a segment (lowest {min(each):.3f})")
    ratio = statistics.median(found["with packs"]) / statistics.median(found["bare reads"])
    met = ratio <= TARGET
    print(f"{ratio:.2f} of bare reads; target at most {TARGET}: {'met' if met else 'NOT met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
