"""A proxy between an S3 client and a server that does to chosen requests what networks and servers do.

Rules are tried in order for each request; the first that matches and has times left acts, else the request is
passed on. All requests are noted (``requests``), with what was answered.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.rig.s3 import ACCESS_KEY, SECRET_KEY, S3Server

__all__ = [
    "FaultProxy",
    "Request",
    "answer",
    "drop",
    "flip",
    "flip_request",
    "held",
    "late",
    "proxied",
    "silent",
    "trickle",
    "truncate",
    "without_conditions",
]

_CONDITIONS = ("if-match", "if-none-match")


@dataclass
class Request:
    """``key`` without the bucket; ``status`` is what the server answered, None if it was never asked."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    key: str
    query: dict[str, str]
    status: int | None = None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class Response:
    """A server's whole answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Act = Callable[["Handler", Request], None]


@dataclass
class Rule:
    matches: Callable[[Request], bool]
    act: Act
    left: int


@dataclass
class FaultProxy:
    """``endpoint`` leads to ``server``."""

    server: S3Server
    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    rules: list[Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _late: list[threading.Thread] = field(default_factory=list)

    def rule(
        self,
        act: Act,
        *,
        method: str = "",
        key: str = "",
        query: str = "",
        times: int = 1,
        when: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        """Let ``act`` happen to the next ``times`` requests of this method, whose key contains ``key`` and
        whose query has ``query``."""

        def matches(request: Request) -> bool:
            return (
                request.method == (method or request.method)
                and key in request.key
                and (not query or query in request.query)
                and when(request)
            )

        self.rules.append(Rule(matches, act, times))

    def count(self, method: str, key: str = "") -> int:
        """How many requests of this method there were for keys that contain ``key``."""
        return sum(r.method == method and key in r.key for r in self.requests)

    def release(self) -> None:
        """Let what was held back land, and return when it has."""
        self.released.set()
        for thread in self._late:
            thread.join(30)

    def chosen(self, request: Request) -> Act:
        with self._lock:
            self.requests.append(request)
            for rule in self.rules:
                if rule.left and rule.matches(request):
                    rule.left -= 1
                    return rule.act
        return _pass

    def forward(self, request: Request) -> Response:
        """Ask the server."""
        place = urlsplit(self.server.endpoint)
        upstream = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        try:
            upstream.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(request.body or None)
            got = upstream.getresponse()
            request.status = got.status
            return Response(got.status, got.getheaders(), got.read())
        finally:
            upstream.close()

    def later(self, request: Request) -> None:
        """Ask the server once ``release`` is called."""

        def land() -> None:
            self.released.wait(60)
            # A server may refuse before it has read all: that, too, is how a late request ends.
            with suppress(OSError, http.client.HTTPException):
                self.forward(request)

        thread = threading.Thread(target=land)
        thread.start()
        self._late.append(thread)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        # A client that gave up on a connection is what the tests are about.
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        place = urlsplit(self.path)
        key = unquote(place.path).lstrip("/").partition("/")[2]
        query = dict(parse_qsl(place.query, keep_blank_values=True))
        headers = list(self.headers.items())
        request = Request(self.command, self.path, headers, body, key, query)
        self.proxy.chosen(request)(self, request)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do  # noqa: N815

    def send(self, response: Response, body: bytes | None = None) -> None:
        """Answer; ``body``: other bytes than those that the headers speak of."""
        self.send_response_only(response.status)
        for name, value in response.headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        given = {k.lower(): v for k, v in response.headers}
        length = given.get("content-length", str(len(response.body)))
        if response.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body if body is None else body)
        self.wfile.flush()

    def cut(self) -> None:
        """End the connection without another byte."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class _Listener(ThreadingHTTPServer):
    """Many connect at once: with the default queue of five some would wait a second to be heard."""

    request_queue_size = 128
    daemon_threads = True


def _pass(handler: Handler, request: Request) -> None:
    handler.send(handler.proxy.forward(request))


def drop(*, after: bool) -> Act:
    """The connection drops, before the request was passed on or ``after`` it was applied."""

    def act(handler: Handler, request: Request) -> None:
        if after:
            handler.proxy.forward(request)
        handler.cut()

    return act


def answer(status: int, code: str, message: str = "", *, applied: bool = False) -> Act:
    """The server says no; ``applied``: although it did it."""

    def act(handler: Handler, request: Request) -> None:
        if applied:
            handler.proxy.forward(request)
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        body = b"" if request.method == "HEAD" else xml.encode()
        handler.send(Response(status, [("Content-Type", "application/xml")], body))

    return act


def late(handler: Handler, request: Request) -> None:
    """No answer comes, and the request lands when ``release`` is called."""
    handler.proxy.later(request)
    handler.cut()


def silent(handler: Handler, request: Request) -> None:
    """``late``, on a connection that stays open without a word."""
    handler.proxy.later(request)
    handler.proxy.released.wait(60)
    handler.cut()


def truncate(to_bytes: int) -> Act:
    """A body ends early, with the connection."""

    def act(handler: Handler, request: Request) -> None:
        response = handler.proxy.forward(request)
        handler.send(response, response.body[:to_bytes])
        handler.cut()

    return act


def flip(handler: Handler, request: Request) -> None:
    """One bit of the answer's body is another."""
    response = handler.proxy.forward(request)
    handler.send(response, _flipped(response.body))


def flip_request(handler: Handler, request: Request) -> None:
    """One bit of what is sent is another."""
    request.body = _flipped(request.body)
    _pass(handler, request)


def trickle(handler: Handler, request: Request) -> None:
    """A body comes a byte at a time, never silent for long, and never ends in time."""
    response = handler.proxy.forward(request)
    handler.send(response, b"")
    for byte in response.body:
        if handler.proxy.released.wait(0.05):
            break
        handler.wfile.write(bytes([byte]))
    handler.cut()


def without_conditions(handler: Handler, request: Request) -> None:
    """The server never hears of If-Match and If-None-Match: it signs on, and overwrites."""
    unwanted = (*_CONDITIONS, "authorization", "x-amz-date", "x-amz-content-sha256", "expect")
    kept = [(name, value) for name, value in request.headers if name.lower() not in unwanted]
    url = f"http://{request.header('host')}{request.target}"
    again = AWSRequest(request.method, url, dict(kept), request.body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(again)
    request.headers = list(again.headers.items())
    _pass(handler, request)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def held(event: threading.Event) -> Act:
    """It is passed on when ``event`` comes, or ten minutes later."""

    def act(handler: Handler, request: Request) -> None:
        event.wait(600)
        _pass(handler, request)

    return act


@contextmanager
def proxied(server: S3Server, address: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """A proxy in front of ``server``, until the end of the block; it listens at ``address``."""
    proxy = FaultProxy(server)
    handler = type("BoundHandler", (Handler,), {"proxy": proxy})
    listener = _Listener((address, 0), handler)
    proxy.endpoint = f"http://{address}:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.release()
        listener.shutdown()
        thread.join()
        listener.server_close()
