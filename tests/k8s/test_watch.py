"""A mirror of a cluster that tears: whatever a watch does, what is here ends as a list would say."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from k8s.client import Kind, Listed
from k8s.errors import ClusterRefusedError, ClusterUnavailableError, ExpiredError
from k8s.watch import Mirror, folded


def thing(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}, **more}


def line(kind: str, found: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode()


def test_changes_are_folded() -> None:
    objects, version = folded({}, line("ADDED", thing("a", 4))) or ({}, "")
    assert (list(objects), version) == (["a"], "4")
    objects, version = folded(objects, line("MODIFIED", thing("a", 5, status={"active": 1}))) or (
        {},
        "",
    )
    assert objects["a"]["status"] == {"active": 1}
    same, version = folded(objects, line("BOOKMARK", thing("", 9))) or ({}, "")
    assert same is objects
    assert version == "9"
    assert folded(objects, line("DELETED", thing("a", 10))) == ({}, "10")


@pytest.mark.parametrize(
    "torn", [b"", b'{"type": "ADDED", "obj', b"[]", b'{"type": "ADDED", "object": {}}']
)
def test_a_torn_line_is_no_change(torn: bytes) -> None:
    assert folded({}, torn) is None


def test_a_server_that_says_why_is_heard() -> None:
    with pytest.raises(ExpiredError):
        folded({}, line("ERROR", {"code": 410, "reason": "Expired"}))
    with pytest.raises(ClusterUnavailableError, match="etcd"):
        folded({}, line("ERROR", {"code": 500, "message": "etcd is away"}))


class Script:
    """A cluster of one kind that changes: each list takes the next state, each watch the next script."""

    def __init__(self) -> None:
        self.now: list[dict[str, Any]] = []
        self.lists = 0
        self.kind: Kind = "jobs"
        self.refuse: Exception | None = None
        self.watches: queue.Queue[list[bytes] | Exception] = queue.Queue()
        self.began = threading.Semaphore(0)
        self.closed = threading.Event()

    def listed(self, kind: Kind, selector: str = "") -> Listed:
        if kind != self.kind:
            return Listed([], "1")
        self.lists += 1
        if self.refuse is not None:
            raise self.refuse
        return Listed(list(self.now), "1")

    def watch(self, kind: Kind, selector: str, version: str) -> Any:
        if kind == self.kind:
            self.began.release()
        return _Told(self, quiet=kind != self.kind)


class _Told:
    def __init__(self, script: Script, *, quiet: bool) -> None:
        self._script, self._quiet = script, quiet

    def lines(self) -> Iterator[bytes]:
        if self._quiet:
            self._script.closed.wait(30)
            return
        while not self._script.closed.is_set():
            try:
                said = self._script.watches.get(timeout=0.05)
            except queue.Empty:
                continue
            if isinstance(said, Exception):
                raise said
            yield from said
            return

    def close(self) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    made = Script()
    yield made
    made.closed.set()


@pytest.fixture
def mirror(script: Script) -> Iterator[Mirror]:
    made = Mirror(script, "run=r", lambda name: name.startswith("r"))
    yield made
    made.close()


def names(mirror: Mirror) -> set[str]:
    return {one["metadata"]["name"] for one in mirror.seen().jobs}


def until(mirror: Mirror, wanted: set[str]) -> None:
    number = -1
    for _ in range(200):
        if names(mirror) == wanted:
            return
        number = mirror.wait(number, 0.1).number
    raise AssertionError(f"{names(mirror)} is not {wanted}")


@pytest.mark.parametrize(
    "tear",
    [
        ExpiredError("too old"),
        ClusterUnavailableError("the connection was dropped"),
        [],
        [b'{"type": "MODIFIED", "obj'],
        [line("ERROR", {"code": 410})],
    ],
    ids=["410", "dropped", "silent end", "torn", "410 in the stream"],
)
def test_what_was_missed_shows_in_the_next_list(
    script: Script, mirror: Mirror, tear: list[bytes] | Exception
) -> None:
    script.now = [thing("r-1")]
    mirror.open()
    until(mirror, {"r-1"})
    script.now = [thing("r-2", 7)]
    script.watches.put(tear)
    until(mirror, {"r-2"})
    assert (mirror.seen().error, mirror.seen().restarts) == (None, 1)
    assert mirror.fresh().restarts == 1


@pytest.mark.parametrize("more", [[], [line("MODIFIED", thing("r-1", 6, status={"active": 1}))]])
def test_a_watch_that_goes_on_where_it_was_did_not_break(
    script: Script, mirror: Mirror, more: list[bytes]
) -> None:
    """The server ends it after its time, its place kept fresh by bookmarks."""
    script.now = [thing("r-1")]
    mirror.open()
    until(mirror, {"r-1"})
    script.watches.put([*more, line("BOOKMARK", thing("", 9))])
    for _ in range(2):
        assert script.began.acquire(timeout=10)
    assert (script.lists, mirror.seen().restarts) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "tear", "restarts"),
    [
        ("events", ExpiredError("too old"), 0),
        ("events", [line("ERROR", {"code": 410})], 0),
        ("events", ClusterUnavailableError("the connection was dropped"), 1),
        ("pods", ExpiredError("too old"), 1),
    ],
)
def test_a_watch_of_events_expires_in_the_way_of_things(
    script: Script, mirror: Mirror, kind: Kind, tear: list[bytes] | Exception, restarts: int
) -> None:
    """Nothing keeps its place fresh where no event comes."""
    script.kind = kind
    mirror.open()
    assert script.began.acquire(timeout=10)
    script.watches.put(tear)
    assert script.began.acquire(timeout=10)
    assert (script.lists, mirror.seen().restarts) == (2, restarts)


def test_what_ends_with_its_mirror_did_not_break(script: Script, mirror: Mirror) -> None:
    others = {*threading.enumerate()}
    mirror.open()
    assert script.began.acquire(timeout=10)
    watching = {*threading.enumerate()} - others
    mirror.close()
    script.watches.put(ClusterUnavailableError("closed"))
    for kept in watching:
        script.closed.set()
        kept.join(10)
    assert (len(watching), mirror.seen().restarts) == (3, 0)


def test_a_watch_that_ends_of_silence_is_no_outage(script: Script, mirror: Mirror) -> None:
    mirror.open()
    number = mirror.ready(10).number
    script.watches.put(ClusterUnavailableError("the API server does not answer: Read timed out."))
    while script.lists < 2:
        assert mirror.wait(number, 0.1).error is None
    assert mirror.wait(number, 0.5).number == number


def test_a_list_says_that_the_server_is_away_and_that_it_is_back(
    script: Script, mirror: Mirror
) -> None:
    mirror.open()
    number = mirror.ready(10).number
    script.refuse = ClusterUnavailableError("the API server does not answer: Connection refused")
    script.watches.put(ClusterUnavailableError("the connection was dropped"))
    while script.lists < 4:
        assert mirror.wait(number, 10).error is script.refuse
    script.refuse, script.now = None, [thing("r-1")]
    until(mirror, {"r-1"})
    # Once, though several lists failed.
    assert (mirror.seen().error, mirror.seen().restarts) == (None, 1)


def test_nothing_is_asked_while_nothing_changes(script: Script, mirror: Mirror) -> None:
    mirror.open()
    assert mirror.ready(10).error is None
    before = script.lists, mirror.seen().number
    mirror.wait(mirror.seen().number, 1.0)
    assert (script.lists, mirror.seen().number) == before


def test_a_cluster_that_refuses_is_said_and_asked_again(script: Script, mirror: Mirror) -> None:
    script.refuse = ClusterRefusedError("jobs cannot be listed: forbidden", 403)
    mirror.open()
    assert isinstance(mirror.ready(10).error, ClusterRefusedError)
    script.refuse, script.now = None, [thing("r-1")]
    until(mirror, {"r-1"})
    assert mirror.seen().error is None


def test_a_ring_wakes_who_waits(mirror: Mirror) -> None:
    mirror.open()
    number = mirror.ready(10).number
    threading.Timer(0.1, mirror.ring).start()
    assert mirror.wait(number, 10).number > number
