"""The cluster of `make demo EXECUTOR=kubernetes`, until standard input ends.

    python -m tests.rig.demo PROFILE FOLDER BUCKET

The demo's images are in it, a namespace takes restricted pods alone, ``BUCKET`` in ``FOLDER`` is served to pods and to
this machine, and the profile with all of these names is written to ``PROFILE``. Prints the environment that leads
there, one ``export NAME=VALUE`` a line, then an empty line. What the bucket keeps stays in ``FOLDER``; the
cluster goes with its last user, so one that `make cluster` has in another terminal is there at once, and afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.rig.k8s import OUTSIDE, Cluster, using
from tests.rig.s3 import serving
from tests.rig.tools import skip

__all__ = ["filled_in", "main"]

_PROFILE: Final = Path(__file__).parents[2] / "configs" / "profiles" / "minigrid.yaml"
#: A test of the demo has one of its own.
_NAMESPACE: Final = os.environ.get("DEMO_NAMESPACE") or "distill-demo"
_KEYS: Final = {"access-key-id": "AWS_ACCESS_KEY_ID", "secret-access-key": "AWS_SECRET_ACCESS_KEY"}


def main(profile: str, folder: str, bucket: str) -> int:
    """Have it, say so, and wait."""
    Path(profile).parent.mkdir(parents=True, exist_ok=True)
    try:
        with using() as cluster, _bucket(cluster, Path(folder), bucket) as (store, access):
            _prepare(cluster, access)
            Path(profile).write_text(filled_in(cluster, access, _NAMESPACE))
            said = {
                **{name: value for name, value in access.items() if name.startswith("AWS_")},
                "KUBECONFIG": str(cluster.kubeconfig),
                "PATH": f"{Path(cluster.program).parent}:{os.environ['PATH']}",
                "LAUNCHER_STORE": store,
                "DEMO_NAMESPACE": _NAMESPACE,
            }
            for name, value in said.items():
                print(f"export {name}={value}")
            print(flush=True)
            try:
                with suppress(KeyboardInterrupt):
                    sys.stdin.read()
            finally:
                # A demo that was cut off: its pods would wait for the bucket, and hold the GPU.
                left = ("jobs", "--field-selector=status.successful=0", "--wait=false")
                cluster.tried("-n", _NAMESPACE, "delete", *left)
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        print(f"no cluster: {exc}", file=sys.stderr)
        return 5
    return 0


@contextmanager
def _bucket(cluster: Cluster, folder: Path, name: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(the store's URL, the environment that leads there): what an earlier demo kept is there again."""
    if not cluster.own:
        yield cluster.bucket(), os.environ
        return
    with socket.socket() as probe:
        probe.bind((OUTSIDE, 0))
        port = probe.getsockname()[1]
    with serving(folder, address=(OUTSIDE, port)) as server:
        if not (server.root / name).is_dir():
            server.bucket(name)
        yield f"s3://{name}/cluster", server.environment()


def _prepare(cluster: Cluster, access: Mapping[str, str]) -> None:
    """The namespace and the Secret, whether or not an earlier demo left them."""
    if missing := [name for name in _KEYS.values() if not access.get(name)]:
        skip(f"the Secret for the demo's pods takes {' and '.join(missing)}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"kind": "Namespace", "metadata": {"name": _NAMESPACE, "labels": labels}}
    secret = {
        "kind": "Secret",
        "metadata": {"name": "distill-store", "namespace": _NAMESPACE},
        "stringData": {key: access[name] for key, name in _KEYS.items()},
    }
    for made in (space, secret):
        cluster.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", **made}))


def filled_in(cluster: Cluster, access: Mapping[str, str], namespace: str) -> str:
    """The demo's profile as a person would fill it in for this cluster."""
    text = _PROFILE.read_text()
    endpoint = access.get("AWS_ENDPOINT_URL")
    for was, now in (
        ("namespace: distill-demo", f"namespace: {namespace}"),
        ("image: registry.example.com/distill-ledger:0.1.0", f"image: {cluster.agent_image}"),
        ("image: registry.example.com/minigrid:1", f"image: {cluster.minigrid_image}"),
        ("AWS_REGION: us-east-1", f"AWS_REGION: {access.get('AWS_REGION', 'us-east-1')}"),
        (
            "    AWS_ENDPOINT_URL: https://s3.example.com\n",
            f"    AWS_ENDPOINT_URL: {endpoint}\n" if endpoint else "",
        ),
    ):
        assert was in text, f"{_PROFILE}: no {was}"
        text = text.replace(was, now)
    return text


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
