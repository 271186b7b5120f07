"""A ledger of every released schema, kept for ever: it reads, folds and re-canonicalises unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ledger import decider, pointers, records, slots
from ledger.canonical import canonical_json, parse_json
from ledger.events import EVENT_TYPES, NewerEvent
from ledger.held import run_held, stage_restarts, stage_time
from ledger.stores.memory import MemoryEventStore
from tests.golden.ledgers.make_schema1 import digest as _digest

FOLDER = Path(__file__).parents[1] / "golden" / "ledgers"
LEDGERS = sorted(FOLDER.glob("*.jsonl"))
#: The Merkle roots, written down here so that a golden file changed with its script is noticed.
ROOTS = {
    "schema1": "45284b632c55c2f220a276f01f46e56e0f905d73c098ff0e18783b48d5c1c755",
    "schema1_folders": "1fb07b69d52644071ce4b2443c15c84fe74d0161efbf67e368d1c21217164890",
    "schema1_pipelines": "f6ead85ca704ee683ca0a41be367026ed7fb7d46333855e2eddf6b29bc62ccf4",
    "schema2": "f2afbf03f40a743130715df0746aa1c6f2173b611fddc95ec9c19df49d964d29",
    "schema2_held": "92187b99213524cafc383600da8d91c545729645543ef6799f5abe2aefa74d9b",
    "schema3": "cdfabfd0294b005cd52634b1af68feef2734572cbb6d86fa0332f08be86ba51b",
}
#: The types that schema 1 got after its first ledger was kept: that one has all others, the second has these.
LATER = {"RunFolderRetired", "RunFolderRestored"}
#: And the third these.
LATEST = {"SlotClaimed", "SlotMissed", "SlotPassedOver", "PipelinePaused", "PipelineUnpaused"}


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


def _loaded(stem: str) -> MemoryEventStore:
    store = MemoryEventStore()
    store.load_raw(_lines(FOLDER / f"{stem}.jsonl"))
    assert store.head().root.hex() == ROOTS[stem]
    return store


def test_the_first_holds_every_other_type_and_folds_without_an_illegal_move() -> None:
    store = _loaded("schema1")
    assert {r.type for r in store.read_all()} == set(EVENT_TYPES) - LATER - LATEST
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


def test_the_folders_of_runs_go_and_come_back_each_after_the_one_before() -> None:
    store = _loaded("schema1_folders")
    assert {r.type for r in store.read_all()} >= LATER
    said = store.read_stream("storage")
    assert [r.type for r in said] == ["RunFolderRetired", "RunFolderRestored", "RunFolderRetired"]
    assert [r.data.follows for r in said] == [None, said[0].id, said[1].id]
    assert [decider.fold(s, store.read_stream(s)).status for s in store.streams("run/")] == [
        "succeeded"
    ]


def test_what_was_submitted_names_its_task_from_schema_2_on() -> None:
    for stem, tasks in (("schema1", {None}), ("schema2", {_digest("task")})):
        said = [r for r in _loaded(stem).read_all() if r.type == "StageSubmitted"]
        assert {r.schema for r in said} == {1 if stem == "schema1" else 2}
        assert {r.data.handle.task_digest for r in said} == tasks


def test_what_stages_held_is_known_from_schema_2_on() -> None:
    """All attempts of all stages count, lost pods too; of what was said before nobody knows."""
    held = {}
    for stem in ("schema1", "schema2", "schema2_held", "schema3"):
        store = _loaded(stem)
        for stream in store.streams("run/"):
            state = decider.fold(stream, store.read_stream(stream))
            held[state.run_id] = run_held(state)
    known = {run_id: found.gpus for run_id, found in held.items() if found}
    assert known == {
        "20260302T020000Z-11c8": {"nvidia.com/gpu": 618 + 196.25},
        "20260302T020000Z-11c8b": {"amd.com/gpu": 94.125},
        "20260303T020000Z-5e21": {"nvidia.com/gpu": 2 * 94.125},
    }
    store = _loaded("schema2_held")
    stream = "run/20260302T020000Z-11c8"
    failed = decider.fold(stream, store.read_stream(stream)).stages["retrain"]
    assert stage_time(failed).model_dump() == {
        "queued": 11.5,
        "scheduled": 43,
        "pulling": 15,
        "running": 391,
        "collecting": 0.125,
    }
    assert failed.held_since == {
        "pod-2-1": "2026-03-02T02:02:01Z",
        "pod-2-2": "2026-03-02T02:02:02Z",
    }


def test_which_watches_broke_is_known_from_schema_3_on() -> None:
    """Of all attempts; before, nobody counted, which is not the same as none."""
    found: dict[str, set[int | None]] = {}
    for stem in ("schema1", "schema2", "schema2_held", "schema3"):
        store = _loaded(stem)
        for stream in store.streams("run/"):
            stages = decider.fold(stream, store.read_stream(stream)).stages.values()
            ended = [one for one in stages if one.status in ("succeeded", "failed")]
            found.setdefault(stem, set()).update(map(stage_restarts, ended))
    assert found == {"schema1": {None}, "schema2": {None}, "schema2_held": {None}, "schema3": {3}}


def test_a_pipeline_is_paused_let_go_on_and_paused_again() -> None:
    store = _loaded("schema1_pipelines")
    assert {r.type for r in store.read_all()} >= LATEST
    (stream,) = store.streams("pipeline/")
    state = slots.fold_pipeline(stream, store.read_stream(stream))
    assert [fact.type for fact in state.slots.values()] == [
        "SlotClaimed",
        "SlotMissed",
        "SlotPassedOver",
    ]
    assert state.paused is not None
    assert state.paused.reason == "holidays"


@pytest.mark.parametrize("stem", ROOTS)
def test_the_script_refuses_to_write_it_again(stem: str) -> None:
    before = (FOLDER / f"{stem}.jsonl").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", f"tests.golden.ledgers.make_{stem}"],
        cwd=FOLDER.parents[2],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, (FOLDER / f"{stem}.jsonl").read_bytes()) == (1, before)
