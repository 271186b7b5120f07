"""What a writer to the ledger in a bucket survives: creates without an answer, kills, many writers at once.

The oracle: every acknowledged event is there exactly once, versions and positions have no gap, and a reader
that starts from nothing, and so checks the whole chain, finds the same as everybody else.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.errors import LedgerUnavailableError, VersionConflictError
from ledger.stores.log_port import LogObjects
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import segment_key
from ledger.transparency.merkle import tree_root
from tests.ledger.log_objects import FaultyObjects, MemoryObjects, folder_objects
from tests.ledger.samples import LATER, NOW, skipped

ROOT = Path(__file__).parents[2]


def opened(objects: LogObjects, cache: Path | None = None) -> ObjectsEventStore:
    return ObjectsEventStore(objects, cache, sleep=lambda seconds: None)


def say(store: ObjectsEventStore, key: str, version: int, stream: str = "run/a") -> None:
    store.append(stream, version, [skipped(key)], now=NOW, actor="ana")


def whole(objects: LogObjects) -> list[str]:
    """The ids that a reader finds who starts from nothing; he has checked everything there is to check."""
    store = opened(objects)
    found = list(store.read_all())
    raws = [stored.raw for stored in store.read_raw()]
    assert [r.position for r in found] == list(range(len(raws)))
    assert store.head().root == tree_root(raws)
    for stream in store.streams():
        versions = [r.version for r in store.read_stream(stream)]
        assert versions == list(range(1, len(versions) + 1))
    ids = [r.id for r in found]
    assert len(set(ids)) == len(ids)
    return ids


# --- no answer ------------------------------------------------------------------------------------

FAULTS = ["lost", "landed", "late", "deaf"]


@pytest.mark.parametrize("plan", list(itertools.product(FAULTS, repeat=2)), ids="-".join)
def test_a_create_without_an_answer_is_appended_once(plan: tuple[str, str]) -> None:
    bucket = MemoryObjects()
    line = FaultyObjects(bucket, plan)
    store = opened(line)
    say(store, "1", 0)
    # A minute later, what was on its way arrives at last.
    assert line.deliver() == 0
    say(store, "2", 1)
    assert whole(bucket) == ["1", "2"]
    assert len(bucket.objects) == 2


def test_a_late_create_that_another_overtook_changes_nothing() -> None:
    bucket = MemoryObjects()
    line = FaultyObjects(bucket, ["late"])
    store = opened(line)
    other = opened(bucket)

    def meanwhile(seconds: float) -> None:
        say(other, "other", 0, "run/b")

    patient = ObjectsEventStore(line, sleep=meanwhile)
    say(patient, "1", 0)
    assert whole(bucket) == ["other", "1"]
    assert line.deliver() == 0
    assert whole(bucket) == ["other", "1"] == [r.id for r in store.read_all()]


def test_a_late_create_whose_writer_gave_up_is_found_by_the_same_append_later() -> None:
    bucket = MemoryObjects()
    line = FaultyObjects(bucket, ["late"] * 6)
    store = opened(line)
    with pytest.raises(LedgerUnavailableError, match="not confirmed in 6 tries"):
        say(store, "1", 0)
    assert whole(bucket) == []
    assert line.deliver() == 1
    first = store.append("run/a", 0, [skipped("1")], now=LATER, actor="bob")
    assert [(r.time, r.actor) for r in first] == [(NOW, "ana")]
    assert whole(bucket) == ["1"]


def test_giving_up_and_another_append_then_the_late_one() -> None:
    bucket = MemoryObjects()
    line = FaultyObjects(bucket, ["late"] * 6)
    store = opened(line)
    with pytest.raises(LedgerUnavailableError):
        say(store, "1", 0)
    say(store, "2", 0)
    assert line.deliver() == 0
    with pytest.raises(VersionConflictError):
        say(store, "1", 0)
    say(store, "1", 1)
    assert whole(bucket) == ["2", "1"]


def test_no_number_is_ever_skipped_and_nothing_is_written_twice() -> None:
    bucket = MemoryObjects()
    line = FaultyObjects(bucket, ["landed", "lost", "well", "late", "deaf"])
    store, other = opened(line), opened(bucket)
    for version in range(4):
        say(other, f"other{version}", version, "run/b")
        say(store, f"{version}", version)
    assert sorted(bucket.objects) == [segment_key(n) for n in range(1, 9)]
    assert len(whole(bucket)) == 8


def test_a_reader_on_a_bad_line_is_patient_and_then_says_so() -> None:
    bucket = MemoryObjects()
    say(opened(bucket), "1", 0)
    waits: list[float] = []
    line = FaultyObjects(bucket, ["deaf"])
    store = ObjectsEventStore(line, sleep=waits.append)
    say(store, "2", 1)
    assert len(waits) == 1
    line.plan = ["deaf"]
    assert [r.id for r in store.read_all()] == ["1", "2"]


# --- killed ---------------------------------------------------------------------------------------


def child(folder: Path, death: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fault.bucket_child", str(folder), str(death)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_killed_before_each_object_call_of_an_append(tmp_path: Path) -> None:
    start = tmp_path / "start"
    say(opened(folder_objects(start / "objects"), start / "cache"), "k", 0)
    dry = tmp_path / "dry"
    shutil.copytree(start, dry)
    calls = child(dry, -1).stdout.split()
    made = calls.index("create")
    assert "read" in calls[made:], "dying after the create and before the answer is tried too"
    for death in range(len(calls)):
        folder = tmp_path / str(death)
        shutil.copytree(start, folder)
        # The copied bucket has another name, as for anybody who meets it anew.
        assert child(folder, death).returncode == -signal.SIGKILL
        objects = folder_objects(folder / "objects")
        assert whole(objects) == (["k", "k0", "k1"] if death > made else ["k"]), calls[death]
        store = opened(objects, folder / "cache")
        again = store.append("run/a", 1, [skipped("k0"), skipped("k1")], now=LATER, actor="second")
        assert {r.actor for r in again} == {"first" if death > made else "second"}
        assert whole(objects) == ["k", "k0", "k1"]


# --- many -----------------------------------------------------------------------------------------

WRITERS, APPENDS = 20, 5


def write(folder: Path, writer: int, streams: int) -> None:
    """Append over a bad line; every acknowledged id is noted before the next is tried."""
    chance = random.Random(writer)
    line = FaultyObjects(folder_objects(folder / "objects"))
    # Half of them share a cache, the others are on machines of their own.
    cache = folder / "cache" if writer % 2 else folder / f"cache{writer}"
    store = ObjectsEventStore(line, cache, sleep=time.sleep)
    stream, version = f"run/{writer % streams}", 0
    with (folder / f"said{writer}").open("a") as said:
        for i in range(APPENDS):
            while True:
                line.plan = chance.choices(["well", *FAULTS], [8, 1, 1, 1, 1], k=1)
                try:
                    records = store.append(
                        stream, version, [skipped(f"{writer}.{i}")], now=NOW, actor=f"w{writer}"
                    )
                    break
                except VersionConflictError as exc:
                    version = exc.actual
                line.deliver()
            version = records[-1].version
            said.write(f"{writer}.{i}\n")
            line.deliver()


@pytest.mark.parametrize("streams", [1, WRITERS], ids=["one stream", "a stream each"])
def test_twenty_writers_on_a_bad_line(streams: int, tmp_path: Path) -> None:
    # Processes of their own, forked from one that has imported everything and opened nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    writers = [context.Process(target=write, args=(tmp_path, n, streams)) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(150)
    assert [w.exitcode for w in writers] == [0] * WRITERS
    acknowledged = [
        line for n in range(WRITERS) for line in (tmp_path / f"said{n}").read_text().split()
    ]
    assert len(acknowledged) == WRITERS * APPENDS
    found = whole(folder_objects(tmp_path / "objects"))
    assert sorted(found) == sorted(acknowledged)
    for n in range(WRITERS):
        assert [i for i in found if i.startswith(f"{n}.")] == [f"{n}.{i}" for i in range(APPENDS)]
    shared = opened(folder_objects(tmp_path / "objects"), tmp_path / "cache")
    assert [r.id for r in shared.read_all()] == found
