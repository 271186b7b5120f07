"""How a user names a run, a checkpoint, an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import IntegrityError, UsageError
from launcher.refs import find_run, matching_runs, resolve_digest, resolve_input, short_id
from launcher.storage.port import blob_key
from tests.launcher.pointer_world import TARGET, World, student_of

IDS = [
    "20260609T021500Z-b21c",
    "20260611T021500Z-7f3a",
    "20260611T031500Z-7f3b",
    "nightly",
    "night",
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for run_id in IDS:
        made.run(run_id)
    return made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (IDS[1], [1]),
        ("0611-7f3a", [1]),
        ("7f3a", [1]),
        ("20260609", [0]),
        ("20260611", [1, 2]),
        ("night", [4]),
        ("nightl", [3]),
        ("0611", []),
        ("", []),
        ("7F3A", []),
    ],
)
def test_runs_by_id_short_id_beginning_or_end(world: World, text: str, found: list[int]) -> None:
    wanted = [IDS[i] for i in found]
    assert matching_runs(IDS, text) == wanted
    if len(wanted) == 1:
        assert find_run(world.promoter().journal, text) == wanted[0]
    else:
        with pytest.raises(UsageError, match="names 2 runs" if wanted else "no run"):
            find_run(world.promoter().journal, text)


def test_what_a_screen_shows_can_be_typed() -> None:
    for run_id in IDS:
        assert matching_runs(IDS, short_id(run_id)) == [run_id]


def resolve(world: World, ref: str) -> tuple[str, str, str]:
    found = resolve_digest(ref, world.promoter().journal, world.store, world.root)
    assert found.size_bytes == len(world.store.read_blob(found.digest))
    return world.store.read_blob(found.digest).decode(), found.suffix, found.shown


def test_checkpoints_by_run_pointer_and_digest(world: World) -> None:
    student = student_of("nightly").decode()
    path = "runs/self_distill/nightly/checkpoints/student.pt"
    assert resolve(world, "run:nightly") == (student, ".pt", path)
    for target in ("student", TARGET, "v1.5"):
        world.promoter().promote(world.run("nightly"), target, automatic=False)
    assert resolve(world, "pointer:student") == (student, ".pt", "student")
    assert resolve(world, "pointer:v1.5") == (student, ".pt", "v1.5")
    for name in (TARGET, f"./{TARGET}", str(world.root / TARGET)):
        assert resolve(world, f"pointer:{name}") == (student, ".pt", TARGET)
    digest = world.store.ingest_bytes(student.encode()).digest
    for ref in (digest, digest[:19], digest[:19] + "…"):
        assert resolve(world, ref) == (student, ".pt", digest[7:19])
    other = world.store.ingest_bytes(b"no checkpoint").digest
    assert resolve(world, other) == ("no checkpoint", "", other[7:19])


def test_what_leads_nowhere(world: World) -> None:
    world.run("empty", None)
    digest = world.store.ingest_bytes(b"x").digest
    for ref, said in (
        ("run:empty", "has no student checkpoint"),
        ("run:nobody", "no run 'nobody'"),
        ("pointer:nothing", "names nothing yet"),
        ("pointer:../x", "not allowed"),
        ("sha256:" + "0" * 12, "no blob"),
        (digest[:18], "is not allowed"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve(world, ref)
    with pytest.raises(IntegrityError, match="is not in"):
        resolve(world, "sha256:" + "0" * 64)


def test_the_beginning_of_two_digests_is_none(world: World) -> None:
    digest = world.store.ingest_bytes(b"x").digest
    twin = digest[:-4] + ("0000" if not digest.endswith("0000") else "1111")
    Path(world.store.where, blob_key(twin)).write_bytes(b"")
    with pytest.raises(UsageError, match="names 2 blobs"):
        resolve(world, digest[:30])


def test_a_damaged_pointer_is_not_resolved(world: World) -> None:
    world.promoter().promote(world.run("nightly"), "student", automatic=False)
    digest = world.store.ingest_bytes(student_of("nightly")).digest
    Path(world.store.where, blob_key(digest)).unlink()
    with pytest.raises(IntegrityError, match=digest):
        resolve(world, "pointer:student")


def test_an_input_is_stored_and_relative_where_it_lies_inside(world: World, tmp_path: Path) -> None:
    root, journal = tmp_path, world.promoter().journal
    (root / "a teacher.pt").write_bytes(b"teacher")
    given = resolve_input(
        "a teacher.pt", root, root / "inputs", "teacher_checkpoint", journal, world.store
    )
    assert (given.ref, given.path, given.size_bytes) == ("a teacher.pt", "a teacher.pt", 7)
    assert world.store.read_blob(given.digest) == b"teacher"
    given = resolve_input(
        "run:nightly", root, root / "inputs", "teacher_checkpoint", journal, world.store
    )
    assert given.path == "inputs/teacher_checkpoint.pt"
    for ref, said in (("nowhere.pt", "is not there"), (".", "is not a file")):
        with pytest.raises(UsageError, match=said):
            resolve_input(ref, root, root / "inputs", "teacher", journal, world.store)
