"""Who is who in the cluster: one authority, the keys of the API server, a token for each that talks to it."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.rig.cluster.machine import NODE, SERVICE

__all__ = ["NODE_NAME", "Identities"]

NODE_NAME = "rig-node"

#: Name of the kubeconfig, user and group.
_USERS = {
    "admin": ("rig-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
}
_NAMES = [
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{NODE}",
    f"IP:{SERVICE}",
]


@dataclass(frozen=True)
class Identities:
    """The files of a folder; ``create`` makes them."""

    folder: Path
    server: str

    @classmethod
    def create(cls, folder: Path) -> Identities:
        """A new authority, keys signed by it, tokens, and a kubeconfig for each user."""
        folder.mkdir(parents=True)
        made = cls(folder, f"https://{NODE}")
        made._authority()
        made._signed("server", "/CN=kube-apiserver", _NAMES)
        made._signed("to-kubelet", "/O=system:masters/CN=kube-apiserver", [])
        _openssl("genrsa", "-out", folder / "accounts.key", "2048")
        lines = []
        for name, (user, group) in _USERS.items():
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{user},"{group}"\n')
            made._kubeconfig(name, token)
        (folder / "tokens.csv").write_text("".join(lines))
        return made

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    def kubeconfig(self, name: str) -> str:
        """The kubeconfig of admin, kubelet and so on."""
        return self[f"{name}.kubeconfig"]

    def _authority(self) -> None:
        _openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=rig"),
            *("-keyout", self["ca.key"], "-out", self["ca.crt"]),
        )

    def _signed(self, name: str, subject: str, names: list[str]) -> None:
        extensions = self.folder / f"{name}.ext"
        alternatives = f"subjectAltName={','.join(names)}\n" if names else ""
        extensions.write_text(f"{alternatives}extendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
            *("-keyout", self[f"{name}.key"], "-out", self[f"{name}.csr"]),
        )
        _openssl(
            *("x509", "-req", "-days", "30", "-in", self[f"{name}.csr"], "-CA", self["ca.crt"]),
            *("-CAkey", self["ca.key"], "-CAcreateserial", "-extfile", extensions),
            *("-out", self[f"{name}.crt"]),
        )

    def _kubeconfig(self, name: str, token: str) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "rig",
                    "cluster": {"server": self.server, "certificate-authority": self["ca.crt"]},
                }
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": name}}],
            "current-context": "rig",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(
        ["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
