"""From flags and a config to a requested run. (What is refused, typed by a user: tests/cli/test_bad_input.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher import config, request
from launcher.cli.runs import config_of
from launcher.errors import ConflictError, UsageError
from launcher.request import Flags
from launcher.storage.blobs import digest_bytes
from launcher.workspace import Workspace, translated
from ledger.canonical import parse_json
from ledger.events import RunRequested
from tests.launcher.small_runs import open_project

CONFIG = (
    "RETRAIN_CMD='train $EPOCHS > \"{CHECKPOINT_DIR}/s.pt\"'\nEPOCHS=3\nPLANNER_API_KEY=hunter2-hunter2\n"
    "TEACHER_CHECKPOINT=teacher.pt\nTEACHER_SCORECARD=card.json\nRELABEL_TAG_FILE={ARTIFACT_DIR}/tags.jsonl\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "my project"
    (made / "data").mkdir(parents=True)
    for name in (
        "teacher.pt",
        "other.pt",
        "card.json",
        "data/a b.txt",
        "data/c.txt",
        "data/rom.gb",
    ):
        (made / name).write_text(name)
    (made / "c.env").write_text(CONFIG)
    return made


def files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def asked(
    ws: Workspace, sets: dict[str, str] | None = None, *, dry_run: bool = False, **flags: Any
) -> RunRequested:
    given = Flags(run_id=flags.pop("run_id", "r"), overrides=sets or {}, **flags)
    parsed = config.load(ws.root / "c.env", sets)
    request.check(given, parsed)
    return request.request_run(ws, parsed, given, dry_run=dry_run)


def test_what_was_asked_for_is_on_record_and_in_the_store(root: Path) -> None:
    ws = open_project(root)
    wanted = asked(ws, labels={"team": "lab"}, note="first\ntry")
    teacher = wanted.teacher_checkpoint
    assert teacher is not None
    assert (teacher.ref, teacher.path, teacher.stored) == ("teacher.pt", "teacher.pt", True)
    assert teacher.digest == digest_bytes(b"teacher.pt").digest
    assert ws.store.read_blob(teacher.digest) == b"teacher.pt"
    assert wanted.relabel_tag_file == "runs/self_distill/r/artifacts/tags.jsonl"
    assert (wanted.output_root, wanted.config.path) == ("runs/self_distill", "c.env")
    assert (wanted.labels, wanted.note) == ({"team": "lab"}, "first\ntry")
    stored = parse_json(ws.store.read_blob(wanted.config.digest))
    assert stored["secret_names"] == ["PLANNER_API_KEY"]
    assert stored["variables"]["EPOCHS"] == "3"
    assert wanted.stages[2].command == 'train $EPOCHS > "{CHECKPOINT_DIR}/s.pt"'
    assert (root / "runs/self_distill/r/checkpoints").is_dir()


def test_a_dry_run_says_the_same_and_leaves_nothing(root: Path) -> None:
    before = files(root)
    with translated():
        dry = asked(open_project(root, writing=False), {"INPUTS": "data/*"}, dry_run=True)
    assert files(root) == before
    assert dry == asked(open_project(root), {"INPUTS": "data/*"})


def test_flags_beat_set_beats_config(root: Path) -> None:
    ws = open_project(root)
    names = {"TEACHER_CHECKPOINT": "other.pt", "RELABEL_TAG_FILE": "set.jsonl", "EPOCHS": "9"}
    by_set = asked(ws, names)
    assert by_set.teacher_checkpoint is not None
    assert (by_set.teacher_checkpoint.ref, by_set.relabel_tag_file) == ("other.pt", "set.jsonl")
    assert by_set.config.overrides == names
    by_flag = asked(
        ws,
        names,
        run_id="r2",
        teacher_checkpoint="teacher.pt",
        relabel_tag_file="out/{RUN_ID}.jsonl",
    )
    assert by_flag.teacher_checkpoint is not None
    assert by_flag.teacher_checkpoint.ref == "teacher.pt"
    assert by_flag.relabel_tag_file == "out/r2.jsonl"


def test_a_secret_that_is_set_is_named_and_not_kept(root: Path) -> None:
    ws = open_project(root)
    sets = {"PLANNER_API_KEY": "another-secret", "URL": "x:another-secret", "EPOCHS": "4"}
    wanted = asked(ws, sets)
    assert wanted.config.overrides == {"PLANNER_API_KEY": None, "URL": None, "EPOCHS": "4"}
    kept = [p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "c.env"]
    assert kept
    assert not [data for data in kept if b"another-secret" in data or b"hunter2" in data]


def test_inputs_are_digested_and_private_ones_never_stored(root: Path) -> None:
    ws = open_project(root)
    wanted = asked(ws, {"INPUTS": "'data/a b.txt' data/*", "INPUTS_PRIVATE": "data/*.gb"})
    found = {i.path: (i.ref, i.stored) for i in wanted.inputs}
    assert found == {
        "data/a b.txt": ("data/a b.txt", True),
        "data/c.txt": ("data/*", True),
        "data/rom.gb": ("data/*.gb", False),
    }
    for given in wanted.inputs:
        assert given.digest == digest_bytes(given.path.encode()).digest
        assert (ws.store.stat_blob(given.digest) is not None) == given.stored


def test_tokens_work_in_inputs_and_places(root: Path) -> None:
    ws = open_project(root)
    wanted = asked(
        ws,
        {"INPUTS": "{TEACHER_SCORECARD}"},
        promotion_target="student",
        promotion_record="out/{RUN_ID}.json",
    )
    assert [i.path for i in wanted.inputs] == ["card.json"]
    assert wanted.promotion is not None
    assert wanted.promotion.record == "out/r.json"
    assert (wanted.promotion.target, wanted.promotion.alert_file) == ("student", None)


def test_too_many_inputs_are_refused(root: Path) -> None:
    for number in range(101):
        (root / "data" / f"{number}.bin").write_text("x")
    with pytest.raises(UsageError, match="INPUTS names 101 files, at most 100"):
        asked(open_project(root), {"INPUTS": "data/*.bin"})


def test_an_id_that_exists_is_refused_and_resume_is_named(root: Path) -> None:
    ws = open_project(root)
    wanted = asked(ws)
    ws.journal.record_run("r", lambda _: [wanted])
    with pytest.raises(ConflictError, match="launcher resume r"):
        asked(ws)
    (root / "runs/self_distill/mine").mkdir()
    (root / "runs/self_distill/mine/logs").mkdir()
    (root / "runs/self_distill/mine/logs/x.log").write_text("not ours")
    with pytest.raises(ConflictError, match="is not empty and no run of this ledger made it"):
        asked(ws, run_id="mine")
    (root / "runs/self_distill/away").symlink_to(root / "data")
    with pytest.raises(ConflictError, match="is no folder"):
        asked(ws, run_id="away")


def test_a_submit_that_died_before_its_run_began_can_be_made_again(root: Path) -> None:
    ws = open_project(root)
    assert replace_provenance(asked(ws)) == replace_provenance(asked(ws))


def replace_provenance(wanted: RunRequested) -> RunRequested:
    return wanted.model_copy(update={"provenance": None})


def test_a_run_without_a_place_to_be_is_not_requested(root: Path) -> None:
    ws = open_project(root)
    for place in ("teacher.pt", "teacher.pt/runs", "/proc/none"):
        with pytest.raises(UsageError, match="cannot be"):
            asked(ws, output_root=place)


def test_a_gate_is_refused_whether_or_not_something_is_to_be_promoted(root: Path) -> None:
    for target in (None, "student"):
        with pytest.raises(UsageError, match="PROMOTION_GATE is not supported by this version"):
            asked(open_project(root), {"PROMOTION_GATE": "x > 1"}, promotion_target=target)


def test_the_ledger_and_the_store_are_nobody_s_target(root: Path) -> None:
    ws = open_project(root)
    home = "runs/self_distill"
    for place in (
        f"{home}/ledger.db",
        f"{home}/ledger.db-journal",
        f"{home}/objects/x",
        f"{home}/locks/x.pt",
    ):
        for flag in ("promotion_target", "promotion_record", "storage_alert_file"):
            flags = {"promotion_target": "student", flag: place}
            with pytest.raises(UsageError, match="own"):
                asked(ws, **flags)
        with pytest.raises(UsageError, match="own"):
            asked(ws, relabel_tag_file=place)


def test_preflight_changes_nothing_and_finds_what_request_run_finds(root: Path) -> None:
    parsed = config.load(root / "c.env")
    before = files(root)
    ws = open_project(root, writing=False)
    request.preflight(ws, parsed, Flags("r"))
    for wrong in ("none.pt", "data", "run:none", "pointer:none"):
        with pytest.raises(UsageError), translated():
            request.preflight(ws, parsed, replace(Flags("r"), teacher_checkpoint=wrong))
    assert files(root) == before


def test_a_resumed_run_takes_its_secrets_from_where_they_came_from(root: Path) -> None:
    ws = open_project(root)
    env = {"PLANNER_API_KEY": "of-the-environment", "HOME": "/"}
    for run_id, sets, found in (
        ("a", {}, "hunter2-hunter2"),
        ("b", {"PLANNER_API_KEY": "set-by-hand"}, env["PLANNER_API_KEY"]),
    ):
        wanted = asked(ws, sets, run_id=run_id)
        state = ws.journal.record_run(run_id, lambda _, wanted=wanted: [wanted])
        assert config_of(ws, state, env).variables["PLANNER_API_KEY"] == found
    # The file's value is another one than --set gave: better none than the wrong one.
    with pytest.raises(UsageError, match="the secret PLANNER_API_KEY is neither in"):
        config_of(ws, state, {"HOME": "/"})
