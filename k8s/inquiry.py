"""What doctor asks a cluster: who we are, what we may, what is there, what would be taken. It changes nothing.

1. What may not be looked at raises ClusterRefusedError with status 403; what is not there is None.
2. Of a Secret only the names of its keys are kept: values go no further than ``secret_keys``.
3. ``refused`` asks the API server to admit an object as it would admit it, and to forget it (``dryRun=All``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from k8s.client import Client
from k8s.errors import ClusterRefusedError, ClusterUnavailableError
from k8s.permissions import Permission

__all__ = ["Inquiry"]

Object = dict[str, Any]

#: Where each kind is, and whether it is of a namespace.
_PLACES: Final[Mapping[str, tuple[str, bool]]] = {
    "configmaps": ("/api/v1", True),
    "jobs": ("/apis/batch/v1", True),
    "limitranges": ("/api/v1", True),
    "nodes": ("/api/v1", False),
    "persistentvolumeclaims": ("/api/v1", True),
    "pods": ("/api/v1", True),
    "priorityclasses": ("/apis/scheduling.k8s.io/v1", False),
    "resourcequotas": ("/api/v1", True),
    "runtimeclasses": ("/apis/node.k8s.io/v1", False),
    "secrets": ("/api/v1", True),
    "serviceaccounts": ("/api/v1", True),
    "storageclasses": ("/apis/storage.k8s.io/v1", False),
}
_KUEUE: Final = "kueue.x-k8s.io"
_PAGE: Final = "500"


class Inquiry:
    """Questions to the cluster of ``client``, in its namespace. Each raises ClusterUnavailableError."""

    def __init__(self, client: Client) -> None:
        self._connection = client.connection
        self.namespace, self.address = client.namespace, client.connection.address

    def version(self) -> str:
        """As in ``v1.34.4``. Raises ClusterRefusedError."""
        said = self._said("the version cannot be read", *self._connection.ask("GET", "/version"))
        return str(said.get("gitVersion") or f"v{said.get('major')}.{said.get('minor')}")

    def who(self) -> str | None:
        """The user that we are to the API server; None where it does not tell. Raises ClusterRefusedError."""
        path, kind = "/apis/authentication.k8s.io/v1/selfsubjectreviews", "SelfSubjectReview"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": kind}
        status, said = self._connection.ask("POST", path, body=body)
        if status in (403, 404):
            return None
        said = self._said("who we are cannot be asked", status, said)
        return ((said.get("status") or {}).get("userInfo") or {}).get("username")

    def may(self, permission: Permission) -> bool:
        """By a SelfSubjectAccessReview. Raises ClusterRefusedError."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": permission.asked(self.namespace)},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        status, said = self._connection.ask("POST", path, body=body)
        said = self._said("what we may do cannot be asked", status, said)
        return bool((said.get("status") or {}).get("allowed"))

    def may_account(self, account: str, permission: Permission) -> bool | None:
        """Whether a service account of the namespace may; None where we may not ask. Raises ClusterRefusedError."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:{account}",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{self.namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": permission.asked(self.namespace),
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        status, said = self._connection.ask("POST", path, body=body)
        if status == 403:
            return None
        said = self._said(f"what {account} may do cannot be asked", status, said)
        return bool((said.get("status") or {}).get("allowed"))

    def found(self, kind: str, name: str) -> Object | None:
        """The object of this name. Raises ClusterRefusedError."""
        return self._at(f"{self._path(kind)}/{quote(name)}", f"{kind} {name} cannot be read")

    def every(self, kind: str) -> list[Object]:
        """All objects of a kind. Raises ClusterRefusedError."""
        items: list[Object] = []
        query = {"limit": _PAGE}
        while True:
            said = self._said(
                f"{kind} cannot be listed",
                *self._connection.ask("GET", self._path(kind), query=query),
            )
            items += said.get("items") or []
            if not (more := (said.get("metadata") or {}).get("continue")):
                return items
            query = {"limit": _PAGE, "continue": more}

    def own_namespace(self) -> Object | None:
        """The namespace. Raises ClusterRefusedError."""
        what = f"namespace {self.namespace} cannot be read"
        return self._at(f"/api/v1/namespaces/{quote(self.namespace)}", what)

    def secret_keys(self, name: str) -> frozenset[str] | None:
        """The names of a Secret's keys. Raises ClusterRefusedError."""
        found = self.found("secrets", name)
        return None if found is None else frozenset(found.get("data") or ())

    def has_kueue(self) -> bool:
        """Whether the cluster knows what a LocalQueue is."""
        return self._kueue() is not None

    def local_queue(self, name: str) -> Object | None:
        """Kueue's LocalQueue of this name. Raises ClusterRefusedError."""
        version = self._kueue()
        if version is None:
            return None
        where = f"/apis/{_KUEUE}/{version}/namespaces/{quote(self.namespace)}/localqueues"
        return self._at(f"{where}/{quote(name)}", f"queue {name} cannot be read")

    def refused(self, kind: str, body: Mapping[str, Any]) -> str | None:
        """Why the API server would not create this Job or pod; None where it would. Nothing is created."""
        query = {"dryRun": "All"}
        status, said = self._connection.ask("POST", self._path(kind), query=query, body=dict(body))
        try:
            self._said(f"{kind} cannot be tried", status, said)
        except ClusterRefusedError:
            return str(said.get("message") or f"HTTP {status}")
        return None

    # --- inside ---

    def _kueue(self) -> str | None:
        status, said = self._connection.ask("GET", f"/apis/{_KUEUE}")
        if status == 404:
            return None
        said = self._said("Kueue cannot be asked for", status, said)
        version = (said.get("preferredVersion") or {}).get("version")
        return str(version) if version else None

    def _path(self, kind: str) -> str:
        group, in_namespace = _PLACES[kind]
        return (
            f"{group}/namespaces/{quote(self.namespace)}/{kind}"
            if in_namespace
            else f"{group}/{kind}"
        )

    def _at(self, path: str, what: str) -> Object | None:
        status, said = self._connection.ask("GET", path)
        return None if status == 404 else self._said(what, status, said)

    def _said(self, what: str, status: int, said: Object) -> Object:
        if 200 <= status < 300:
            return said
        message = f"{what}: {said.get('message') or f'HTTP {status}'}"
        if status >= 500 or status in (408, 429):
            raise ClusterUnavailableError(message)
        raise ClusterRefusedError(message, status)
