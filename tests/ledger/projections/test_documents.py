"""What a person reads, byte for byte: the documents of the golden ledger, and the corners it has not."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from launcher.documents import Documents
from launcher.journal import Journal
from ledger import events as e
from ledger.decider import RunState
from ledger.projections import render
from ledger.projections.metadata import metadata_document
from ledger.projections.promotion import promotion_document, rollback_command
from ledger.projections.relabel_tags import relabel_tags_document
from ledger.projections.storage_alert import human_bytes, storage_alert_text
from ledger.stores.memory import MemoryEventStore

GOLDEN = Path(__file__).parents[2] / "golden"
SCHEMAS = sorted(path.stem for path in (GOLDEN / "ledgers").glob("*.jsonl"))
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_golden_ledger_gives_the_same_bytes_for_ever(schema: str) -> None:
    store = MemoryEventStore()
    store.load_raw((GOLDEN / "ledgers" / f"{schema}.jsonl").read_bytes().splitlines())
    documents = Documents(Journal(store, "nobody", lambda: ""), Path("/nowhere"))
    found: dict[str, bytes] = {}
    for run_id in documents.journal.run_ids():
        state = documents.journal.run(run_id)
        assert state.request is not None
        for path, data in documents.expected(state):
            found[path.relative_to(state.request.project_root).as_posix()] = data
    kept = GOLDEN / "documents" / schema
    expected = {
        path.relative_to(kept).as_posix(): path.read_bytes()
        for path in kept.rglob("*")
        if path.is_file()
    }
    assert found.keys() == expected.keys()
    for name, data in found.items():
        assert data == expected[name], name


def test_before_a_request_there_is_no_document() -> None:
    assert relabel_tags_document(RunState("run/r")) is None
    with pytest.raises(ValueError, match="run/r was never requested"):
        metadata_document(RunState("run/r"), b"")


def test_a_document_is_readable_json_that_ends_with_a_newline() -> None:
    assert render({"b": "größe ✓", "a": [1]}) == (
        '{\n  "b": "größe ✓",\n  "a": [\n    1\n  ]\n}\n'.encode()
    )
    with pytest.raises(ValueError, match="Out of range"):
        render({"x": float("nan")})


# --- promotion.json -----------------------------------------------------------------------------------


def confirmed(name: str, before: int, before_digest: str | None) -> e.PromotionConfirmed:
    body = e.Generation(
        name=name,
        project="p",
        generation=before + 1,
        kind="promotion",
        automatic=True,
        origin=before + 1,
        digest=DIGEST,
        size_bytes=1,
        run_id="r",
        promotion_id="x",
        actor="ana",
        previous=e.PreviousGeneration(generation=before, digest=before_digest),
        time="2026-01-31T02:00:00.000000Z",
    )
    return e.PromotionConfirmed(generation=body, promoted_from="s.pt", backup=None)


@pytest.mark.parametrize(
    "name", ["student", "my models/a b.pt", "it's $HOME/`x`.pt", "/abs/größe;.pt", "a&&b.pt"]
)
def test_the_rollback_command_survives_a_shell(name: str) -> None:
    command = promotion_document(confirmed(name, 41, DIGEST))["rollback"]
    assert shlex.split(command) == ["launcher", "rollback", name, "--to", "41"]
    assert rollback_command(name, 41) == command


@pytest.mark.parametrize("before", [0, 1])
def test_where_nothing_was_live_there_is_nothing_to_go_back_to(before: int) -> None:
    """Generation 1 may be a fence, which names no checkpoint."""
    document = promotion_document(confirmed("student", before, None))
    assert document == {
        "run_id": "r",
        "timestamp": "2026-01-31T02:00:00.000000Z",
        "promoted_from": "s.pt",
        "promoted_to": "student",
        "backup": None,
        "digest": DIGEST,
        "generation": before + 1,
        "previous_digest": None,
        "rollback": None,
    }


# --- storage_alert.txt --------------------------------------------------------------------------------


def test_the_storage_alert_gives_every_number_and_commands_that_a_shell_takes() -> None:
    path = "checkpoints/it's a $(touch x).pt"
    measured = e.StorageMeasured(
        store="s3://bucket",
        bytes_by_class={"students": 1_900_000_000, "logs": 0},
        free_bytes=None,
        quota_bytes=5_000_000_000,
        obsolete=(e.ObsoleteCheckpoint(path=path, size_bytes=999, why="not live"),),
        obsolete_count=31,
        obsolete_bytes=1_234,
    )
    text = storage_alert_text(measured, "2026-01-31T02:00:00.000000Z").decode()
    assert text == (
        "Storage at 2026-01-31T02:00:00.000000Z\n"
        "Store: s3://bucket\n"
        "\n"
        "Stored, by class:\n"
        "  students       1900000000 bytes  (1.9 GB)\n"
        "  logs                    0 bytes  (0 B)\n"
        "\n"
        "Quota: 5000000000 bytes (5.0 GB)\n"
        "\n"
        "Obsolete checkpoints: 31, 1234 bytes (1.2 kB). To remove one, in the project root:\n"
        "  rm -- 'checkpoints/it'\"'\"'s a $(touch x).pt'   # 999 bytes, not live\n"
        "  … and 30 more: launcher storage\n"
    )
    (command,) = [line for line in text.splitlines() if line.startswith("  rm")]
    assert shlex.split(command, comments=True) == ["rm", "--", path]


def test_an_alert_with_nothing_to_remove_says_so() -> None:
    measured = e.StorageMeasured(store="o", bytes_by_class={}, free_bytes=0)
    assert storage_alert_text(measured, "t").decode() == (
        "Storage at t\nStore: o\n\nStored, by class:\n\nFree: 0 bytes (0 B)\n\n"
        "Obsolete checkpoints: none.\n"
    )


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_bytes_for_people(size: int, shown: str) -> None:
    assert human_bytes(size) == shown
