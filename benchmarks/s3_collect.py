"""Two thousand small files that a stage left, collected into a bucket, beside the server's own limit.

``python -m benchmarks.s3_collect [--files 2000] [--kib 2] [--rounds 3]``. Ours is the agent's whole collection
(``launcher.agent.outputs``): look for the files, hash, store each create-only with its checksum, write the
manifest. The peer reads the same files and puts them with boto3, eight at once like ours, unconditionally and
unhashed: about what this server (versitygw over a folder, which this starts) can take from two cores that it
shares with its client. Larger files than 16 KiB are asked for first (``--kib 32``), which is one request more.
Fetched: all of them again, eight at once, hashed and flushed; the peer gets them and writes them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from launcher.agent.outputs import collect_outputs
from launcher.storage.manifest import Manifest
from launcher.storage.opening import open_store
from launcher.storage.port import ObjectStore
from tests.rig.s3 import S3Server, serving
from tests.rig.stage_specs import spec_of

THREADS = 8
TARGET = 0.7
_MEMORY = Path("/dev/shm")


def at_once(work: Callable[[Any], object], items: list[Any]) -> None:
    """All of it, eight at a time; the first error is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(work, items):
            pass


def ours(store: ObjectStore, folder: Path, files: int) -> Manifest:
    """Collect; returns what was listed."""
    collected = collect_outputs(spec_of(folder, "llm_on"), store)
    manifest = Manifest.from_bytes(store.read_blob(collected["manifest_digest"]))
    assert len(manifest.entries) == files
    return manifest


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    value = call()
    return time.perf_counter() - begun, value


def measure(
    server: S3Server, folder: Path, files: int, size: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round, by what was done; other bytes each round, so that nothing is there already."""
    client = boto3.client(
        "s3", config=Config(s3={"addressing_style": "path"}, max_pool_connections=24)
    )
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        run, bucket = folder / f"run-{number}", server.bucket()
        (run / "artifacts").mkdir(parents=True)
        for n in range(files):
            (run / "artifacts" / f"{n:05d}.json").write_bytes(random.randbytes(size))
        paths = sorted((run / "artifacts").iterdir())
        store = open_store(f"s3://{bucket}/team")
        store.create("warm", b"")

        def put(path: Path, bucket: str = bucket) -> None:
            client.put_object(Bucket=bucket, Key=f"bare/{path.name}", Body=path.read_bytes())

        def get(path: Path, bucket: str = bucket, run: Path = run) -> None:
            body = client.get_object(Bucket=bucket, Key=f"bare/{path.name}")["Body"]
            (run / "got" / path.name).write_bytes(body.read())

        turns: list[tuple[str, Callable[[], Any]]] = [
            ("collected", lambda s=store, r=run: ours(s, r, files)),  # type: ignore[misc]
            ("bare PUTs", lambda p=paths: at_once(put, p)),  # type: ignore[misc]
        ]
        manifest = None
        for name, call in turns if number % 2 else reversed(turns):
            seconds, value = timed(call)
            found.setdefault(name, []).append(seconds)
            manifest = value or manifest
        assert manifest is not None
        (run / "got").mkdir()

        def fetch(entry: Any, store: ObjectStore = store, run: Path = run) -> None:
            store.fetch_blob(entry.digest, run / "back" / entry.path)

        found.setdefault("fetched", []).append(
            timed(lambda e=list(manifest.entries): at_once(fetch, e))[0]  # type: ignore[misc]
        )
        found.setdefault("bare GETs", []).append(timed(lambda p=paths: at_once(get, p))[0])  # type: ignore[misc]
        shutil.rmtree(run)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kib", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    where = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2**30 else None
    with tempfile.TemporaryDirectory(dir=where) as name, serving(Path(name) / "server") as server:
        os.environ.update({**server.environment(), "XDG_CACHE_HOME": name})
        found = measure(server, Path(name), options.files, options.kib * 1024, options.rounds)
        print(f"{options.files} files of {options.kib} KiB, in {name}, {os.cpu_count()} cores")
    print(f"{'':12}{'best s':>8}{'median s':>10}{'files/s':>9}")
    for what, seconds in found.items():
        median = sorted(seconds)[len(seconds) // 2]
        print(f"{what:12}{min(seconds):>8.2f}{median:>10.2f}{options.files / min(seconds):>9.0f}")
    ratio = min(found["bare PUTs"]) / min(found["collected"])
    back = min(found["bare GETs"]) / min(found["fetched"])
    good = ratio >= TARGET
    print(f"fetched: {back:.2f} of bare GETs (two requests for one, hashed, flushed)")
    print(
        f"collected: {ratio:.2f} of bare PUTs, {'at least' if good else 'BELOW'} the target of {TARGET}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
