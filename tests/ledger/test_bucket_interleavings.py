"""Several writers to one bucket, stopped before and after every object call and let on in any order.

Each writer is a thread that runs only when the schedule says so: one object call at a time is applied, and
hypothesis chooses whose, what becomes of it, and when a late one arrives. So a failing schedule is found
again and shrunk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.errors import LedgerUnavailableError, VersionConflictError
from ledger.stores.log_port import KeyTakenError, NoAnswerError
from ledger.stores.objects import ObjectsEventStore
from ledger.stores.segments import segment_key
from ledger.transparency.merkle import tree_root
from tests.ledger.log_objects import MemoryObjects
from tests.ledger.samples import NOW, skipped

WRITERS, APPENDS, PATIENCE_SECONDS = 3, 3, 30
FAULTS = ("well", "well", "well", "landed", "lost", "late", "dies")


class KilledError(BaseException):
    """This writer is no more; nothing may catch it."""


@dataclass
class Turn:
    """A writer that waits for its next call, or has ended."""

    resume: queue.Queue[str] = field(default_factory=queue.Queue)
    ended: bool = False


class Stage:
    """One bucket; the writers report to ``ready`` whenever they stop, and go on when told."""

    def __init__(self) -> None:
        self.bucket = MemoryObjects()
        self.ready: queue.Queue[int] = queue.Queue()
        self.turns = [Turn() for _ in range(WRITERS)]
        self.late: list[tuple[str, bytes]] = []
        self.acknowledged: list[list[str]] = [[] for _ in range(WRITERS)]
        self.failures: list[BaseException] = []


class Line:
    """One writer's way to the bucket. Every call stops before it is applied."""

    where = "memory://bucket"

    def __init__(self, stage: Stage, writer: int) -> None:
        self._stage, self._writer = stage, writer

    def _stop(self) -> str:
        self._stage.ready.put(self._writer)
        fate = self._stage.turns[self._writer].resume.get(timeout=PATIENCE_SECONDS)
        if fate == "dies":
            raise KilledError
        return fate

    def create(self, key: str, data: bytes) -> None:
        fate = self._stop()
        if fate == "late":
            self._stage.late.append((key, data))
        elif fate != "lost":
            self._stage.bucket.create(key, data)
        if fate != "well":
            raise NoAnswerError(self.where, fate)

    def read(self, key: str) -> bytes | None:
        # Reads that a writer makes several at a time come from threads of a pool, and change nothing.
        if threading.current_thread().name == f"writer {self._writer}" and self._stop() == "lost":
            raise NoAnswerError(self.where, "lost")
        return self._stage.bucket.read(key)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        self._stop()
        return self._stage.bucket.list(prefix, after)


def work(stage: Stage, writer: int, shared: bool) -> None:
    """Append as a launcher does: on a conflict read again, on no answer say the same again."""
    stream = "run/shared" if shared else f"run/{writer}"
    store = ObjectsEventStore(Line(stage, writer), sleep=lambda seconds: None)
    try:
        version = 0
        for i in range(APPENDS):
            events = [skipped(f"{writer}.{i}.{part}") for part in range(1 + i % 2)]
            while True:
                try:
                    said = store.append(stream, version, events, now=NOW, actor=f"w{writer}")
                    break
                except VersionConflictError as exc:
                    version = exc.actual
                except LedgerUnavailableError:
                    continue
            assert [r.id for r in said] == [event.id for event in events]
            assert {r.actor for r in said} == {f"w{writer}"}
            stage.acknowledged[writer].extend(event.id for event in events)
            version = said[-1].version
    except KilledError:
        pass
    except BaseException as exc:  # noqa: BLE001 - shown by the test's own thread
        stage.failures.append(exc)
    finally:
        store.close()
        stage.turns[writer].ended = True
        stage.ready.put(writer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.data())
def test_any_order_of_any_calls(shared: bool, data: st.DataObject) -> None:
    stage = Stage()
    threads = [
        threading.Thread(target=work, args=(stage, n, shared), name=f"writer {n}", daemon=True)
        for n in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        stage.ready.get(timeout=PATIENCE_SECONDS)
    faults = 0
    # Hypothesis chooses the interesting beginning; whoever is left then runs to the end, turn by turn.
    for step in range(10_000):
        waiting = [n for n, turn in enumerate(stage.turns) if not turn.ended]
        if not waiting:
            break
        chosen, fate = waiting[step % len(waiting)], "well"
        if step < 40:
            chosen = data.draw(st.sampled_from(waiting))
            fate = data.draw(st.sampled_from(FAULTS)) if faults < 8 else "well"
            faults += fate != "well"
            if stage.late and data.draw(st.booleans()):
                arrive(stage)
        stage.turns[chosen].resume.put(fate)
        assert stage.ready.get(timeout=PATIENCE_SECONDS) == chosen
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    while stage.late:
        arrive(stage)
    assert not stage.failures
    check(stage)


def arrive(stage: Stage) -> None:
    """The oldest late create is applied, if its number is still free."""
    key, content = stage.late.pop(0)
    try:
        stage.bucket.create(key, content)
    except KeyTakenError:
        return


def check(stage: Stage) -> None:
    """Every acknowledged event once, in its writer's order; no gap; the chain whole for one who knows nothing."""
    assert sorted(stage.bucket.objects) == [
        segment_key(n + 1) for n in range(len(stage.bucket.objects))
    ]
    reader = ObjectsEventStore(stage.bucket, sleep=lambda seconds: None)
    found = list(reader.read_all())
    assert [r.position for r in found] == list(range(len(found)))
    ids = [r.id for r in found]
    assert len(set(ids)) == len(ids)
    for writer, acknowledged in enumerate(stage.acknowledged):
        own = [r.id for r in found if r.actor == f"w{writer}"]
        # At most the one append that it died in may be there besides.
        assert own[: len(acknowledged)] == acknowledged
        assert len(own) - len(acknowledged) <= 2
    for stream in reader.streams():
        versions = [r.version for r in reader.read_stream(stream)]
        assert versions == list(range(1, len(versions) + 1))
    raws = [stored.raw for stored in reader.read_raw()]
    assert reader.head().root == tree_root(raws)
    assert len(reader.kept_heads()) == len(stage.bucket.objects)
