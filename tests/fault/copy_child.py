"""``launcher ledger copy``, killed on the way. ``python -m tests.fault.copy_child SOURCE TARGET``, in a project.

For each effect of the copy it is begun anew, by a process of its own that is killed *before* effect n; TARGET has
``{}`` where n is to stand. The names of the effects, as the whole copy (n is ``whole``) has them, are printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys

from launcher.cli import ledger as _read_now  # noqa: F401
from launcher.cli.main import main
from launcher.storage import opening
from launcher.storage.s3.objects import BucketObjects
from ledger import copying
from ledger.stores.sqlite import SqliteEventStore
from tests.fault.effects import Effects, effects_of

CALLS = ("link", "replace", "rename", "unlink", "fsync")


def copied(source: str, target: str, death: int) -> list[str] | None:
    """The effects of one copy; None where it was killed."""

    def work() -> Effects:
        effects = Effects(death)
        effects.watch(os, *CALLS)
        effects.watch(SqliteEventStore, "load_raw")
        effects.watch(BucketObjects, "create")
        # Else all of a little ledger goes over in one call.
        copying._BATCHES = 2
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        code: object = None
        try:
            main(["ledger", "copy", source, target])
        except SystemExit as exc:
            code = exc.code
        assert not code, code
        return effects

    return effects_of(work)


if __name__ == "__main__":
    opening.warm("s3://any")
    whole = copied(sys.argv[1], sys.argv[2].format("whole"), -1)
    assert whole is not None
    for number in range(len(whole)):
        assert copied(sys.argv[1], sys.argv[2].format(number), number) is None, number
    print(json.dumps(whole))
