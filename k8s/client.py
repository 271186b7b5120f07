"""What is asked of an API server: Jobs made, changed and deleted; what is there, listed and watched; logs.

Asking again is safe: a Job is created or found under its name, and changed or deleted under its uid. What was not
answered raises ClusterUnavailableError, what was refused ClusterRefusedError (``k8s.connection``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from k8s.connection import ANSWER_SECONDS, Connection, Stream, answered
from k8s.errors import ClusterUnavailableError, JobTakenError
from k8s.names import Attempt, difference

__all__ = ["Client", "Kind", "Listed", "Stream"]

Kind = Literal["jobs", "pods", "events"]
Object = dict[str, Any]

_GROUPS: Final[Mapping[Kind, str]] = {
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "events": "/api/v1",
}
#: After so long the server ends a watch by itself, and it is taken up where it ended.
_WATCH_SECONDS: Final = 1800
#: Of Jobs and pods it sends a bookmark about once a minute; one that is silent for longer is not there any more. Events
#: it watches without the cache that makes bookmarks, so their silence tells nothing.
_SILENCE_SECONDS: Final[Mapping[Kind, float]] = {
    "jobs": 90.0,
    "pods": 90.0,
    "events": _WATCH_SECONDS + 60.0,
}
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """``items`` as of ``version``, from which a watch goes on."""

    items: list[Object]
    version: str


class Client:
    """One namespace of one cluster. ``connection`` is for what is asked beside Jobs (``k8s.inquiry``)."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.connection, self.namespace = connection, namespace

    @classmethod
    def connect(
        cls, namespace: str | None = None, *, answer_seconds: float = ANSWER_SECONDS
    ) -> Client:
        """To the cluster that ``Connection.open`` finds. Asks nothing yet.

        ``namespace``: None is the context's own. ``answer_seconds``: how long the server may take to begin an answer.
        Raises ClusterRefusedError where nothing leads to a cluster.
        """
        connection = Connection.open(answer_seconds)
        return cls(connection, namespace or connection.namespace or "default")

    # --- Jobs ---

    def create_or_adopt_job(self, manifest: Mapping[str, Any], attempt: Attempt) -> Object:
        """The Job of ``attempt``, made now from ``manifest`` or found as it was made before.

        Raises JobTakenError, ClusterRefusedError (quota, policy, permissions), ClusterUnavailableError.
        """
        name = manifest["metadata"]["name"]
        status, said = self.connection.ask("POST", self._path("jobs"), body=dict(manifest))
        if status == 409 and said.get("reason") == "AlreadyExists":
            found = self.job(name)
            if found is None:
                raise ClusterUnavailableError(f"Job {name} is being deleted")
            if differs := difference(found, attempt):
                raise JobTakenError(name, differs)
            return found
        return answered(f"Job {name} cannot be created", status, said)

    def try_job(self, manifest: Mapping[str, Any]) -> None:
        """Have the server judge a Job that is not made. Raises ClusterRefusedError, ClusterUnavailableError."""
        name, query = manifest["metadata"]["name"], {"dryRun": "All"}
        status, said = self.connection.ask(
            "POST", self._path("jobs"), query=query, body=dict(manifest)
        )
        if status != 409 or said.get("reason") != "AlreadyExists":
            answered(f"Job {name} cannot be created", status, said)

    def job(self, name: str) -> Object | None:
        """The Job, or None."""
        status, said = self.connection.ask("GET", self._path("jobs", name))
        return None if status == 404 else answered(f"Job {name} cannot be read", status, said)

    def delete_job(self, name: str, uid: str) -> None:
        """Ask for the end of this very Job and, before it is gone, of its pods. One that is gone is no error."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        status, said = self.connection.ask("DELETE", self._path("jobs", name), body=body)
        if status not in (404, 409):
            answered(f"Job {name} cannot be deleted", status, said)

    def expire_job(self, name: str, uid: str, seconds: int) -> None:
        """Have this very Job deleted so long after its end, by the cluster itself. One that is gone is no error."""
        body = {"metadata": {"uid": uid}, "spec": {"ttlSecondsAfterFinished": seconds}}
        status, said = self.connection.ask("PATCH", self._path("jobs", name), body=body)
        # Another Job that has the name by now refuses to become this one.
        another = status == 409 or (status == 422 and "metadata.uid" in str(said.get("message")))
        if status != 404 and not another:
            answered(f"Job {name} cannot be given a time to live", status, said)

    def delete_pod(self, name: str, uid: str, *, at_once: bool = False) -> None:
        """Ask for the end of this very pod. ``at_once``: as if it were gone, without a word from its node."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            **({"gracePeriodSeconds": 0} if at_once else {}),
        }
        status, said = self.connection.ask("DELETE", self._path("pods", name), body=body)
        if status not in (404, 409):
            answered(f"pod {name} cannot be deleted", status, said)

    # --- what is there ---

    def listed(self, kind: Kind, selector: str = "", *, fields: str = "") -> Listed:
        """All objects of a kind with these labels and fields, newest state, however many there are."""
        items: list[Object] = []
        chosen = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(_PAGE), **{key: value for key, value in chosen.items() if value}}
        while True:
            status, said = self.connection.ask("GET", self._path(kind), query=query)
            if status == 410 and "continue" in query:
                raise ClusterUnavailableError(f"a list of {kind} took too long")
            said = answered(f"{kind} cannot be listed", status, said)
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
        what, silence = f"{kind} cannot be watched", _SILENCE_SECONDS[kind]
        return self.connection.stream(self._path(kind), query, what, silence_seconds=silence)

    def log(self, pod: str, container: str, *, follow: bool = False) -> Stream:
        """A container's log, raw; with ``follow`` until it ends. Raises ClusterRefusedError where there is none yet."""
        query = {"container": container, **({"follow": "true"} if follow else {})}
        path = f"{self._path('pods', pod)}/log"
        what = f"the log of {pod} cannot be read"
        return self.connection.stream(path, query, what, silence_seconds=None)

    def _path(self, kind: Kind, name: str = "") -> str:
        path = f"{_GROUPS[kind]}/namespaces/{self.namespace}/{kind}"
        return f"{path}/{name}" if name else path
