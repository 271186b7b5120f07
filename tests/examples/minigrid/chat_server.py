"""A chat endpoint on loopback: real HTTP, answering as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request: kept, then answered by the next reply of the server's script (the last one repeats)."""

    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self.close_connection = True
        reply = self.server.keep(self.path, dict(self.headers), body)
        reply(self)

    def log_message(self, format: str, *args: Any) -> None:
        """The test's output is no access log."""

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class ChatServer(ThreadingHTTPServer):
    """Real HTTP on a free port. ``requests`` holds (path, headers, body) in order of arrival."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Reply] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def keep(self, path: str, headers: dict[str, str], body: Any) -> Reply:
        with self._lock:
            self.requests.append((path, headers, body))
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some of the tests are about."""


def says(content: Any) -> Reply:
    """A chat completion with this content."""
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
    return lambda handler: handler.send(200, json.dumps(answer).encode())


def fails(status: int, **headers: str) -> Reply:
    return lambda handler: handler.send(status, b"{}", **headers)


def raw(body: bytes) -> Reply:
    return lambda handler: handler.send(200, body)


def hangs(handler: Handler) -> None:
    """No answer until the test is over."""
    handler.server.closing.wait(30)


def hangs_up(handler: Handler) -> None:
    """The connection is closed without a word."""


def breaks_off(handler: Handler) -> None:
    """Half of what was announced."""
    handler.send(200, b'{"choices": [', Content_Length="1000")


def drips(handler: Handler) -> None:
    """An answer that comes byte by byte and never ends."""
    handler.send(200, b"", Content_Length="100000")
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()
