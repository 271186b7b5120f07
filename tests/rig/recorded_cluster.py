"""An API server that has one recorded moment of a real one (tests/k8s/recorded), and answers lists with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

__all__ = ["kubeconfig", "recorded", "serving"]

_RECORDED = Path(__file__).parents[1] / "k8s" / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """``job``, ``pods`` and ``events`` as a cluster said them."""
    found: dict[str, Any] = yaml.load((_RECORDED / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    return found


def kubeconfig(file: Path, url: str) -> Path:
    """A file that leads to ``url``, without credentials."""
    about = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **about}))
    return file


@contextmanager
def serving(
    said: dict[str, Any], *, delay_seconds: float = 0.0, silent_until: int = 0
) -> Iterator[tuple[str, list[str]]]:
    """(its URL, the paths that were asked for).

    Each answer comes after the delay, and none before so many questions have come.
    """
    asked: list[str] = []
    over, enough = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked.append(self.path)
            if len(asked) >= silent_until:
                enough.set()
            enough.wait()
            over.wait(delay_seconds)
            kind, query = url.path.rsplit("/", 1)[-1], parse_qs(url.query)
            items = {
                "jobs": [said["job"]] if said["job"] else [],
                "pods": said["pods"],
                "events": said["events"],
            }[kind]
            for one in query.get("fieldSelector", ()):
                uid = one.removeprefix("involvedObject.uid=")
                items = [e for e in items if e["involvedObject"]["uid"] == uid]
            data = json.dumps({"items": items, "metadata": {"resourceVersion": "1"}}).encode()
            # Who asked may have given up.
            with suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        over.set()
        enough.set()
        server.shutdown()
        thread.join()
        server.server_close()
