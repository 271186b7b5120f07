"""What a pod says while it runs, followed once: its command's output as it comes, its collector's word that it is done.

A convenience: the collector's word comes before the pod's own end, and nothing else depends on either.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from k8s.containers import COLLECT, COMMAND
from k8s.errors import K8sError
from k8s.outcome import Outcome

if TYPE_CHECKING:
    from k8s.client import Client
    from k8s.watch import Mirror

__all__ = ["Listening"]


class Listening:
    """Threads that end with their pods."""

    def __init__(self) -> None:
        self._heard: set[str] = set()

    def to(self, said: Outcome, client: Client, mirror: Mirror, live_log: Path | None) -> None:
        """Listen to the pod that ``said`` found running: ``mirror`` rings at its collector's word, its output goes to
        ``live_log``."""
        if said.state not in ("running", "collecting") or said.pod is None:
            return
        if said.pod.uid in self._heard:
            return
        self._heard.add(said.pod.uid)
        pod = said.pod.name

        def listen() -> None:
            with suppress(K8sError):
                for _ in client.log(pod, COLLECT, follow=True).lines():
                    mirror.ring()

        def show(place: Path) -> None:
            with suppress(K8sError, OSError), place.open("wb") as file:
                for part in client.log(pod, COMMAND, follow=True).parts():
                    file.write(part)
                    file.flush()

        threading.Thread(target=listen, daemon=True).start()
        if live_log is not None:
            threading.Thread(target=show, args=(live_log,), daemon=True).start()
