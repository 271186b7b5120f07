"""The local copy of a ledger in a bucket: what a question costs does not grow with the ledger."""

from __future__ import annotations

from collections.abc import Callable

from ledger import records
from ledger.stores._segment_cache import SegmentCache
from ledger.stores.segments import Tip, next_segment
from tests.ledger.samples import skipped


def cache_of(segments: int) -> SegmentCache:
    """So many, of one event each."""
    cache, tip = SegmentCache(None, log="log", boot="boot"), Tip()
    for number in range(segments):
        event, now = skipped(f"e{number}"), "2026-01-31T02:00:00.000250Z"
        made = next_segment(tip, records.prepare("run/r", number, [event], now=now, actor="ana"))
        cache.absorb([made])
        tip = tip.follow(made, "log")
    return cache


def work(cache: SegmentCache, ask: Callable[[], object]) -> int:
    """SQLite's instructions, in tens, that ``ask`` takes."""
    done = 0

    def count() -> int:
        nonlocal done
        done += 1
        return 0

    db = cache._file._db
    assert db is not None
    db.set_progress_handler(count, 10)
    ask()
    db.set_progress_handler(None, 10)
    return done


def test_a_root_of_long_ago_and_one_of_now_cost_the_same_in_a_long_ledger() -> None:
    long, short = cache_of(400), cache_of(20)
    few = max(work(short, lambda: short.root_at(20)), work(short, lambda: short.root_at(10)))
    assert work(long, lambda: long.root_at(10)) <= few + 5
    assert work(long, lambda: long.root_at(390)) <= few + 5
    assert long.root_at(20) == short.root_at(20)
