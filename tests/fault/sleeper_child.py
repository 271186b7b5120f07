"""A promoter that stops itself at a chosen moment, to be woken much later. ``python -m tests.fault.sleeper_child``.

Arguments: the project's root, the run to promote, the moment: ``before create`` or ``after create`` of its
generation, ``before replace`` (with the target's lock held, before the file is swapped). ``roll back`` is a
rollback straight in the store that does not wait for the file.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from launcher import clock
from launcher.errors import LauncherError
from launcher.storage.filesystem import FilesystemStore
from launcher.storage.pointer import Pointers
from tests.launcher.pointer_world import TARGET, project_workspace


def sleep_at(moment: str) -> None:
    create, replace, slept = FilesystemStore.create, os.replace, False

    def creating(self: FilesystemStore, key: str, data: bytes) -> None:
        ours = key.startswith("pointers/")
        if ours and moment == "before create":
            os.kill(os.getpid(), signal.SIGSTOP)
        create(self, key, data)
        if ours and moment == "after create":
            os.kill(os.getpid(), signal.SIGSTOP)

    def replacing(source: Any, target: Any) -> None:
        nonlocal slept
        if moment == "before replace" and str(target).endswith(TARGET) and not slept:
            slept = True
            os.kill(os.getpid(), signal.SIGSTOP)
        replace(source, target)

    FilesystemStore.create = creating  # type: ignore[method-assign]
    os.replace = replacing  # type: ignore[assignment]


def main(root: str, run_id: str, moment: str) -> int:
    ws = project_workspace(Path(root))
    if moment == "roll back":
        pointers = Pointers(ws.store)
        history = pointers.history(TARGET)
        body = history.rollback_body(
            history.rollback_target(None),
            project=ws.settings.project,
            promotion_id=clock.new_id(),
            actor="ana",
            reason=None,
            time=clock.now(),
        )
        pointers.create(body)
        return 0
    sleep_at(moment)
    try:
        moved = ws.promoter.promote(ws.journal.run(run_id), TARGET, automatic=True)
    except LauncherError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    assert moved.generation is not None
    print(f"{moved.outcome} g{moved.generation.generation}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
