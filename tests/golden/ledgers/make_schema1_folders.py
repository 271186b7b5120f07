"""Writes schema1_folders.jsonl, the golden ledger of the events of run folders, which schema 1 got after its first.

Run once, before the first release of these events; it refuses to overwrite what it wrote, as make_schema1 does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ledger import events as e
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import ROOT, Story, good_run

TARGET = Path(__file__).with_name("schema1_folders.jsonl")
RUN = "20260201T020000Z-7f30"


def tell() -> MemoryEventStore:
    """A run whose folder was retired, restored, and retired again, each after the one before."""
    story = Story()
    good_run(story, RUN)
    place = {"run_id": RUN, "folder": f"{ROOT}/runs/self_distill/{RUN}"}
    machine = "gpu-7/0123456789ab"
    retired = e.RunFolderRetired(**place, machine_id=machine, files=214, size_bytes=1_900_000_333)
    story.say("storage", retired, actor="ana")
    story.say(
        "storage",
        e.RunFolderRestored(**place, machine_id=machine, follows=story.last_id),
        actor="ana",
    )
    story.say(
        "storage",
        retired.model_copy(update={"follows": story.last_id}),
        actor="ana",
        after=604_800,
    )
    return story.store


def main() -> int:
    try:
        with TARGET.open("xb") as file:
            file.writelines(stored.raw + b"\n" for stored in tell().read_raw())
    except FileExistsError:
        print(f"{TARGET.name} exists; a golden ledger is never written again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
