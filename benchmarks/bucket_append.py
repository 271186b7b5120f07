"""The ledger in a bucket against bare create-only puts of the same bytes, on the same store.

``python -m benchmarks.bucket_append [--rounds 300] [--writers 20] [--seconds 5] [--store DIR]``.

One writer: each append is followed by a bare put of the very segment that it wrote, under another key, turn
by turn in one process. Ratio = appends a second / bare puts a second.
Many writers: processes that append to streams of their own, each with a cache of its own (as on machines of
their own), for so many seconds. The ledger has one order, so nothing can be faster than one writer after
another. Ratio = their appends a second / those of as many processes in the same race with bare puts: create
the next number, and where it is taken read that and try the one after; nothing checked, nothing kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launcher.storage.filesystem import FilesystemStore
from launcher.storage.ledger_objects import open_ledger
from launcher.storage.port import ObjectExistsError, ObjectStore
from ledger import events as e
from ledger.ids import run_stream
from ledger.stores.port import NewEvent
from ledger.stores.segments import segment_key

NOW = "2026-01-31T02:00:00.000250Z"
TARGET_RATIO = 0.5


def event(number: int) -> NewEvent:
    """A stage's success."""
    data = e.StageSucceeded(
        stage="retrain",
        attempt=1 + number,
        manifest_digest="sha256:" + "ab" * 32,
        log_digest="sha256:" + "cd" * 32,
        seconds=e.StageSeconds(running=91.25, collecting=0.125),
        gpus=2,
    )
    return NewEvent(f"{number:08x}-7f30-5000-8000-000000000000", data)


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


def append_on(store: str, cache: Path, writer: int, ready: Callable[[], float]) -> list[float]:
    """Append to a stream of one's own until ``ready()``, the time to stop at; the seconds of each."""
    ledger = open_ledger(open_store(store), cache, writing=True)
    ledger.head()
    until, took = ready(), list[float]()
    while (begun := time.monotonic()) < until:
        new = NewEvent(f"{writer}-{len(took)}", event(len(took)).data)
        ledger.append(f"run/w{writer}", len(took), [new], now=NOW, actor="bench")
        took.append(time.monotonic() - begun)
    return took


def put_on(store: str, cache: Path, writer: int, ready: Callable[[], float]) -> list[float]:
    """The same race with bare puts of about as many bytes."""
    objects, number, data = open_store(store), 0, b"x" * 800
    until, took = ready(), list[float]()
    while (begun := time.monotonic()) < until:
        while True:
            key, number = f"bare/log/{number:012d}", number + 1
            try:
                objects.create(key, data)
                break
            except ObjectExistsError:
                objects.read(key)
        took.append(time.monotonic() - begun)
    return took


def work(
    job: str, store: str, cache: str, writer: int, seconds: float, start: Any, found: Any
) -> None:
    """One process of a race."""

    def ready() -> float:
        start.wait()
        return time.monotonic() + seconds

    found.put({"ledger": append_on, "bare put": put_on}[job](store, Path(cache), writer, ready))


def together(job: str, folder: Path, store: str, writers: int, seconds: float) -> float:
    """Prints how a race went, and returns how many creates a second all had together."""
    context = multiprocessing.get_context("spawn")
    start, queue = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(
            target=work, args=(job, store, str(folder / str(n)), n, seconds, start, queue)
        )
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=seconds + 300) for _ in processes]
    for process in processes:
        process.join()
    every = sorted(took for one in found for took in one)
    rate = len(every) / seconds
    print(
        f"{writers:>2} writers, {job:8}: {rate:5.0f} a second together, median {every[len(every) // 2]:.3f} s,"
        f" longest {every[-1]:.2f} s, {min(map(len, found))} to {max(map(len, found))} each"
    )
    return rate


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
        together("ledger", folder / "1", f"{place}/1", 1, options.seconds)
        rates = {
            job: together(job, folder / job, f"{place}/{job}", options.writers, options.seconds)
            for job in ("ledger", "bare put")
        }
    crowd = rates["ledger"] / rates["bare put"]
    for got, what in ((ratio, "one writer"), (crowd, f"{options.writers} writers")):
        verdict = "at least" if got >= TARGET_RATIO else "BELOW"
        print(f"{what}: {got:.2f} of bare puts, {verdict} the target of {TARGET_RATIO}")
    return 0 if min(ratio, crowd) >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
