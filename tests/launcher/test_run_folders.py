"""Whose folders are kept here: two machines with the same paths, a folder that was retired, a project that is away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher import run_folders
from launcher.documents import Documents
from launcher.journal import Journal
from launcher.run_folders import RunFolders, Sightings, folder_of
from ledger import events as e
from ledger.decider import RunState
from ledger.stores.memory import MemoryEventStore

DIGEST = "sha256:" + "0" * 64
NOW = "2026-01-31T02:00:00.000000Z"


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to another machine; tests begin on ``pod``."""

    def go(machine: str) -> None:
        monkeypatch.setattr(run_folders, "machine_id", lambda: machine)

    go("pod")
    return go


class Ledger:
    """A ledger with one run of a project at ``root``, begun on ``pod``, and ended."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.store = MemoryEventStore()
        self.journal = Journal(self.store, "ana", lambda: NOW)
        plan = e.StagePlan(name="relabel", command="true", spec_digest=DIGEST)
        self.request = e.RunRequested(
            run_id="a",
            project="p",
            project_root=str(root),
            output_root="runs",
            config=e.ConfigRef(path=None, digest=DIGEST),
            stages=(plan,),
            provenance=e.Provenance(launcher_version="0.1.0"),
        )
        self.folder = folder_of(self.request)
        self.locks = root / "locks"

    def say(self, *facts: e.EventData) -> RunState:
        return self.journal.record_run("a", lambda _: list(facts))

    def requested(self) -> RunState:
        return self.say(self.request)

    def ended(self, machine: str = "pod") -> RunState:
        handle = e.Handle(machine_id=machine, pid=1)
        return self.say(
            self.request,
            e.StageIntended(stage="relabel", attempt=1, executor="local", spec_digest=DIGEST),
            e.StageSubmitted(stage="relabel", attempt=1, handle=handle, log="log"),
            e.StageSucceeded(stage="relabel", attempt=1, manifest_digest=DIGEST, log_digest=None),
            e.RelabelTagsEmitted(tag_file=None, digest=None),
            e.RunSucceeded(),
        )

    def retire(self, machine: str, follows: str | None = None) -> str:
        where: dict[str, Any] = {"run_id": "a", "folder": str(self.folder), "machine_id": machine}
        fact = e.RunFolderRetired(**where, files=1, size_bytes=1, follows=follows)
        return self.journal.record_storage(fact).id

    def bring_back(self, machine: str, follows: str) -> str:
        where: dict[str, Any] = {"run_id": "a", "folder": str(self.folder), "machine_id": machine}
        return self.journal.record_storage(e.RunFolderRestored(**where, follows=follows)).id

    def folders(self, *, shared: bool) -> RunFolders:
        return RunFolders(self.store, shared=shared)

    def documents(self, *, shared: bool) -> Documents:
        return Documents(self.journal, self.locks, shared=shared)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "work")


def test_a_shared_ledger_two_machines_with_the_same_path(
    ledger: Ledger, on: Callable[[str], None]
) -> None:
    state = ledger.ended()
    assert ledger.folders(shared=True).is_here(state), "it ran here, whoever took its folder away"
    on("laptop")
    assert not ledger.folders(shared=True).is_here(state)
    assert ledger.folders(shared=False).is_here(state), "a ledger of this home alone"
    ledger.folder.mkdir(parents=True)
    assert ledger.folders(shared=True).is_here(state), "a disk that both see, or a restore"


def test_a_run_without_a_start_is_whose_folder_it_is(ledger: Ledger) -> None:
    state = ledger.requested()
    assert not ledger.folders(shared=True).is_here(state)
    ledger.folder.mkdir(parents=True)
    assert ledger.folders(shared=True).is_here(state)


def test_what_events_show_in_passing_is_what_the_state_says(
    ledger: Ledger, on: Callable[[str], None]
) -> None:
    """Here because it ran here, elsewhere, here because its folder is, here because the ledger is this home's."""
    state, found = ledger.ended(), []
    for machine, has_folder, shared in (
        ("pod", False, True),
        ("laptop", False, True),
        ("laptop", True, True),
        ("laptop", False, False),
    ):
        on(machine)
        if has_folder:
            ledger.folder.mkdir(parents=True)
        sightings = Sightings(ledger.folders(shared=shared))
        assert not sightings.is_elsewhere("a"), "nothing was seen of it"
        for record in ledger.store.read_all():
            sightings.saw(record)
        found.append(sightings.is_elsewhere("a"))
        assert found[-1] == (not ledger.folders(shared=shared).is_here(state))
        if has_folder:
            ledger.folder.rmdir()
    assert found == [False, True, False, False]


@pytest.mark.parametrize("shared", [True, False])
def test_where_the_project_is_not_nothing_is_kept_or_made(ledger: Ledger, shared: bool) -> None:
    state = ledger.ended()
    shutil.rmtree(ledger.request.project_root)
    locks = Path(ledger.request.project_root).with_name("locks")
    documents = Documents(ledger.journal, locks, shared=shared)
    assert not documents.folders.is_here(state)
    assert documents.check(state) == []
    documents.write("a")
    assert not Path(ledger.request.project_root).exists()


def test_another_machines_documents_are_neither_missed_nor_written(
    ledger: Ledger, on: Callable[[str], None]
) -> None:
    state = ledger.ended()
    on("laptop")
    documents = ledger.documents(shared=True)
    assert documents.check(state) == []
    documents.write("a")
    assert not ledger.folder.exists()
    on("pod")
    assert {d.what for d in documents.check(state)} == {"missing"}
    documents.write("a")
    assert (ledger.folder / "metadata.json").is_file()
    on("laptop")  # the same disk after all
    (ledger.folder / "metadata.json").write_text("{}")
    assert [d.what for d in documents.check(state)] == ["differs"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_retired_folder_is_neither_missed_nor_made_until_it_is_back(
    ledger: Ledger, shared: bool
) -> None:
    state = ledger.ended()
    documents = ledger.documents(shared=shared)
    first = ledger.retire("pod")
    assert documents.folders.is_retired(state)
    assert documents.check(state) == []
    documents.write("a")
    assert not ledger.folder.exists()
    back = ledger.bring_back("pod", first)
    assert not documents.folders.is_retired(state)
    assert documents.check(state) != []
    ledger.retire("pod", back)
    assert documents.folders.is_retired(state), "a second time"


def test_half_removed_it_is_retired_for_who_removes_it_and_kept_by_who_has_it(
    ledger: Ledger, on: Callable[[str], None]
) -> None:
    state = ledger.ended()
    ledger.retire("pod")
    ledger.folder.mkdir(parents=True)
    assert ledger.folders(shared=True).is_retired(state)
    on("laptop")
    assert not ledger.folders(shared=True).is_retired(state)
    ledger.folder.rmdir()
    assert ledger.folders(shared=True).is_retired(state)


def test_an_open_run_is_never_retired(ledger: Ledger) -> None:
    state = ledger.requested()
    ledger.retire("pod")
    assert not ledger.folders(shared=False).is_retired(state)
