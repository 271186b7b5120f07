"""A launcher that moves a pointer and is killed on the way. ``python -m tests.fault.promotion_child``.

Arguments: a folder and what to do in it (``promote``, ``automatic``, ``rollback``, ``standalone``). The
folder's ``template`` is a project that lives in its ``p``. For each effect of the job the project is put
there, the job done by a process of its own that is killed *before* effect n, and what it left is kept as
``<job>-<n>``; the names of the effects as ``<job>.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from launcher import clock
from launcher.standalone import StoreRollback
from launcher.workspace import Workspace
from ledger.stores.sqlite import SqliteEventStore
from tests.fault.effects import Effects, effects_of
from tests.launcher.pointer_world import TARGET, project_workspace

CALLS = ("link", "replace", "rename", "unlink", "mkdir", "rmdir", "ftruncate", "pwrite")


def place(top: Path, what: str) -> Path:
    """Put a copy of the project ``what`` where it lives: its documents name the place."""
    shutil.rmtree(top / "p", ignore_errors=True)
    shutil.copytree(top / what, top / "p")
    return top / "p"


def promote(ws: Workspace, *, automatic: bool) -> None:
    run = ws.journal.run("b")
    ws.promoter.promote(run, TARGET, automatic=automatic)
    ws.documents.write("b")


def rollback(ws: Workspace) -> None:
    history = ws.promoter.history(TARGET)
    to = history.rollback_target(None)
    ws.promoter.rollback(TARGET, to, reason="bad", base=history.latest)
    ws.documents.write("a")


def standalone(ws: Workspace) -> None:
    alone = StoreRollback(ws.store, root=ws.root, project=ws.settings.project, actor="ana")
    history = alone.history(TARGET)
    alone.apply(
        TARGET,
        history.rollback_target(None),
        reason="bad",
        base=history.latest,
        promotion_id=clock.new_id(),
        time=clock.now(),
    )


JOBS: dict[str, Callable[[Workspace], None]] = {
    "promote": lambda ws: promote(ws, automatic=False),
    "automatic": lambda ws: promote(ws, automatic=True),
    "rollback": rollback,
    "standalone": standalone,
}


def done(root: Path, job: str, death: int | None) -> list[str] | None:
    """The effects of the job in ``root``, or None if it was killed before effect ``death``."""

    def work() -> Effects:
        effects = Effects(-1 if death is None else death)
        effects.watch(os, *CALLS)
        effects.watch(SqliteEventStore, "append")
        JOBS[job](project_workspace(root))
        return effects

    return effects_of(work)


def main(folder: str, job: str) -> None:
    top = Path(folder)
    seen = done(place(top, "template"), job, None)
    assert seen is not None
    for number in range(len(seen)):
        assert done(place(top, "template"), job, number) is None, (job, number)
        (top / "p").rename(top / f"{job}-{number}")
    (top / f"{job}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
