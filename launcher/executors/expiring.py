"""Jobs whose end is on record get a time to live, so that none vanishes unread and none stays for ever.

1. Only what was said to be recorded (``add``) is touched, and only once its Job has ended by itself.
2. Whoever drives the run waits for none of it: a thread does, and asks the API server once a Job. At the end of a
   run it is waited for a little (``close``); what has not ended by then is given its time at once, which counts from
   its end all the same.
3. A launcher that dies before leaves Jobs to the next one of the run: ``add`` again, and what has its time is left
   alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from k8s import names
from k8s.errors import ClusterUnavailableError, K8sError
from k8s.outcome import has_ended
from k8s.watch import Mirror, Seen

if TYPE_CHECKING:
    from k8s.client import Client

__all__ = ["Expiring"]

_PAUSE_SECONDS: Final = 5.0
_STEP_SECONDS: Final = 60.0

Object = dict[str, Any]


class Expiring:
    """Of one run. ``say`` is told, at the end and in one line, what kept it from being done."""

    def __init__(
        self, client: Client, mirror: Mirror, seconds: int, say: Callable[[str], None]
    ) -> None:
        self._client, self._mirror, self._seconds, self._say = client, mirror, seconds, say
        self._changed = threading.Condition()
        self._left: set[tuple[str, str]] = set()
        self._trouble: K8sError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, stage: str, attempt: int) -> None:
        """The end of this attempt is on record."""
        with self._changed:
            self._left.add((stage, str(attempt)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, daemon=True)
                self._thread.start()
        self._mirror.ring()

    def close(self, wait_seconds: float) -> None:
        """Wait so long until all of them have ended; then do what is left. Called before the mirror is closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._awaited(), wait_seconds)
            self._closed = True
            self._changed.notify_all()
        self._mirror.ring()
        if self._thread is not None:
            self._thread.join(_PAUSE_SECONDS)
        if self._trouble is None:
            self._look(self._mirror.seen(), every=True)
        if self._trouble is not None:
            self._say(f"finished Jobs stay: {self._trouble}")

    def _awaited(self) -> bool:
        """Whether a Job that is there is still to end."""
        there = {_key(job) for job in self._mirror.seen().jobs}
        return self._trouble is None and bool(self._left & there)

    def _keep(self) -> None:
        number = -1
        while not self._closed:
            seen = self._mirror.wait(number, _STEP_SECONDS)
            number = seen.number
            if not self._look(seen, every=False):
                number = -1
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, _PAUSE_SECONDS)

    def _look(self, seen: Seen, *, every: bool) -> bool:
        """Do what can be done now; ``every``: of what has not ended, too. False where it is to be tried again."""
        for job in seen.jobs:
            key = _key(job)
            with self._changed:
                wanted = key in self._left and self._trouble is None
            if not wanted or not (every or has_ended(job)):
                continue
            try:
                self._expire(job)
            except ClusterUnavailableError:
                return False
            except K8sError as exc:
                with self._changed:
                    self._trouble = exc
                    self._changed.notify_all()
                return True
            with self._changed:
                self._left.discard(key)
                self._changed.notify_all()
        return True

    def _expire(self, job: Object) -> None:
        about, spec = job["metadata"], job.get("spec") or {}
        if spec.get("ttlSecondsAfterFinished") is None and not about.get("deletionTimestamp"):
            self._client.expire_job(about["name"], about["uid"], self._seconds)


def _key(job: Object) -> tuple[str, str]:
    said = job["metadata"].get("labels") or {}
    return str(said.get(names.STAGE)), str(said.get(names.ATTEMPT))
