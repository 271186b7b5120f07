"""One call to an OpenAI-compatible chat endpoint: ``POST {base}/chat/completions``.

Rules: every read has a time-out and every answer a deadline; 429, 5xx, lost connections and time-outs are
tried again a bounded number of times; redirects are not followed (the key would travel along); an answer is read up
to a limit; the key appears in no message.
Format: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = [
    "ChatEndpoint",
    "EndpointRefusedError",
    "EndpointUnavailableError",
    "MalformedAnswerError",
]

_MAX_ANSWER_BYTES: Final = 1_000_000
_MAX_WAIT_SECONDS: Final = 5.0
_TOO_MANY_REQUESTS: Final = 429


class EndpointUnavailableError(Exception):
    """No answer after every attempt. ``kind`` is short: ``timeout``, ``connection``, ``status 503``."""

    def __init__(self, kind: str, attempts: int) -> None:
        super().__init__(f"no answer after {attempts} attempts: {kind}")
        self.kind = kind
        self.attempts = attempts


class EndpointRefusedError(Exception):
    """The endpoint answered that it will not do this (401, 404, …); asking again is no use."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the planner's endpoint answered {status} {reason}")
        self.status = status
        self.reason = reason


class MalformedAnswerError(Exception):
    """An answer that holds no usable script; ``what`` says in which way."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class _TryAgainError(Exception):
    def __init__(self, kind: str, wait_seconds: float | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.wait_seconds = wait_seconds


class ChatEndpoint:
    """A chat endpoint. ``wait`` is how it waits between attempts, in seconds."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | None = None,
        timeout_seconds: float = 30.0,
        attempts: int = 3,
        first_wait_seconds: float = 0.25,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises ValueError for a URL that is not http(s)://host[:port]/path."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("PLANNER_BASE_URL must look like http://host:port/v1")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.model = model
        self.timeout_seconds = timeout_seconds
        self.attempts = attempts
        self._first_wait_seconds = first_wait_seconds
        self._wait = wait

    def complete(self, system: str, user: str) -> str:
        """The content of the first choice.

        Raises EndpointUnavailableError, EndpointRefusedError, MalformedAnswerError.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = json.dumps({"model": self.model, "messages": messages, "temperature": 0}).encode()
        for attempt in range(1, self.attempts + 1):
            try:
                return _content(self._post(body))
            except _TryAgainError as exc:
                if attempt == self.attempts:
                    raise EndpointUnavailableError(exc.kind, attempt) from exc
                pause = self._first_wait_seconds * 2 ** (attempt - 1)
                self._wait(min(_MAX_WAIT_SECONDS, exc.wait_seconds or pause))
        raise ValueError("attempts must be at least 1")

    def _post(self, body: bytes) -> bytes:
        deadline = time.monotonic() + self.timeout_seconds
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout_seconds)
        try:
            connection.request("POST", self._path, body, self._headers)
            # Closed here: one whose server ends the connection is no longer the connection's to close.
            with connection.getresponse() as response:
                _check_status(response)
                return _read(response, connection, deadline)
        except TimeoutError as exc:
            raise _TryAgainError("timeout") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise _TryAgainError("connection") from exc
        finally:
            connection.close()


def _check_status(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status == _TOO_MANY_REQUESTS or status >= 500:
        raise _TryAgainError(f"status {status}", _retry_after(response))
    if status != 200:
        raise EndpointRefusedError(status, response.reason)


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """The server's wish in seconds; the form with a date is not worth reading for waits this short."""
    value = response.getheader("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _read(
    response: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: float
) -> bytes:
    """The body. A server that drips bytes meets the deadline, not just each read's time-out."""
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(65536):
        chunks.append(chunk)
        size += len(chunk)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if size > _MAX_ANSWER_BYTES:
            raise MalformedAnswerError("longer than 1 MB")
        if connection.sock is not None:
            connection.sock.settimeout(left)
    if response.length:
        raise _TryAgainError("connection")
    return b"".join(chunks)


def _content(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        content = answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as exc:
        raise MalformedAnswerError("not a chat completion") from exc
    if not isinstance(content, str):
        raise MalformedAnswerError("no text in the completion")
    return content
