"""The ledger in a bucket against bare create-only puts of the same bytes, on the same store.

``python -m benchmarks.bucket_append [--rounds 300] [--writers 20] [--seconds 5] [--store DIR]``.

One writer: each append is followed by a bare put of the very segment that it wrote, under another key, turn
by turn in one process. Ratio = appends a second / bare puts a second.
Many writers: processes that append to streams of their own, each with a cache of its own (as on machines of
their own), for so many seconds. The ledger has one order, so nothing can be faster than one writer after
another; the ratio is of all of them together to one of them alone, measured by the same worker.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.append import NOW, event
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import open_ledger
from launcher.storage.port import ObjectStore
from ledger.errors import VersionConflictError
from ledger.ids import run_stream
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.port import NewEvent
from ledger.stores.segments import segment_key

TARGET_RATIO = 0.5
#: Twenty writers together, of one alone.
TARGET_TOGETHER = 0.5


def open_store(store: str) -> ObjectStore:
    """The store that a person names: a folder."""
    return FilesystemStore(Path(store))


def alone(store: ObjectStore, caches: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each append, and of each bare put of the same bytes."""
    ledger = open_ledger(store, caches, writing=True)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        new = event(number)
        begun = time.perf_counter()
        ledger.append(run_stream("alone"), number, [new], now=NOW, actor="bench")
        ours.append(time.perf_counter() - begun)
        data = store.read(segment_key(number + 1))
        begun = time.perf_counter()
        store.create(f"bare/log/{number:012d}", data)
        theirs.append(time.perf_counter() - begun)
    ledger.close()
    return ours, theirs


def work(store: str, caches: str, writer: int, seconds: float, start: Any, counts: Any) -> None:
    """Append to a stream of one's own until the time is up."""
    ledger = open_ledger(open_store(store), Path(caches) / str(writer), writing=True)
    ledger.head()
    start.wait()
    until, version = time.monotonic() + seconds, 0
    worst = 0.0
    while (begun := time.monotonic()) < until:
        new = NewEvent(f"{writer}-{version}", event(version).data)
        version = append(ledger, f"run/w{writer}", version, new)
        worst = max(worst, time.monotonic() - begun)
    counts.put((version, worst))


def append(ledger: ObjectsEventStore, stream: str, version: int, new: NewEvent) -> int:
    """The version after; conflicts cannot be, nobody else has this stream."""
    try:
        return ledger.append(stream, version, [new], now=NOW, actor="bench")[-1].version
    except VersionConflictError as exc:
        raise AssertionError(f"another wrote to {stream}") from exc


def together(folder: Path, store: str, writers: int, seconds: float) -> tuple[float, float, int]:
    """Appends a second of all, the longest append in seconds, and the fewest appends of one."""
    context = multiprocessing.get_context("spawn")
    start, counts = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=work, args=(store, str(folder), n, seconds, start, counts))
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    found = [counts.get(timeout=seconds + 300) for _ in processes]
    for process in processes:
        process.join()
    return sum(n for n, _ in found) / seconds, max(w for _, w in found), min(n for n, _ in found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--store", default=None, help="an empty place; default a temporary folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = options.store or str(folder / "objects")
        ours, theirs = alone(open_store(f"{place}/one"), folder / "cache", options.rounds)
        print(f"{'':10}{'median ms':>11}{'p95 ms':>9}{'per s':>8}   ({len(ours)} each)")
        for label, seconds in (("ledger", ours), ("bare put", theirs)):
            median, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[18]
            rate = len(seconds) / sum(seconds)
            print(f"{label:10}{median * 1e3:>11.3f}{p95 * 1e3:>9.3f}{rate:>8.0f}")
        ratio = sum(theirs) / sum(ours)
        rates = {}
        for writers in (1, options.writers):
            rate, worst, fewest = together(
                folder / f"{writers}", f"{place}/{writers}", writers, options.seconds
            )
            rates[writers] = rate
            print(
                f"{writers:>3} writers: {rate:.0f} appends a second together,"
                f" the longest {worst:.2f} s, at least {fewest} each"
            )
    kept = rates[options.writers] / rates[1]
    said = [
        f"{got:.2f} {'at least' if got >= wanted else 'BELOW'} {wanted} {what}"
        for got, wanted, what in (
            (ratio, TARGET_RATIO, "of bare puts"),
            (kept, TARGET_TOGETHER, f"of one writer's rate with {options.writers}"),
        )
    ]
    print("; ".join(said))
    return 0 if ratio >= TARGET_RATIO and kept >= TARGET_TOGETHER else 1


if __name__ == "__main__":
    sys.exit(main())
