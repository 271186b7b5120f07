"""A rollback with nothing but the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher import clock
from launcher.errors import IntegrityError, UnavailableError
from launcher.promotion import RaceLostError
from launcher.standalone import StoreRollback
from launcher.storage.port import blob_key
from ledger.events import Generation
from tests.launcher.pointer_world import TARGET, World, student_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Runs a, b and c were promoted, one after another."""
    made = World(tmp_path)
    for run_id in ("a", "b", "c"):
        made.promoter().promote(made.run(run_id), TARGET, automatic=True)
    return made


def alone(world: World, project: str = "p") -> StoreRollback:
    return StoreRollback(world.store, root=world.root, project=project, actor="eve")


def apply(
    rollback: StoreRollback, to: str | None = None, base: int | None = None, **kw: Any
) -> tuple[Generation, str | None]:
    history = rollback.history(TARGET)
    return rollback.apply(
        TARGET,
        history.rollback_target(to),
        reason="bad",
        base=history.latest if base is None else base,
        promotion_id=clock.new_id(),
        time=clock.now(),
        **kw,
    )


def test_it_goes_back_with_the_file_and_the_view(world: World) -> None:
    body, backup = apply(alone(world))
    assert (body.generation, body.kind, body.actor, body.origin) == (4, "rollback", "eve", 2)
    assert backup == f"{TARGET}.bak.b.2"  # .b holds what b itself replaced
    assert world.file().read_bytes() == world.live() == student_of("b")
    assert world.backups()["b.2"] == student_of("c")
    view = world.store.read("pointers/checkpoints%2Fstable%2Fstudent_latest.pt.json")
    assert b'"generation":4' in view


def test_it_is_imported_with_its_hold_by_the_next_writing_command(world: World) -> None:
    apply(alone(world))
    refused = world.promoter().promote(world.run("d"), TARGET, automatic=True)
    assert refused.cause == "held"
    account = world.promoter().journal.pointer(TARGET)
    assert (account.latest, account.held) == (4, {4})


def test_live_already_is_nothing_new_and_mends_the_file(world: World) -> None:
    world.file().write_bytes(b"scribbled")
    body, backup = apply(alone(world), "3")
    assert (body.generation, world.kinds()) == (3, ["promotion"] * 3)
    assert world.file().read_bytes() == student_of("c")
    assert backup == f"{TARGET}.bak.c.2"


def test_a_choice_made_on_an_older_generation_loses(world: World) -> None:
    with pytest.raises(RaceLostError, match="g3 is run c by ana"):
        apply(alone(world), "1", base=2)
    assert world.kinds() == ["promotion"] * 3


def test_a_number_taken_at_the_last_moment_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollback = alone(world)
    create = rollback.pointers.create

    def overtaken(body: Generation) -> None:
        world.promoter().promote(world.run("d"), TARGET, automatic=True)
        create(body)

    monkeypatch.setattr(rollback.pointers, "create", overtaken)
    with pytest.raises(RaceLostError, match="g4 is run d by ana"):
        apply(rollback)
    assert world.file().read_bytes() == world.live() == student_of("d")
    assert [p.name for p in world.file().parent.iterdir() if p.is_dir()] == []


def test_an_answer_that_was_lost_is_read_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.storage.filesystem import FilesystemStore

    create = FilesystemStore.create

    def unanswered(self: FilesystemStore, key: str, data: bytes) -> None:
        create(self, key, data)
        raise UnavailableError("no answer")

    rollback = alone(world)
    monkeypatch.setattr(FilesystemStore, "create", unanswered)
    body, _ = apply(rollback)
    assert rollback.history(TARGET).live == body


def test_a_damaged_checkpoint_is_refused(world: World) -> None:
    digest = world.store.ingest_bytes(student_of("b")).digest
    path = Path(world.store.where, blob_key(digest))
    path.chmod(0o644)
    path.write_bytes(student_of("x"))
    for deep in (False, True):
        with pytest.raises(IntegrityError, match="damaged"):
            apply(alone(world), deep=deep)
    path.unlink()
    with pytest.raises(IntegrityError, match="is not in"):
        apply(alone(world))
    assert world.kinds() == ["promotion"] * 3
    assert world.file().read_bytes() == student_of("c")


def test_another_projects_files_are_left_alone_here(world: World, tmp_path: Path) -> None:
    elsewhere = StoreRollback(world.store, root=tmp_path / "x", project="x", actor="eve")
    body, backup = apply(elsewhere)
    assert (body.project, backup) == ("p", None)
    assert not (tmp_path / "x").exists()
    world.promoter().settle(TARGET)
    assert world.file().read_bytes() == student_of("b")
