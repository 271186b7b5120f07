"""What a cluster has of one run, kept in step: list, then watch from there, and list again where a watch tears.

1. What is here is what some list would have said at some moment; it only goes forward. A torn line, a dropped
   connection, a silent end, 410: the next step is another list, and whatever was missed shows in it. That alone says
   whether the server is away, for a watch also ends of silence, or with one of several servers.
2. Nothing is asked while nothing changes, except that a server which does not answer is asked again, ever more
   seldom.
3. Before something final is decided of an absence, ``fresh`` lists: a watch may be behind.
4. Each watch that does not go on where it was is counted when it breaks, once, however long the next list takes
   (``Seen.restarts``). One that the server ends after its time goes on where it was, and counts for nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from k8s.client import Kind, Listed, Stream
from k8s.errors import ClusterRefusedError, ClusterUnavailableError, ExpiredError, K8sError

__all__ = ["Mirror", "Seen", "Source", "folded"]

Object = dict[str, Any]
Objects = Mapping[str, Object]

_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
KINDS: Final[tuple[Kind, ...]] = ("jobs", "pods", "events")
#: These have no bookmarks: where none of them comes for some minutes, a watch that ended after its time cannot go on
#: where it was. That is in the way of things, and nobody was away.
_EXPIRES_OF_ITSELF: Final[frozenset[Kind]] = frozenset({"events"})


class Source(Protocol):
    """What a mirror asks of a cluster (``k8s.client.Client``)."""

    def listed(self, kind: Kind, selector: str = "") -> Listed: ...
    def watch(self, kind: Kind, selector: str, version: str) -> Stream: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A moment: by kind, in no order. ``number`` grows with every change; ``error`` says that the cluster is away.

    ``restarts``: how many watches have broken so far.
    """

    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    number: int = 0
    error: K8sError | None = None
    restarts: int = 0


def folded(objects: Objects, line: bytes) -> tuple[Objects, str] | None:
    """``objects`` after one line of a watch, and the version to go on from; None for a line that is none.

    Raises ExpiredError, ClusterUnavailableError: what the server says instead of a change.
    """
    try:
        change = json.loads(line)
        kind, found = change["type"], change["object"]
        if kind == "ERROR":
            said = str(found.get("message") or found.get("reason") or "an error")
            raise ExpiredError(said) if found.get("code") == 410 else ClusterUnavailableError(said)
        version = str(found["metadata"]["resourceVersion"])
        if kind == "BOOKMARK":
            return objects, version
        uid = str(found["metadata"]["uid"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    others = {key: one for key, one in objects.items() if key != uid}
    return (others if kind == "DELETED" else {**others, uid: found}), version


@dataclass
class _Part:
    """One kind's objects, and the thread that keeps them in step."""

    kind: Kind
    selector: str
    objects: Objects = field(default_factory=dict)
    listed: bool = False
    error: K8sError | None = None
    stream: Stream | None = None


class Mirror:
    """Jobs and pods with the labels of ``selector``, and the events about whatever ``wanted`` names.

    Threads of its own from ``open`` to ``close``; every method may be called from any thread.
    """

    def __init__(self, source: Source, selector: str, wanted: Callable[[str], bool]) -> None:
        self._source, self._wanted = source, wanted
        # Events carry no labels of ours.
        self._parts = {kind: _Part(kind, "" if kind == "events" else selector) for kind in KINDS}
        self._changed = threading.Condition()
        self._number = 0
        self._restarts = 0
        self._closed = False

    def open(self) -> None:
        """Begin; returns at once."""
        for part in self._parts.values():
            threading.Thread(target=self._keep, args=(part,), daemon=True).start()

    def close(self) -> None:
        """End; no thread of it asks for anything more."""
        with self._changed:
            self._closed = True
            streams = [part.stream for part in self._parts.values() if part.stream is not None]
            self._changed.notify_all()
        for stream in streams:
            stream.close()

    def seen(self) -> Seen:
        """What is here now."""
        with self._changed:
            return self._seen()

    def wait(self, number: int, seconds: float) -> Seen:
        """``seen``, once there is more than at ``number``, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number or self._closed, seconds)
            return self._seen()

    def ready(self, seconds: float) -> Seen:
        """``seen``, once everything was listed; or with the ``error`` that kept it from being."""

        def told() -> bool:
            return self._closed or all(p.listed or p.error for p in self._parts.values())

        with self._changed:
            self._changed.wait_for(told, seconds)
            return self._seen()

    def fresh(self) -> Seen:
        """What lists say now, Jobs after pods. Raises ClusterUnavailableError, ClusterRefusedError."""
        pods = self._source.listed("pods", self._parts["pods"].selector).items
        jobs = self._source.listed("jobs", self._parts["jobs"].selector).items
        with self._changed:
            found = self._seen()
        return Seen(tuple(jobs), tuple(pods), found.events, found.number, restarts=found.restarts)

    def ring(self) -> None:
        """Wake who waits, as if something had changed."""
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def _seen(self) -> Seen:
        jobs, pods, events = (tuple(self._parts[kind].objects.values()) for kind in KINDS)
        errors = [part.error for part in self._parts.values() if part.error is not None]
        waiting = [ClusterUnavailableError("the API server has not answered yet")]
        lacking = [] if all(part.listed for part in self._parts.values()) else waiting
        error = next(iter([*errors, *lacking]), None)
        return Seen(jobs, pods, events, self._number, error, self._restarts)

    # --- a kind's thread ---

    def _keep(self, part: _Part) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._closed:
            began = time.monotonic()
            try:
                found = self._source.listed(part.kind, part.selector)
                items = {
                    one["metadata"]["uid"]: one for one in found.items if self._keeps(part, one)
                }
                self._set(part, items)
                self._follow_until_it_breaks(part, found.version)
            except (ClusterUnavailableError, ClusterRefusedError) as exc:
                self._away(part, exc)
            # A watch that lived for a while ended in the way of things; one that did not is not hurried.
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - began > 5 else pause * 2
            with self._changed:
                self._changed.wait_for(lambda: self._closed, min(pause, _LONGEST_PAUSE_SECONDS))

    def _follow_until_it_breaks(self, part: _Part, version: str) -> None:
        try:
            with suppress(ClusterUnavailableError):
                self._follow(part, version)
        except ExpiredError:
            if part.kind in _EXPIRES_OF_ITSELF:
                return
        with self._changed:
            if not self._closed:
                self._restarts += 1

    def _follow(self, part: _Part, version: str) -> None:
        """Watch on from ``version`` until there is a reason to list again."""
        while not self._closed:
            stream = self._source.watch(part.kind, part.selector, version)
            with self._changed:
                part.stream = stream
            before, began = version, time.monotonic()
            try:
                for line in stream.lines():
                    step = folded(part.objects, line)
                    if step is None:
                        return
                    objects, version = step
                    if objects is not part.objects:
                        self._set(part, {k: o for k, o in objects.items() if self._keeps(part, o)})
            finally:
                with self._changed:
                    part.stream = None
                stream.close()
            if version == before and time.monotonic() - began < 1:
                return

    def _keeps(self, part: _Part, found: Object) -> bool:
        if part.kind != "events":
            return True
        return self._wanted(str((found.get("involvedObject") or {}).get("name") or ""))

    def _set(self, part: _Part, objects: Objects) -> None:
        with self._changed:
            if part.listed and part.error is None and objects == part.objects:
                return
            part.objects, part.listed, part.error = objects, True, None
            self._number += 1
            self._changed.notify_all()

    def _away(self, part: _Part, error: K8sError) -> None:
        with self._changed:
            if self._closed:
                return
            part.error = error
            self._number += 1
            self._changed.notify_all()
