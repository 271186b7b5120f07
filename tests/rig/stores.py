"""Which store the projects of the tests have: a folder, or with ``TEST_STORE=s3`` a bucket of a real server.

The marker ``folder`` is on what is about folders, or about a ledger in a file, and looks into them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

__all__ = ["BUCKET", "FOLDER", "copy_project", "in_bucket", "object_file", "project_store"]

#: Where a session with TEST_STORE=s3 keeps the URL of its bucket.
BUCKET = "TEST_BUCKET"
#: And the folder in which its server keeps that bucket's objects.
FOLDER = "TEST_BUCKET_FOLDER"


def in_bucket() -> bool:
    """Whether this session's projects have their stores in a bucket."""
    return BUCKET in os.environ


def project_store(root: Path) -> dict[str, str]:
    """What tells a project at ``root`` where its store is: nothing for the default, a folder."""
    if not in_bucket():
        return {}
    return {"LAUNCHER_STORE": f"{os.environ[BUCKET]}/{_prefix(root)}"}


def object_file(root: Path, key: str) -> Path:
    """The file in which an object of a project's store lies, whichever store it is."""
    if in_bucket():
        return Path(os.environ[FOLDER], _prefix(root), key)
    return root / "runs" / "self_distill" / "objects" / key


def copy_project(source: Path, target: Path, *, of: Path | None = None) -> None:
    """Put a copy of the project at ``source`` at ``target``, its store too; what is there goes.

    ``of``: the path at which it was a project, where that is not ``source``.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    if not in_bucket():
        return
    bucket = Path(os.environ[FOLDER])
    kept, place = bucket / _prefix(of or source), bucket / _prefix(target)
    shutil.rmtree(place, ignore_errors=True)
    if kept.exists():
        shutil.copytree(kept, place)
    # A cache would say, and rightly so, that this ledger was longer once.
    shutil.rmtree(
        Path(os.environ["XDG_CACHE_HOME"], "distill-ledger", "ledgers"), ignore_errors=True
    )


def _prefix(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
