"""Which runs were given a driver in their cluster: an object beside a run's results says so, for whoever has the store.

It is no fact of the run, which goes the same way whoever drives it, so it is not in the ledger. It says that there was
a driver; whether that drives now is for the cluster to say.
"""

from __future__ import annotations

import json
from contextlib import suppress

from launcher.storage.port import ObjectExistsError, ObjectNotFoundError, ObjectStore

__all__ = ["note_driver", "noted_driver"]


def note_driver(store: ObjectStore, run_id: str, namespace: str, job_name: str) -> None:
    """Say it; once is enough. Raises UnavailableError."""
    said = json.dumps({"namespace": namespace, "job_name": job_name})
    with suppress(ObjectExistsError):
        store.create(_key(run_id), said.encode())


def noted_driver(store: ObjectStore, run_id: str) -> tuple[str, str] | None:
    """(namespace, Job) of the driver that a run was given, or None. Raises UnavailableError."""
    try:
        said = json.loads(store.read(_key(run_id)))
        return str(said["namespace"]), str(said["job_name"])
    except (ObjectNotFoundError, ValueError, KeyError, TypeError):
        return None


def _key(run_id: str) -> str:
    return f"runs/{run_id}/driver.json"
