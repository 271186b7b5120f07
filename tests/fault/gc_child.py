"""A collection that is killed on the way. ``python -m tests.fault.gc_child``.

Arguments: a folder, the days that have passed, and perhaps a bucket's URL. The folder's ``template`` holds a
store and a ledger. In a folder: for each effect the template is copied to ``p``, collected by a process of its own
that is killed *before* effect n, and kept as ``<n>``; the names of the effects as ``effects.json``. In a bucket:
the one store is collected again and again, killed before the first effect, then the second, until one comes to
its end.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from launcher.storage.s3.client import Client
from ledger.stores.sqlite import SqliteEventStore
from tests.fault.effects import Effects, effects_of
from tests.launcher.retention.world import RetentionWorld

CALLS = ("link", "replace", "rename", "unlink", "rmdir")
#: What a bucket is changed by.
CHANGES = ("put_object", "copy_object", "delete_objects", "complete_multipart_upload")


def opened(root: Path, days: float, bucket: str = "") -> RetentionWorld:
    """The world whose ledger is in ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    return RetentionWorld(root, days, SqliteEventStore(root / "ledger.db"), bucket)


def watched(death: int | None) -> Effects:
    """Every effect counted from now on."""
    effects = Effects(-1 if death is None else death)
    effects.watch(os, *CALLS)
    effects.watch(SqliteEventStore, "append")
    real = Client._called

    def called(self: Client, client: Any, operation: str, key: str, more: dict[str, Any]) -> Any:
        if operation in CHANGES:
            effects.count(operation)
        return real(self, client, operation, key, more)

    Client._called = called  # type: ignore[method-assign]
    return effects


def collected(root: Path, days: float, bucket: str, death: int | None) -> list[str] | None:
    """The effects of a collection in ``root``, or None if it was killed before effect ``death``."""

    def work() -> Effects:
        world = opened(root, days, bucket)
        effects = watched(death)
        world.collect()
        return effects

    return effects_of(work)


def place(top: Path) -> Path:
    shutil.rmtree(top / "p", ignore_errors=True)
    shutil.copytree(top / "template", top / "p")
    return top / "p"


def main(folder: str, days: str, bucket: str = "") -> None:
    top = Path(folder)
    seen: list[str] | None
    if bucket:
        killed = 0
        while (seen := collected(top / "template", float(days), bucket, killed)) is None:
            killed += 1
        (top / "effects.json").write_text(json.dumps({"killed": killed, "last": seen}))
        return
    seen = collected(place(top), float(days), "", None)
    assert seen is not None
    for number in range(len(seen)):
        assert collected(place(top), float(days), "", number) is None, number
        (top / "p").rename(top / str(number))
    (top / "effects.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
