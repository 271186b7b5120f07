"""A chat endpoint on loopback, and one world for the tests that need levels."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from examples.minigrid.world import World
from tests.examples.minigrid.chat_server import ChatServer


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.env.close()
