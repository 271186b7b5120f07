"""A gate on this machine that commands in pods come to: it notes who came, and lets each go on when the test says so.

It needs nothing of the cluster but its network, so it works while the API server is away.
"""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.rig.k8s import OUTSIDE

__all__ = ["Gate", "gate"]

_SECONDS = 240


class Gate:
    """``passing``, ``asking`` and ``coming`` are lines of a stage's command; ``came`` the names in the order of their
    coming."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: Comes, and goes on at once.
        self.passing = f'echo "$RUN_ID $STAGE now" >/dev/tcp/{OUTSIDE}/{port}'
        #: Comes, and goes on once it has an answer, which it has at once; fails where it has none.
        self.asking = (
            f'exec 9<>/dev/tcp/{OUTSIDE}/{port} && echo "$RUN_ID $STAGE now" >&9 && read -r _ <&9'
        )
        #: Comes, and waits.
        self.coming = (
            f'exec 9<>/dev/tcp/{OUTSIDE}/{port}; echo "$RUN_ID $STAGE wait" >&9; read -r _ <&9'
        )
        self.came: list[str] = []
        self._open: dict[str, threading.Event] = {}
        self._closed = False
        self._changed = threading.Condition()

    def here(self, name: str, times: int = 1) -> None:
        """Wait until ``RUN STAGE`` came for the so-manieth time."""
        deadline = time.monotonic() + _SECONDS
        with self._changed:
            while self.came.count(name) < times:
                left = deadline - time.monotonic()
                assert left > 0, f"{name} did not come; there came {self.came}"
                self._changed.wait(left)

    def go(self, *names: str) -> None:
        """Let them go on, now and whenever they come."""
        for name in names:
            self._of(name).set()

    def answer(self, line: str) -> None:
        """Somebody came; returns when it may go on."""
        name, _, how = line.strip().rpartition(" ")
        with self._changed:
            self.came.append(name)
            self._changed.notify_all()
        if how == "wait":
            self._of(name).wait()

    def _of(self, name: str) -> threading.Event:
        with self._changed:
            found = self._open.setdefault(name, threading.Event())
        if self._closed:
            found.set()
        return found

    def close(self) -> None:
        """Let everybody go, whoever comes later too."""
        self._closed = True
        self.go(*self._open)


@contextmanager
def gate() -> Iterator[Gate]:
    """One, on an address that pods reach."""

    class Visit(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            made.answer(self.rfile.readline().decode())
            try:
                self.wfile.write(b"go\n")
            except OSError:
                return  # whoever came is gone

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server((OUTSIDE, 0), Visit) as server:
        made = Gate(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield made
        finally:
            made.close()
            server.shutdown()
