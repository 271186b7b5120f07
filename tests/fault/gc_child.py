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
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.storage.s3.client import Client
from ledger.stores.sqlite import SqliteEventStore
from tests.launcher.retention.world import RetentionWorld

CALLS = ("link", "replace", "rename", "unlink", "rmdir")
#: What a bucket is changed by.
CHANGES = ("put_object", "copy_object", "delete_objects", "complete_multipart_upload")


def opened(root: Path, days: float, bucket: str = "") -> RetentionWorld:
    """The world whose ledger is in ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    return RetentionWorld(root, days, SqliteEventStore(root / "ledger.db"), bucket)


def watch(death: int | None) -> list[str]:
    """Count every effect from now on, and die before number ``death``."""
    seen: list[str] = []

    def count(name: str) -> None:
        if death == len(seen):
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(name)

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            count(name)
            return call(*args, **kwargs)

        return instead

    real = Client._called

    def called(self: Client, client: Any, operation: str, key: str, more: dict[str, Any]) -> Any:
        if operation in CHANGES:
            count(operation)
        return real(self, client, operation, key, more)

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    Client._called = called  # type: ignore[method-assign]
    SqliteEventStore.append = watched("append", SqliteEventStore.append)  # type: ignore[method-assign]
    return seen


def in_a_process(root: Path, days: float, bucket: str, death: int | None) -> list[str] | None:
    """The effects of a collection in ``root``, or None if it was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        world = opened(root, days, bucket)
        seen = watch(death)
        world.collect()
        os.write(writer, json.dumps(seen).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert status == 0, f"it failed before effect {death}"
    return [str(name) for name in json.loads(said)]


def place(top: Path) -> Path:
    shutil.rmtree(top / "p", ignore_errors=True)
    shutil.copytree(top / "template", top / "p")
    return top / "p"


def main(folder: str, days: str, bucket: str = "") -> None:
    top = Path(folder)
    seen: list[str] | None
    if bucket:
        killed = 0
        while (seen := in_a_process(top / "template", float(days), bucket, killed)) is None:
            killed += 1
        (top / "effects.json").write_text(json.dumps({"killed": killed, "last": seen}))
        return
    seen = in_a_process(place(top), float(days), "", None)
    assert seen is not None
    for number in range(len(seen)):
        assert in_a_process(place(top), float(days), "", number) is None, number
        (top / "p").rename(top / str(number))
    (top / "effects.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
