"""The API server, asked: the one home of the ``kubernetes`` package.

1. Objects are dicts in the API's own camelCase, as they came: no model of the client stands between.
2. Each call is one attempt. What was not answered raises ClusterUnavailableError, and asking again is safe: a Job is
   created or found under its name, and changed or deleted under its uid.
3. The client's own repetitions are off: a DELETE that it repeats finds its own 404.
4. Credentials that are not taken are read again and tried once more: a token expires, and a kubeconfig or a service
   account's file has the next one. A server that refuses what it granted before, as one does that is just starting,
   is away.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from k8s.errors import (
    ClusterRefusedError,
    ClusterUnavailableError,
    CredentialsError,
    ExpiredError,
    JobTakenError,
)
from k8s.names import Attempt, difference

__all__ = ["Client", "Kind", "Listed", "Stream"]

Kind = Literal["jobs", "pods", "events"]
Object = dict[str, Any]

_GROUPS: Final[Mapping[Kind, str]] = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
}
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
#: A server sends a bookmark about once a minute; one that is silent for longer is not there any more.
_SILENCE_SECONDS: Final = 90.0
#: After so long the server ends a watch by itself, and it is taken up where it ended.
_WATCH_SECONDS: Final = 1800
_PAGE: Final = 500
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Asked for too much, or of a server that is about to end or to start.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Whom an authorizer refuses it names; quota and policy name what is wrong.
_UNAUTHORIZED: Final = b"forbidden: User "
_REFUSED_NOW: Final = "the API server refuses the credentials that it took before"


@dataclass(frozen=True, slots=True)
class Listed:
    """``items`` as of ``version``, from which a watch goes on."""

    items: list[Object]
    version: str


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


class Client:
    """One namespace of one cluster. ``answer_seconds``: how long it may take to begin an answer."""

    def __init__(self, api: Any, namespace: str, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._api, self.namespace, self._answer_seconds = api, namespace, answer_seconds
        self._renewing = threading.Lock()
        #: What was done before: method and path.
        self._granted: set[tuple[str, str]] = set()

    @classmethod
    def connect(
        cls, namespace: str | None = None, *, answer_seconds: float = _ANSWER_SECONDS
    ) -> Client:
        """As KUBECONFIG says, or ~/.kube/config, or, in a pod, its service account. Asks nothing yet.

        ``namespace``: None is the context's own. Raises ClusterRefusedError where nothing leads to a cluster.
        """
        api, own = _connected()
        return cls(api, namespace or own or "default", answer_seconds)

    # --- Jobs ---

    def create_or_adopt_job(self, manifest: Mapping[str, Any], attempt: Attempt) -> Object:
        """The Job of ``attempt``, made now from ``manifest`` or found as it was made before.

        Raises JobTakenError, ClusterRefusedError (quota, policy, permissions), ClusterUnavailableError.
        """
        name = manifest["metadata"]["name"]
        status, said = self._ask("POST", self._path("jobs"), body=dict(manifest))
        if status == 409 and said.get("reason") == "AlreadyExists":
            found = self.job(name)
            if found is None:
                raise ClusterUnavailableError(f"Job {name} is being deleted")
            if differs := difference(found, attempt):
                raise JobTakenError(name, differs)
            return found
        return _answered(f"Job {name} cannot be created", status, said)

    def try_job(self, manifest: Mapping[str, Any]) -> None:
        """Have the server judge a Job that is not made. Raises ClusterRefusedError, ClusterUnavailableError."""
        name, query = manifest["metadata"]["name"], {"dryRun": "All"}
        status, said = self._ask("POST", self._path("jobs"), query=query, body=dict(manifest))
        if status != 409 or said.get("reason") != "AlreadyExists":
            _answered(f"Job {name} cannot be created", status, said)

    def job(self, name: str) -> Object | None:
        """The Job, or None."""
        status, said = self._ask("GET", self._path("jobs", name))
        return None if status == 404 else _answered(f"Job {name} cannot be read", status, said)

    def delete_job(self, name: str, uid: str) -> None:
        """Ask for the end of this very Job and, before it is gone, of its pods. One that is gone is no error."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        status, said = self._ask("DELETE", self._path("jobs", name), body=body)
        if status not in (404, 409):
            _answered(f"Job {name} cannot be deleted", status, said)

    def expire_job(self, name: str, uid: str, seconds: int) -> None:
        """Have this very Job deleted so long after its end, by the cluster itself. One that is gone is no error."""
        body = {"metadata": {"uid": uid}, "spec": {"ttlSecondsAfterFinished": seconds}}
        status, said = self._ask("PATCH", self._path("jobs", name), body=body)
        # Another Job that has the name by now refuses to become this one.
        another = status == 409 or (status == 422 and "metadata.uid" in str(said.get("message")))
        if status != 404 and not another:
            _answered(f"Job {name} cannot be given a time to live", status, said)

    def delete_pod(self, name: str, uid: str, *, at_once: bool = False) -> None:
        """Ask for the end of this very pod. ``at_once``: as if it were gone, without a word from its node."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            **({"gracePeriodSeconds": 0} if at_once else {}),
        }
        status, said = self._ask("DELETE", self._path("pods", name), body=body)
        if status not in (404, 409):
            _answered(f"pod {name} cannot be deleted", status, said)

    # --- what is there ---

    def listed(self, kind: Kind, selector: str = "", *, fields: str = "") -> Listed:
        """All objects of a kind with these labels and fields, newest state, however many there are."""
        items: list[Object] = []
        chosen = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(_PAGE), **{key: value for key, value in chosen.items() if value}}
        while True:
            status, said = self._ask("GET", self._path(kind), query=query)
            if status == 410 and "continue" in query:
                raise ClusterUnavailableError(f"a list of {kind} took too long")
            said = _answered(f"{kind} cannot be listed", status, said)
            items += said.get("items") or []
            about = said.get("metadata") or {}
            if not about.get("continue"):
                return Listed(items, str(about.get("resourceVersion") or ""))
            query = {**query, "continue": about["continue"]}

    def watch(self, kind: Kind, selector: str, version: str) -> Stream:
        """What changes after ``version``, one JSON object a line. Raises ExpiredError, ClusterUnavailableError."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            **({"labelSelector": selector} if selector else {}),
        }
        return self._stream(self._path(kind), query, f"{kind} cannot be watched")

    def log(self, pod: str, container: str, *, follow: bool = False) -> Stream:
        """A container's log, raw; with ``follow`` until it ends. Raises ClusterRefusedError where there is none yet."""
        query = {"container": container, **({"follow": "true"} if follow else {})}
        path = f"{self._path('pods', pod)}/log"
        return self._stream(path, query, f"the log of {pod} cannot be read")

    # --- calls ---

    @property
    def address(self) -> str:
        """Where the API server is."""
        return str(self._api.configuration.host)

    def asked(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> tuple[int, Object]:
        """(HTTP status, answer) of any one request, for ``k8s.inquiry``. Raises ClusterUnavailableError."""
        return self._ask(method, path, query=query, body=body)

    def _path(self, kind: Kind, name: str = "") -> str:
        path = f"{_GROUPS[kind]}/namespaces/{self.namespace}/{kind}"
        return f"{path}/{name}" if name else path

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
    ) -> tuple[int, Object]:
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

    def _stream(self, path: str, query: Mapping[str, str], what: str) -> Stream:
        response = self._call("GET", path, query, None, _SILENCE_SECONDS)
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
            _answered(what, response.status, said)
        return Stream(response)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        seconds: float,
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
        seconds: float,
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
    try:
        _, active = config.list_kube_config_contexts()
    except config.ConfigException:
        if not _OWN_NAMESPACE.exists():
            raise
        config.load_incluster_config(client_configuration=settings)
        return _OWN_NAMESPACE.read_text().strip()
    config.load_kube_config(client_configuration=settings)
    return (active.get("context") or {}).get("namespace")


def _answered(what: str, status: int, said: Object) -> Object:
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
