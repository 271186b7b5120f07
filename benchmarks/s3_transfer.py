"""One big checkpoint to and from a bucket: ours against boto3's upload_file and download_file.

``python -m benchmarks.s3_transfer [--mib 2048] [--rounds 3] [--folder DIR]``. Both talk to the same server
(versitygw over a folder, which this starts), turn by turn, in one process. The peer neither hashes nor
verifies nor flushes to disk. Ratio = MB/s of ours / of the peer, of the best rounds. The default folder is
in memory where there is room, so that the disk, which serves both, does not hide the difference; ``--folder``
on a disk shows what the flush costs. Memory: the most that a process of its own ever held, Python and boto3
included, that sends the file and fetches it. The same content again is counted by a proxy: no payload.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from launcher.storage.opening import open_store
from launcher.storage.port import blob_key
from tests.rig.fault_proxy import proxied
from tests.rig.s3 import S3Server, serving

MIB = 1024 * 1024
TARGETS = {"up": 0.8, "down": 0.9}
MEMORY_MIB = 200
#: A process that sends and fetches one file, and says what it held at most.
_ONCE = """
import sys
from pathlib import Path
from launcher.storage.opening import open_store
from tests.fault.s3_child import peak_kib
store = open_store(sys.argv[1])
blob = store.ingest(Path(sys.argv[2]))
store.fetch_blob(blob.digest, Path(sys.argv[2] + ".back"))
print(peak_kib() // 1024)
"""
_MEMORY = Path("/dev/shm")


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process."""
    cpu, begun = time.process_time(), time.perf_counter()
    call()
    return time.perf_counter() - begun, time.process_time() - cpu


def measure(
    server: S3Server, folder: Path, mib: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) of each round, by what was done."""
    bucket = server.bucket()
    source, dest = folder / "student.pt", folder / "fetched.pt"
    block = os.urandom(16 * MIB)
    with source.open("wb") as file:
        for number in range(-(-mib // 16)):
            file.write(number.to_bytes(8) + block[8 : min(16, mib - number * 16) * MIB])
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    transfer = TransferConfig(preferred_transfer_client="classic")
    store = open_store(f"s3://{bucket}/team")
    store.create("known/good", b"")
    digest = ""
    seconds: dict[str, list[tuple[float, float]]] = {}

    def keep(what: str, call: Callable[[], object]) -> None:
        seconds.setdefault(what, []).append(timed(call))
        dest.unlink(missing_ok=True)

    def ours_up() -> None:
        nonlocal digest
        digest = store.ingest(source).digest

    def theirs_up() -> None:
        client.upload_file(str(source), bucket, "peer", Config=transfer)

    for number in range(rounds):
        for call in (ours_up, theirs_up) if number % 2 else (theirs_up, ours_up):
            keep(f"{call.__name__}", call)
        keep("ours_down", lambda: store.fetch_blob(digest, dest))
        keep(
            "theirs_down", lambda: client.download_file(bucket, "peer", str(dest), Config=transfer)
        )
        keep("ours_again", lambda: store.ingest(source))
        if number < rounds - 1:
            client.delete_object(Bucket=bucket, Key="team/" + blob_key(digest))
            client.delete_object(Bucket=bucket, Key="peer")
    with proxied(server) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        watched = open_store(f"s3://{bucket}/team")
        watched.create("known/good too", b"")  # it is another endpoint
        proxy.requests.clear()
        watched.ingest(source)
        payload = sum(len(request.body) for request in proxy.requests)
    print(f"the same content again: {payload} bytes of payload in {len(proxy.requests)} request(s)")
    assert payload == 0
    os.environ["AWS_ENDPOINT_URL"] = server.endpoint
    client.delete_object(Bucket=bucket, Key="peer")
    return seconds


def memory_mib(server: S3Server, source: Path) -> int:
    """The most that a process of its own held which sent ``source`` to a new bucket and fetched it."""
    command = [sys.executable, "-c", _ONCE, f"s3://{server.bucket()}/team", str(source)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    where = options.folder
    if (
        where is None
        and _MEMORY.is_dir()
        and shutil.disk_usage(_MEMORY).free > 6 * options.mib * MIB
    ):
        where = _MEMORY
    with tempfile.TemporaryDirectory(dir=where) as name, serving(Path(name) / "server") as server:
        os.environ.update({**server.environment(), "XDG_CACHE_HOME": name})
        found = measure(server, Path(name), options.mib, options.rounds)
        print(f"{options.mib} MiB, {options.rounds} rounds, in {name}, {os.cpu_count()} cores")
        held = memory_mib(server, Path(name) / "student.pt")
    print(f"{'':12}{'best MB/s':>10}{'median s':>10}{'CPU s':>8}")
    best = {}
    for what, rounds in found.items():
        fastest, cpu = min(rounds)
        best[what] = options.mib * 1.048576 / fastest
        median = sorted(rounds)[len(rounds) // 2][0]
        print(f"{what:12}{best[what]:>10.0f}{median:>10.2f}{cpu:>8.2f}")
    good = held <= MEMORY_MIB
    verdict = "at most" if good else "ABOVE"
    print(f"memory: {held} MiB, {verdict} the target of {MEMORY_MIB}")
    for way, target in TARGETS.items():
        ratio = best[f"ours_{way}"] / best[f"theirs_{way}"]
        good = good and ratio >= target
        verdict = "at least" if ratio >= target else "BELOW"
        print(f"{way}: ratio {ratio:.2f}, {verdict} the target of {target}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
