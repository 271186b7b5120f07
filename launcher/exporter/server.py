"""The exporter's three pages: /metrics, /healthz, /readyz."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from launcher import __version__
from launcher.errors import LauncherError, UnavailableError
from launcher.exporter.audits import Audits
from launcher.exporter.families import PREFIX, audit_families, families
from launcher.exporter.tally import Tally
from launcher.workspace import translated
from ledger.stores.port import EventStore

__all__ = ["LedgerCollector", "serve"]

Answer = Callable[[str, list[tuple[str, str]]], object]


class LedgerCollector(Collector):
    """What a ledger says now: each look reads the events after those that it has.

    Where the ledger cannot be read it says ``ledger_up`` 0 and what it knew, so that no counter falls.
    """

    def __init__(self, ledger: EventStore, audits: Audits | None = None) -> None:
        self._ledger, self._tally, self._audits = ledger, Tally(), audits
        self.error: LauncherError | None = None

    def look(self) -> None:
        """Read what is new; ``error`` says whether that could be done."""
        try:
            with translated():
                for event in self._ledger.read_all(self._tally.position):
                    self._tally.add(event)
        except LauncherError as exc:
            self.error = exc
        else:
            self.error = None

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        self.look()
        yield GaugeMetricFamily(
            f"{PREFIX}up", "1 where the ledger can be read.", float(self.error is None)
        )
        info = GaugeMetricFamily(f"{PREFIX}build_info", "Always 1.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield from families(self._tally)
        yield from audit_families(self._audits)


class _Server6(WSGIServer):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    """A line a scrape tells nobody anything; one at a time is served, so none may stand there in silence."""

    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:
        return


def serve(ledger: EventStore, host: str, port: int, audits: Audits | None = None) -> WSGIServer:
    """A server that listens; ``serve_forever`` answers. Raises UnavailableError: the port is not to be had."""
    registry, collector = CollectorRegistry(), LedgerCollector(ledger, audits)
    registry.register(collector)
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return metrics(environ, answer)  # type: ignore[no-any-return]
        if path == "/healthz":
            return _text(answer, "200 OK", "ok")
        if path == "/readyz":
            collector.look()
            if collector.error is None:
                return _text(answer, "200 OK", "ok")
            return _text(answer, "503 Service Unavailable", str(collector.error))
        return _text(answer, "404 Not Found", "/metrics /healthz /readyz")

    kind = _Server6 if ":" in host else WSGIServer
    try:
        return make_server(host, port, app, server_class=kind, handler_class=_Quiet)
    except OSError as exc:
        raise UnavailableError(f"cannot listen on {host} port {port}: {exc.strerror}") from exc


def _text(answer: Answer, status: str, text: str) -> Iterable[bytes]:
    answer(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
