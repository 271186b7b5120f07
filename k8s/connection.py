"""The way to an API server: the one home of the ``kubernetes`` package.

1. Objects are dicts in the API's own camelCase, as they came: no model of the package stands between.
2. Each call is one attempt. What was not answered raises ClusterUnavailableError.
3. The package's own repetitions are off: a DELETE that it repeats finds its own 404.
4. Credentials that are not taken are read again and tried once more: a token expires, and a kubeconfig or a service
   account's file has the next one. A server that refuses what it granted before, as one does that is just starting,
   is away.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from k8s.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    CredentialsError,
    ExpiredError,
)

__all__ = ["ANSWER_SECONDS", "Connection", "Stream", "answered"]

Object = dict[str, Any]

#: How long an API server may take to begin an answer.
ANSWER_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Asked for too much, or of a server that is about to end or to start.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Whom an authorizer refuses it names; quota and policy name what is wrong.
_UNAUTHORIZED: Final = b"forbidden: User "
_REFUSED_NOW: Final = "the API server refuses the credentials that it took before"


class Stream:
    """Lines as they come, until the server ends it. ``close`` from any thread ends it at once."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Whole lines; what is left without an end when the stream ends is dropped. Raises ClusterUnavailableError."""
        rest = b""
        for part in self.parts():
            *whole, rest = (rest + part).split(b"\n")
            yield from whole

    def parts(self) -> Iterator[bytes]:
        """Raw bytes as they come. Raises ClusterUnavailableError."""
        with _passing("the API server"):
            yield from self._response.stream(64 * 1024, decode_content=True)

    def close(self) -> None:
        """End it; whoever reads lines gets no more of them."""
        connection = getattr(self._response, "_connection", None)
        sock = getattr(connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(2)
        self._response.close()


class Connection:
    """One API server. ``namespace``: what its credentials name as their own; None: nothing.

    It may be used from several threads.
    """

    def __init__(self, api: Any, namespace: str | None, answer_seconds: float) -> None:
        self._api, self.namespace, self._answer_seconds = api, namespace, answer_seconds
        self._renewing = threading.Lock()
        #: What was done before: method and path.
        self._granted: set[tuple[str, str]] = set()

    @classmethod
    def open(cls, answer_seconds: float = ANSWER_SECONDS) -> Connection:
        """As KUBECONFIG says, or ~/.kube/config, or, in a pod, its service account. Asks nothing yet.

        Raises ClusterRefusedError where nothing leads to a cluster.
        """
        api, own = _connected()
        return cls(api, own, answer_seconds)

    @property
    def address(self) -> str:
        """Where the API server is."""
        return str(self._api.configuration.host)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> tuple[int, Object]:
        """(HTTP status, answer). Raises ClusterUnavailableError."""
        response = self._call(method, path, query, body, self._answer_seconds)
        with _passing("the API server"):
            data = response.data
        try:
            said = json.loads(data)
        except ValueError as exc:
            if 200 <= response.status < 300:
                raise ClusterUnavailableError("the API server's answer was cut off") from exc
            said = {"message": data[:500].decode("utf-8", "replace")}
        return response.status, said if isinstance(said, dict) else {}

    def stream(
        self, path: str, query: Mapping[str, str], what: str, *, silence_seconds: float | None
    ) -> Stream:
        """The answer as it comes; it ends where nothing came for ``silence_seconds``; None: with the other end.

        ``what`` it is that cannot be had begins each error's message.

        Raises ExpiredError, ClusterRefusedError, ClusterUnavailableError.
        """
        response = self._call("GET", path, query, None, silence_seconds)
        if response.status == 410:
            response.close()
            raise ExpiredError(what)
        if response.status != 200:
            with _passing("the API server"):
                text = response.data[:2000].decode("utf-8", "replace")
            try:
                said = json.loads(text)
            except ValueError:
                said = {"message": text}
            answered(what, response.status, said)
        return Stream(response)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        seconds: float | None,
    ) -> Any:
        """The response, its body unread; credentials that are not taken any more are renewed."""
        api = self._api
        response = self._called(api, method, path, query, body, seconds)
        if response.status == 401:
            response.close()
            response = self._called(self._renewed(api), method, path, query, body, seconds)
        if 200 <= response.status < 300:
            self._granted.add((method, path))
        elif response.status == 401 and self._granted:
            response.close()
            raise CredentialsError(_REFUSED_NOW)
        elif response.status == 403 and (method, path) in self._granted:
            with _passing("the API server"):
                if _UNAUTHORIZED in response.data:
                    raise CredentialsError(_REFUSED_NOW)
        return response

    def _renewed(self, old: Any) -> Any:
        """The package's client with what the credentials are by now; ``old`` is the one that was refused."""
        with self._renewing:
            if self._api is old:
                try:
                    self._api, _ = _connected()
                except ClusterRefusedError as exc:
                    # A file that is being written, or is gone for a moment.
                    raise CredentialsError(str(exc)) from exc
            return self._api

    def _called(
        self,
        api: Any,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        seconds: float | None,
    ) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            merge = method == "PATCH"
            headers["Content-Type"] = f"application/{'merge-patch+' if merge else ''}json"
        with _passing("the API server"):
            asked = api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            timeout = (min(_CONNECT_SECONDS, self._answer_seconds), seconds)
            answer = api.call_api(*asked, _request_timeout=timeout)
        return answer.response


def _connected() -> tuple[Any, str | None]:
    """The package's client as the credentials are now, and the context's namespace. Raises ClusterRefusedError."""
    # Here: it takes a tenth of a second beside what a run loads anyhow, and most commands do without.
    import urllib3
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        own = _load(config, settings)
    except Exception as exc:  # a file that is being written fails in any way
        said = " ".join(str(exc).split())
        raise ClusterRefusedError(f"no cluster: {said}; KUBECONFIG names none either") from exc
    settings.retries = urllib3.Retry(0, redirect=0)
    settings.keep_alive = True
    settings.connection_pool_maxsize = 16
    return client.ApiClient(settings), own


def _load(config: Any, settings: Any) -> str | None:
    """Fill in ``settings``; returns the context's namespace."""
    # Asked for here: the package looks at the environment only once, when it is imported.
    file = os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        _, active = config.list_kube_config_contexts(file)
    except config.ConfigException:
        if not _OWN_NAMESPACE.exists():
            raise
        config.load_incluster_config(client_configuration=settings)
        return _OWN_NAMESPACE.read_text().strip()
    config.load_kube_config(file, client_configuration=settings)
    return (active.get("context") or {}).get("namespace")


def answered(what: str, status: int, said: Object) -> Object:
    """``said``, where it is an answer. Raises ClusterUnavailableError, ClusterRefusedError."""
    if 200 <= status < 300:
        return said
    message = f"{what}: {said.get('message') or f'HTTP {status}'}"
    if status in _PASSING or (status == 409 and said.get("reason") != "AlreadyExists"):
        raise ClusterUnavailableError(message)
    raise ClusterRefusedError(message, status)


@contextmanager
def _passing(who: str) -> Iterator[None]:
    """What the client raises, as ours. Its words name no address or credential twice."""
    import urllib3
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config import ConfigException

    try:
        yield
    except urllib3.exceptions.HTTPError as exc:
        reason = getattr(exc, "reason", None) or exc
        raise ClusterUnavailableError(f"{who} does not answer: {_short(reason)}") from exc
    except ApiException as exc:
        if exc.status:
            raise ClusterRefusedError(f"{who}: {_short(exc.reason)}", exc.status) from exc
        raise ClusterUnavailableError(f"{who} does not answer: {_short(exc.reason)}") from exc
    except (OSError, ValueError, AttributeError, ConfigException) as exc:
        # A stream that another thread closed fails in any of these ways; a token's file may be unreadable.
        raise ClusterUnavailableError(f"{who} does not answer: {_short(exc)}") from exc


def _short(reason: object) -> str:
    text = " ".join(str(reason).split())
    return text.rpartition(">: ")[2][:300] or type(reason).__name__
