"""A service account of the cluster whose tokens come and go."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.rig.k8s import Cluster

__all__ = ["Account"]

_LAUNCHERS = ("get", "list", "watch", "create", "delete", "patch")


@dataclass
class Account:
    """May do with Jobs, pods and events what a launcher does. ``kubeconfig`` has its newest token."""

    cluster: Cluster
    namespace: str
    kubeconfig: Path
    _secret: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._apply("v1", "ServiceAccount", {})
        about = {"kind": "Role", "name": "launcher", "apiGroup": "rbac.authorization.k8s.io"}
        who = {"kind": "ServiceAccount", "name": "launcher", "namespace": self.namespace}
        self.allow(*_LAUNCHERS)
        self._apply(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            {"roleRef": about, "subjects": [who]},
        )

    def allow(self, *verbs: str) -> None:
        """From now on these, and no others."""
        what = {
            "apiGroups": ["", "batch"],
            "resources": ["jobs", "pods", "pods/log", "events"],
            "verbs": list(verbs),
        }
        self._apply("rbac.authorization.k8s.io/v1", "Role", {"rules": [what]})

    def renew(self) -> None:
        """A new token, in the kubeconfig."""
        self._secret = f"bound-{secrets.token_hex(3)}"
        about = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._secret}}
        self.cluster.apply(self.namespace, about)
        token = self._kubectl(
            *("create", "token", "launcher"),
            *("--bound-object-kind", "Secret", "--bound-object-name", self._secret),
        ).strip()
        made = yaml.safe_load(self.cluster.kubeconfig.read_text())
        made["users"] = [{"name": "launcher", "user": {"token": token}}]
        context = {**made["contexts"][0]["context"], "user": "launcher"}
        made["contexts"][0]["context"] = {**context, "namespace": self.namespace}
        beside = self.kubeconfig.with_suffix(".new")
        beside.write_text(yaml.safe_dump(made))
        beside.replace(self.kubeconfig)

    def revoke(self) -> None:
        """The token is worth nothing any more, once the API server has forgotten it: 10 s."""
        self._kubectl("delete", "secret", self._secret)

    def _apply(self, version: str, kind: str, body: dict[str, object]) -> None:
        made = {"apiVersion": version, "kind": kind, "metadata": {"name": "launcher"}, **body}
        self._kubectl("apply", "-f", "-", given=json.dumps(made))

    def _kubectl(self, *arguments: str, given: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, given=given)
