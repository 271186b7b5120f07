"""A ledger of every released schema, kept for ever: it reads, folds and re-canonicalises unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ledger import decider, pointers, records
from ledger.canonical import canonical_json, parse_json
from ledger.events import EVENT_TYPES, NewerEvent
from ledger.stores.memory import MemoryEventStore

FOLDER = Path(__file__).parents[1] / "golden" / "ledgers"
LEDGERS = sorted(FOLDER.glob("*.jsonl"))
#: The Merkle roots, written down here so that a golden file changed with its script is noticed.
ROOTS = {"schema1": "45284b632c55c2f220a276f01f46e56e0f905d73c098ff0e18783b48d5c1c755"}


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_every_released_schema_is_here() -> None:
    assert [path.stem for path in LEDGERS] == list(ROOTS)


@pytest.mark.parametrize("path", LEDGERS, ids=lambda p: p.stem)
def test_every_line_is_canonical_and_reads_as_the_event_it_was(path: Path) -> None:
    for position, raw in enumerate(_lines(path)):
        assert canonical_json(parse_json(raw)) == raw
        record = records.parse(position, raw, path.name)
        assert not isinstance(record.data, NewerEvent)
        if record.schema == EVENT_TYPES[record.type].schema_version:
            assert canonical_json(records.data_json(record.data)) == canonical_json(
                parse_json(raw)["data"]
            )


@pytest.mark.parametrize("path", LEDGERS, ids=lambda p: p.stem)
def test_it_holds_every_type_and_folds_without_an_illegal_move(path: Path) -> None:
    store = MemoryEventStore()
    store.load_raw(_lines(path))
    assert {r.type for r in store.read_all()} == set(EVENT_TYPES)
    runs = [decider.fold(s, store.read_stream(s)).status for s in store.streams("run/")]
    assert runs == ["succeeded", "failed", "succeeded", "cancelled"]
    (pointer,) = store.streams("pointer/")
    state = pointers.fold_pointer(pointer, store.read_stream(pointer))
    assert [g.kind for g in state.generations.values()] == [
        "adoption",
        "promotion",
        "rollback",
        "fence",
    ]
    assert store.head().root.hex() == ROOTS[path.stem]


def test_the_script_refuses_to_write_it_again() -> None:
    before = (FOLDER / "schema1.jsonl").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden.ledgers.make_schema1"],
        cwd=FOLDER.parents[2],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, (FOLDER / "schema1.jsonl").read_bytes()) == (1, before)
