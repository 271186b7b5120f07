"""The chat client against a real server: what is tried again, what is not, and how long it may take."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from examples.minigrid.chat import (
    ChatEndpoint,
    EndpointRefusedError,
    EndpointUnavailableError,
    MalformedAnswerError,
)
from tests.examples.minigrid.chat_server import (
    ChatServer,
    breaks_off,
    drips,
    fails,
    hangs,
    hangs_up,
    raw,
    says,
)


def endpoint(server: ChatServer, waits: list[float] | None = None, **options: Any) -> ChatEndpoint:
    kept: list[float] = [] if waits is None else waits
    return ChatEndpoint(server.base_url, model="m", wait=kept.append, **options)


def test_speaks_the_protocol(chat_server: ChatServer) -> None:
    chat_server.script = [says("hello")]
    assert endpoint(chat_server, api_key="k-123").complete("be brief", "where?") == "hello"
    [(path, headers, body)] = chat_server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k-123"
    assert body["model"] == "m"
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "where?"},
    ]


def test_without_a_key_no_authorization_is_sent(chat_server: ChatServer) -> None:
    chat_server.script = [says("hello")]
    endpoint(chat_server).complete("s", "u")
    assert "Authorization" not in chat_server.requests[0][1]


@pytest.mark.parametrize("trouble", [fails(429), fails(500), fails(503), hangs_up, breaks_off])
def test_passing_trouble_is_tried_again(chat_server: ChatServer, trouble: Any) -> None:
    chat_server.script = [trouble, trouble, says("hello")]
    waits: list[float] = []
    assert endpoint(chat_server, waits).complete("s", "u") == "hello"
    assert waits == [0.25, 0.5]


def test_the_servers_wish_to_wait_is_kept_within_bounds(chat_server: ChatServer) -> None:
    chat_server.script = [fails(429, Retry_After="2"), fails(429, Retry_After="900"), says("x")]
    waits: list[float] = []
    endpoint(chat_server, waits).complete("s", "u")
    assert waits == [2.0, 5.0]


def test_gives_up_after_its_attempts(chat_server: ChatServer) -> None:
    chat_server.script = [fails(503)]
    with pytest.raises(EndpointUnavailableError) as caught:
        endpoint(chat_server).complete("s", "u")
    assert (caught.value.kind, caught.value.attempts) == ("status 503", 3)
    assert len(chat_server.requests) == 3


@pytest.mark.parametrize("slow", [hangs, drips])
def test_a_slow_answer_meets_the_deadline(chat_server: ChatServer, slow: Any) -> None:
    chat_server.script = [slow]
    began = time.monotonic()
    with pytest.raises(EndpointUnavailableError) as caught:
        endpoint(chat_server, timeout_seconds=0.2, attempts=1).complete("s", "u")
    assert caught.value.kind == "timeout"
    assert time.monotonic() - began < 5


def test_nobody_listening_is_a_connection_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EndpointUnavailableError) as caught:
            ChatEndpoint(url, model="m", wait=lambda seconds: None).complete("s", "u")
    assert caught.value.kind == "connection"


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_final_and_names_no_key(chat_server: ChatServer, status: int) -> None:
    chat_server.script = [fails(status)]
    with pytest.raises(EndpointRefusedError) as caught:
        endpoint(chat_server, api_key="very-secret-key").complete("s", "u")
    assert caught.value.status == status
    assert "very-secret-key" not in str(caught.value)
    assert len(chat_server.requests) == 1


def test_a_redirect_is_not_followed(chat_server: ChatServer) -> None:
    chat_server.script = [fails(307, Location=f"{chat_server.base_url}/elsewhere")]
    with pytest.raises(EndpointRefusedError):
        endpoint(chat_server, api_key="k").complete("s", "u")
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        b"[" * 100_000,
        b" " * 1_100_000,
    ],
)
def test_an_answer_of_another_form_is_malformed(chat_server: ChatServer, body: bytes) -> None:
    chat_server.script = [raw(body)]
    with pytest.raises(MalformedAnswerError):
        endpoint(chat_server).complete("s", "u")
    assert len(chat_server.requests) == 1


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "file:///etc/passwd", "http://", "ftp://h/v1"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="PLANNER_BASE_URL"):
        ChatEndpoint(url, model="m")
