"""The ledger in a bucket against bare create-only puts of the same bytes, on the same store.

``python -m benchmarks.bucket_append [--rounds 300] [--writers 20] [--seconds 5] [--apart] [--store PLACE]``.

One writer: each append is followed by a bare put of the very segment that it wrote, under another key, turn
by turn in one process. Ratio = appends a second / bare puts a second.
Many writers: processes of this machine that append without pause to streams of their own, sharing its cache (or
with --apart each with a cache of its own, which on one machine mostly measures its processors: every segment is
then read and checked by each). The ledger has one order, so nothing is faster than one writer after another;
"no collapse" means that all together keep at least a fifth of one writer's rate. Beside it, the same race with
bare puts: create the next number, and where it is taken read that and try the one after; nothing checked or kept.
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

from launcher.storage.ledger_objects import open_ledger
from launcher.storage.opening import open_store
from launcher.storage.port import ObjectExistsError, ObjectStore
from ledger import events as e
from ledger.ids import run_stream
from ledger.stores.port import NewEvent
from ledger.stores.segments import segment_key

NOW = "2026-01-31T02:00:00.000250Z"
TARGET_RATIO = 0.5
TARGET_TOGETHER = 0.2


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
    objects = open_store(store)
    # A store may look at itself before a process's first write.
    objects.create(f"warm/{writer}", b"")
    ledger = open_ledger(objects, cache, writing=True)
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
    objects.create(f"warm/{writer}", b"")
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


def together(job: str, caches: list[Path], store: str, seconds: float) -> float:
    """Prints how a race went, and returns how many creates a second all had together."""
    context = multiprocessing.get_context("spawn")
    writers = len(caches)
    start, queue = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=work, args=(job, store, str(cache), n, seconds, start, queue))
        for n, cache in enumerate(caches)
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
    parser.add_argument(
        "--store",
        default=None,
        help="an empty folder or s3://bucket/prefix; default a temporary folder",
    )
    parser.add_argument("--apart", action="store_true", help="a cache for each writer")
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
        one = together("ledger", [folder / "c"], f"{place}/1", options.seconds)
        caches = [folder / (f"c{n}" if options.apart else "shared") for n in range(options.writers)]
        many = together("ledger", caches, f"{place}/many", options.seconds)
        together("bare put", caches, f"{place}/bare", options.seconds)
    good = True
    for got, wanted, what in (
        (ratio, TARGET_RATIO, "one writer, of bare puts"),
        (many / one, TARGET_TOGETHER, f"{options.writers} writers, of one writer's rate"),
    ):
        good &= got >= wanted
        print(
            f"{what}: {got:.2f}, {'at least' if got >= wanted else 'BELOW'} the target of {wanted}"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
