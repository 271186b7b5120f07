"""The one home of boto3: one attempt a call, our errors, whole bodies in bounded time.

Rules:

1. Endpoint, region, credentials, profile, CA bundle, proxies and checksum settings come from boto3's own
   chain. Ours: path-style addresses where an endpoint is set (unless the profile says otherwise), time
   limits, and one attempt a call; whoever calls tries again (``launcher.retry``).
2. Bytes go up with the SHA-256 that they were hashed to, in a signed header, so that neither they nor it
   can change on the way. The body itself is then not signed: that would hash it a second time. With
   AWS_REQUEST_CHECKSUM_CALCULATION=when_required there is no such header and the body is signed.
3. boto3 is imported by the first call, not with this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from launcher.errors import UnavailableError
from launcher.retry import retried
from launcher.storage.s3.faults import BrokenBodyError, Place, TakenError, in_our_words

__all__ = ["Answer", "Client", "Limits", "insisted", "warm"]

T = TypeVar("T")

_ATTEMPTS: Final = 5
_DEADLINE_SECONDS: Final = 90.0

#: Names that S3 itself answers to; any other endpoint is somebody's server.
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


def insisted(attempt: Callable[[], T]) -> T:
    """``retried`` as a small object is worth it: five attempts, each with the client's own time limit."""
    return retried(attempt, attempts=_ATTEMPTS, deadline_seconds=_DEADLINE_SECONDS)


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits, in seconds, and how many connections are kept.

    ``answer`` is how long a server may be silent, ``finish`` how long while it puts a big object together.
    A body must be there after ``body`` seconds and one more for each ``slowest_bytes_per_second``.
    """

    connect: float = 10.0
    answer: float = 30.0
    finish: float = 600.0
    body: float = 60.0
    slowest_bytes_per_second: int = 32 * 1024
    connections: int = 24

    def body_seconds(self, size_bytes: int) -> float:
        """The total time in which a body of this size must have come or gone."""
        return self.body + size_bytes / self.slowest_bytes_per_second


@dataclass(frozen=True, slots=True)
class Answer:
    """A body that is all there, and what came with it. ``size_bytes`` of the whole object."""

    data: bytes
    size_bytes: int


class Client:
    """S3 as one bucket sees it. Threads may share it."""

    def __init__(self, bucket: str, where: str, limits: Limits) -> None:
        self.bucket, self.where, self.limits = bucket, where, limits
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        self._patient: Any = None

    @property
    def checksums(self) -> bool:
        """Whether bytes go up with a checksum that the service keeps."""
        return self._open().checksums

    @property
    def endpoint(self) -> str:
        """Scheme, host and port; never a name or password."""
        return self._open().endpoint

    def call(self, operation: str, key: str = "", /, **more: Any) -> Any:
        """One attempt at an operation of boto3's S3 client. ``key``: the whole key, for operations with one.

        Raises our errors, those of ``faults`` included.
        """
        return self._called(self._open().usual, operation, key, more)

    def call_patiently(self, operation: str, key: str, /, **more: Any) -> Any:
        """``call``, for what takes a server long."""
        opened = self._open()
        with self._lock:
            if self._patient is None:
                self._patient = opened.make(self.limits.finish)
        return self._called(self._patient, operation, key, more)

    def _called(self, client: Any, operation: str, key: str, more: dict[str, Any]) -> Any:
        if key:
            more["Key"] = key
        try:
            with self._translated(key):
                return getattr(client, operation)(Bucket=self.bucket, **more)
        except TakenError as exc:
            if "IfNoneMatch" in more:
                raise
            raise UnavailableError(
                f"{exc.message}, to a request without a condition",
                "a proxy or server there adds one, or refuses to overwrite: look at AWS_ENDPOINT_URL",
            ) from exc

    def get(
        self, key: str, limit_bytes: int | None = None, start: int = 0, stop: int | None = None
    ) -> Answer:
        """An object's bytes, or those from ``start`` to before ``stop``, all of them, within the time limit.

        Where the object has more than ``limit_bytes``, ``data`` is empty. Raises BrokenBodyError.
        """
        which: dict[str, Any] = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        answer = self.call("get_object", key, **which)
        body, size = answer["Body"], int(answer["ContentLength"])
        if stop is not None and size != stop - start:
            self._drop(body)
            raise BrokenBodyError(f"{self._place(key)}: {size} bytes came of {stop - start}")
        if limit_bytes is not None and size > limit_bytes:
            self._drop(body)
            return Answer(b"", size)
        return Answer(self._drain(key, body, size), size)

    def _drain(self, key: str, body: Any, size: int) -> bytes:
        """Read a body to its end. A watchdog ends the connection when the time is over: a server that
        sends a byte now and then is never silent for long enough."""
        expired = threading.Event()

        def end() -> None:
            expired.set()
            self._end(body)

        watchdog = threading.Timer(self.limits.body_seconds(size), end)
        watchdog.daemon = True
        watchdog.start()
        try:
            with self._translated(key):
                data = bytes(body.read())
        except UnavailableError as exc:
            if expired.is_set():
                raise UnavailableError(f"{self._place(key)}: the answer came too slowly") from exc
            raise
        finally:
            watchdog.cancel()
            if expired.is_set():
                body.close()
        if expired.is_set():
            raise UnavailableError(f"{self._place(key)}: the answer came too slowly")
        if len(data) != size:
            raise BrokenBodyError(f"{self._place(key)}: {len(data)} bytes came of {size}")
        return data

    def _drop(self, body: Any) -> None:
        """Do without the rest of a body: its connection is not used again."""
        self._end(body)
        body.close()

    @staticmethod
    def _end(body: Any) -> None:
        """End a body's connection, from any thread; who reads it meanwhile is told that it ended."""
        # An older urllib3 has no shutdown, and a connection may have ended already.
        with suppress(AttributeError, OSError, RuntimeError, ValueError):
            body._raw_stream.shutdown()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        import http.client

        import botocore.exceptions
        import urllib3.exceptions

        try:
            yield
        except (
            botocore.exceptions.BotoCoreError,
            botocore.exceptions.ClientError,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as exc:
            raise in_our_words(exc, self._place(key)) from exc

    def _place(self, key: str) -> Place:
        url = f"s3://{self.bucket}/{key}" if key else self.where
        return Place(url, self.bucket, self._opened.endpoint if self._opened else "its endpoint")

    def _open(self) -> _Opened:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._opened = self._made()
        return self._opened

    def _made(self) -> _Opened:
        import boto3
        import botocore.exceptions
        import botocore.session
        from botocore.config import Config

        limits = self.limits
        settings: dict[str, Any] = {
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": limits.connect,
            "max_pool_connections": limits.connections,
            "tcp_keepalive": True,
        }
        try:
            core = botocore.session.get_session()
            core.register_component("data_loader", _loader())
            session = boto3.session.Session(botocore_session=core)
            # What the chain came to is asked of a client, so that it is never worked out here.
            found = session.client("s3", config=Config(**settings)).meta
            endpoint = urlsplit(found.endpoint_url)
            checksums = found.config.request_checksum_calculation != "when_required"
            s3: dict[str, Any] = {}
            theirs = not (endpoint.hostname or "").endswith(_AWS)
            if theirs and (found.config.s3 or {}).get("addressing_style", "auto") == "auto":
                s3["addressing_style"] = "path"
            if checksums:
                s3["payload_signing_enabled"] = False

            def make(seconds: float) -> Any:
                return session.client("s3", config=Config(**settings, s3=s3, read_timeout=seconds))

            usual = make(limits.answer)
        except (botocore.exceptions.BotoCoreError, ValueError) as exc:
            raise in_our_words(exc, Place(self.where, self.bucket, "its endpoint")) from exc
        port = f":{endpoint.port}" if endpoint.port else ""
        shown = f"{endpoint.scheme}://{endpoint.hostname}{port}"
        return _Opened(usual, make, shown, checksums)


@cache
def _loader() -> Any:
    """One reader of the client's own descriptions: they take longer to parse than all else together."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def warm() -> None:
    """Read now what the first call would read, so that processes forked from this one need not.

    Asks nobody: whose credentials they are, and where the endpoint is, every process finds out for itself.
    """
    import boto3
    import botocore.session
    import urllib3.exceptions  # noqa: F401

    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    core.set_credentials("none", "none")
    session = boto3.session.Session(botocore_session=core, region_name="us-east-1")
    session.client("s3", endpoint_url="http://127.0.0.1:9").close()


@dataclass(frozen=True, slots=True)
class _Opened:
    usual: Any
    make: Callable[[float], Any]
    endpoint: str
    checksums: bool
