"""A small server that plans by rules and speaks the protocol of a language model: ``POST /v1/chat/completions``.

What a model is for a loop of your own, this is for the demo: it answers the prompts of ``planner.py`` from what they
say, knows nothing of the level, needs no weights, and every planlet names it (``chat:rules``). It stands alone, in the
standard library, since an image that serves a model has none of the project's code.

    python examples/minigrid/planner_server.py --port 8000
    export PLANNER_BASE_URL=http://localhost:8000/v1 PLANNER_MODEL=rules
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

__all__ = ["PlannerServer", "main", "script"]

_MODEL: Final = "rules"
_MISSION: Final = re.compile(r"^Mission: go to (?:the|a) (\w+) (\w+)$", re.MULTILINE)
_LIMIT_BYTES: Final = 100_000


def script(situation: str) -> list[dict[str, Any]]:
    """Look for the mission's object unless it has been seen, then go to it. Raises ValueError without a mission."""
    said = _MISSION.search(situation)
    if said is None:
        raise ValueError("no mission that this understands")
    colour, kind = said.groups()
    seen = f"\n- {colour} {kind}: " in situation
    ops = ["GO_TO"] if seen else ["EXPLORE", "GO_TO"]
    return [{"op": op, "target": {"type": kind, "color": colour}} for op in ops]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(*((200, {"status": "ok"}) if self.path == "/health" else (404, {})))

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self._answer(404, {})
            return
        try:
            body = self.rfile.read(min(int(self.headers["Content-Length"]), _LIMIT_BYTES))
            content = {"script": script(json.loads(body)["messages"][-1]["content"])}
        except (ValueError, TypeError, KeyError, IndexError) as exc:
            self._answer(400, {"error": {"message": str(exc)}})
            return
        message = {"role": "assistant", "content": json.dumps(content)}
        self._answer(
            200,
            {
                "object": "chat.completion",
                "model": _MODEL,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            },
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Thousands of requests would say nothing."""

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class PlannerServer(ThreadingHTTPServer):
    """Listens at ``address``; port 0 is any that is free."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. As a container's first process it would not hear SIGTERM by itself."""
    parser = argparse.ArgumentParser(prog="planner_server", description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with PlannerServer((options.host, options.port)) as server:
        print(f"planning by rules at http://{options.host}:{server.server_port}/v1", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
