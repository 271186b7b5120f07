"""What it costs to make a checkpoint live in a bucket, beside the server's own time for a PUT.

``python -m benchmarks.s3_swap [--rounds 400] [--whole 40]``. The swap is the one create that decides who is
live (``Pointers.create``); its peer is a bare conditional ``put_object`` of boto3 with the very same bytes under
another key, turn by turn on the same server (versitygw over a folder, which this starts). Whole promotions and
rollbacks, of a checkpoint of 1 MB and of one of 2 GiB, stand below: two appends to the ledger (a file), the
swap, and what is read for them, counted by a proxy in front of the server; none of it may grow with the size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config

from launcher.clock import new_id
from launcher.storage.pointer import PointerHistory, Pointers
from launcher.storage.port import blob_key
from ledger.canonical import canonical_json
from ledger.decider import RunState
from ledger.events import Generation
from tests.rig.fault_proxy import FaultProxy, proxied
from tests.rig.s3 import S3Server, serving
from tests.rig.swaps import NAME, Swaps, swaps

NOW = "2026-01-31T02:00:00.000250Z"
TARGET_MS = 5.0
TARGET_READS = 4
#: Creates and reads.
Asked = tuple[int, int]
SIZES = {"1 MB": 10**6, "2 GiB": 2**31}


def took(call: Callable[[], object]) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def next_body(history: PointerHistory) -> Generation:
    """The next generation of a pointer that is promoted again and again."""
    return history.promotion_body(
        project="p",
        digest="sha256:" + "ab" * 32,
        size_bytes=1_900_000_000,
        run_id="20260131T020000Z-7f3a",
        promotion_id=new_id(),
        automatic=True,
        actor="ana@somewhere",
        reason=None,
        time=NOW,
    )


def swap(server: S3Server, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of each create, ours and theirs, in turn."""
    bucket = server.bucket()
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    found: dict[str, list[float]] = {"swap": [], "bare PUT": []}
    with swaps(folder / "swap", f"s3://{bucket}/team") as world:
        pointers = Pointers(world.store)
        client.put_object(Bucket=bucket, Key="bare/warm", Body=b"", IfNoneMatch="*")
        for number in range(rounds):
            body = next_body(pointers.known(NAME))
            data = canonical_json(body.model_dump(mode="json"))
            bare = {"Bucket": bucket, "Key": f"bare/{number:08d}.json", "Body": data}
            turn: list[tuple[str, Callable[[], object]]] = [
                ("swap", partial(pointers.create, body)),
                ("bare PUT", partial(client.put_object, **bare, IfNoneMatch="*")),
            ]
            for name, call in turn if number % 2 else reversed(turn):
                found[name].append(took(call))
    return found


def students(world: Swaps, folder: Path, count: int, size: int) -> list[RunState]:
    """Runs that left students of ``size`` bytes; these are never read, so they may be empty on the disk."""
    runs = []
    for number in range(count):
        digest = "sha256:" + new_id().replace("-", "") * 2
        file = folder / blob_key(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as out:
            out.truncate(size)
        runs.append(world.run(f"r{number}", digest, size))
    return runs


def turns(world: Swaps, runs: list[RunState]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Promotions and rollbacks in turn, each to be called before the next is asked for."""
    promoter = world.promoter()
    promoter.promote(runs[0], NAME, automatic=False)
    for run in runs[1:]:
        yield "promotion", partial(promoter.promote, run, NAME, automatic=False)
        history = promoter.pointers.known(NAME)
        to = history.rollback_target(str(history.latest - 1))
        yield (
            "rollback",
            partial(promoter.rollback, NAME, to, reason=None, base=history.latest),
        )


def whole(server: S3Server, rounds: int, folder: Path, size: int) -> dict[str, list[float]]:
    """Milliseconds of promotions and rollbacks of ``size`` bytes, by what was done."""
    bucket, found = server.bucket(), dict[str, list[float]]()
    with swaps(folder / f"whole-{size}", f"s3://{bucket}/team") as world:
        runs = students(world, server.root / bucket / "team", rounds + 1, size)
        for what, call in turns(world, runs):
            found.setdefault(what, []).append(took(call))
    return found


def asked(server: S3Server, proxy: FaultProxy, folder: Path, size: int) -> dict[str, Asked]:
    """How many creates and reads one promotion, or rollback, of ``size`` bytes makes; every one the same."""
    bucket, found = server.bucket(), dict[str, set[Asked]]()
    with swaps(folder / f"asked-{size}", f"s3://{bucket}/team") as world:
        runs = students(world, server.root / bucket / "team", 4, size)
        for what, call in turns(world, runs):
            proxy.requests.clear()
            call()
            creates = sum(r.header("if-none-match") is not None for r in proxy.requests)
            reads = sum(r.method in ("GET", "HEAD") for r in proxy.requests)
            found.setdefault(what, set()).add((creates, reads))
    assert all(len(counts) == 1 for counts in found.values()), found
    return {what: counts.pop() for what, counts in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--whole", type=int, default=40)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name) / "server") as server,
        proxied(server) as proxy,
    ):
        os.environ.update({**server.environment(), "XDG_CACHE_HOME": name})
        found = swap(server, options.rounds, Path(name))
        print(f"{'':10}{'median ms':>11}{'p99 ms':>9}   ({options.rounds} each)")
        for what, times in found.items():
            print(f"{what:10}{statistics.median(times):>11.2f}{p99(times):>9.2f}")
        print(f"\n{'whole':22}{'creates':>9}{'reads':>7}{'median ms':>11}")
        counts: dict[tuple[str, str], Asked] = {}
        for label, size in SIZES.items():
            whole_ms = whole(server, options.whole, Path(name), size)
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            for what, (creates, reads) in asked(server, proxy, Path(name), size).items():
                counts[what, label] = (creates, reads)
                ms = statistics.median(whole_ms[what])
                print(f"{what:10} of {label:9}{creates:>9}{reads:>7}{ms:>11.2f}")
            os.environ["AWS_ENDPOINT_URL"] = server.endpoint
    over = p99(found["swap"]) - p99(found["bare PUT"])
    good = over <= TARGET_MS
    print(
        f"swap: p99 {over:.2f} ms over a bare PUT's, "
        f"{'at most' if good else 'ABOVE'} the target of {TARGET_MS:.0f} ms"
    )
    cheap = all(creates == 1 and reads <= TARGET_READS for creates, reads in counts.values())
    same = all(counts[what, "1 MB"] == counts[what, "2 GiB"] for what in ("promotion", "rollback"))
    verdict = "as" if cheap and same else "NOT as"
    print(
        f"requests: {verdict} the target says: one create, at most {TARGET_READS} reads, for any size"
    )
    return 0 if good and cheap and same else 1


if __name__ == "__main__":
    sys.exit(main())
