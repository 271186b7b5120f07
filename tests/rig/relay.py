"""A way to the API server of a launcher's own: it can be cut, and what goes through it can fall silent, while
everybody else goes on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.rig.k8s import Cluster

__all__ = ["Relay", "relayed"]


class Relay:
    """Listens on ``port`` of this machine for what is meant for ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._lock = threading.Lock()
        self._listener = self._listening(0)
        self.port = self._listener.getsockname()[1]

    def cut(self) -> None:
        """Every connection ends, and new ones are refused."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for near, far, _ in pairs:
            for one in (near, far):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def back(self) -> None:
        """New connections go through again."""
        self._listener = self._listening(self.port)

    def silence(self) -> None:
        """Nothing comes through the connections that there are any more, and neither end hears that; new ones work."""
        with self._lock:
            for _, _, silent in self._pairs:
                silent.set()

    def _listening(self, port: int) -> socket.socket:
        made = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(made,), daemon=True).start()
        return made

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            silent = threading.Event()
            with self._lock:
                self._pairs.append((near, far, silent))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(*ends, silent), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if not silent.is_set():
                sink.sendall(data)
        if not silent.is_set():
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(cluster: Cluster, kubeconfig: Path) -> Iterator[Relay]:
    """A relay to the cluster's API server, and a kubeconfig that leads to it."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    relay = Relay((str(server.hostname), server.port or 443))
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{relay.port}"
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        yield relay
    finally:
        relay.cut()
