"""What a pod says while it runs, followed once: its command's output as it comes, its collector's word that it is done.

A convenience: the collector's word comes before the pod's own end, and nothing else depends on either. A pod may be
silent for hours; one whose log breaks off is listened to again at the next look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.containers import COLLECT, COMMAND
from k8s.errors import ClusterUnavailableError, K8sError
from k8s.outcome import Outcome

if TYPE_CHECKING:
    from k8s.client import Client
    from k8s.watch import Mirror

__all__ = ["Listening"]


class Listening:
    """Threads that end with their pods."""

    def __init__(self) -> None:
        #: (container, uid) of what is followed, or was to its end.
        self._followed: set[tuple[str, str]] = set()
        #: How many bytes of a pod's output were written down.
        self._shown: dict[str, int] = {}

    def to(self, said: Outcome, client: Client, mirror: Mirror, live_log: Path | None) -> None:
        """Listen to the pod that ``said`` found running.

        ``mirror`` rings at its collector's word, its command's output goes to ``live_log``.
        """
        if said.state not in ("running", "collecting") or said.pod is None:
            return
        pod = said.pod

        def hear() -> None:
            for _ in client.log(pod.name, COLLECT, follow=True).lines():
                mirror.ring()

        self._follow((COLLECT, pod.uid), hear)
        if live_log is not None:
            place = live_log
            self._follow((COMMAND, pod.uid), lambda: self._show(client, pod.name, pod.uid, place))

    def _show(self, client: Client, name: str, uid: str, place: Path) -> None:
        known = self._shown.get(uid)
        with place.open("wb" if known is None else "ab") as file:
            skipped, written = known or 0, known or 0
            for part in client.log(name, COMMAND, follow=True).parts():
                fresh = part[skipped:]
                skipped -= len(part) - len(fresh)
                file.write(fresh)
                file.flush()
                written += len(fresh)
                self._shown[uid] = written

    def _follow(self, what: tuple[str, str], follow: Callable[[], None]) -> None:
        if what in self._followed:
            return
        self._followed.add(what)

        def run() -> None:
            try:
                follow()
            except ClusterUnavailableError:
                self._followed.discard(what)
            except (K8sError, OSError):
                return

        threading.Thread(target=run, daemon=True).start()
