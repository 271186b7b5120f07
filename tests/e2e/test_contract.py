"""The pipeline's written contract, word for word: typed as a user types it, in a folder of his own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.project import (
    CONFIG,
    PYBOY,
    REPOSITORY,
    SCORECARD,
    SCRIPT,
    TARGET,
    TEACHER,
    Project,
    make_project,
)
from tests.rig.stores import in_bucket


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after two promoted runs, ``first`` and ``second``. Tests only look at it."""
    project = make_project(tmp_path_factory.mktemp("contract") / "my project")
    for run_id in ("first", "second"):
        done = project.script("--run-id", run_id, "--promotion-target", TARGET)
        assert done.code == 0, done
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "my project")


def with_line(name: str, line: str) -> str:
    """The config with ``name``'s value replaced by ``line`` (or taken out)."""
    kept, count = re.subn(rf"(?ms)^{name}=('[^']*'|\"(?:\\.|[^\"])*\"|[^\n]*)\n", line, PYBOY)
    assert count == 1
    return kept


def test_a_run_leaves_exactly_the_files_of_the_contract(finished: Project) -> None:
    run = {
        "artifacts/planlets.txt",
        "artifacts/tags.jsonl",
        "checkpoints/student.pt",
        "logs/01_llm_on.log",
        "logs/02_relabel.log",
        "logs/03_retrain.log",
        "logs/04_llm_off.log",
        "metadata.json",
        "metadata/metrics.json",
        "metadata/promotion.json",
        "metadata/relabel_tags.json",
        "metadata/storage_alert.txt",
    }
    runs = {f"runs/self_distill/{name}/{path}" for name in ("first", "second") for path in run}
    given = {CONFIG, TEACHER, SCORECARD}
    promoted = {TARGET, f"{TARGET}.bak.second", "checkpoints/stable/.student_latest.pt.lock"}
    ledger = {"runs/self_distill/ledger.db", "runs/self_distill/ledger.db-journal"}
    assert finished.files() - ledger == runs | given | promoted
    assert ("runs/self_distill/ledger.db" in finished.files()) is not in_bucket()


def test_metadata_says_what_the_contract_says(finished: Project) -> None:
    found = finished.metadata("second")
    assert found["run_id"] == "second"
    assert found["config"] == CONFIG
    assert found["teacher_checkpoint"] == TEACHER
    assert found["teacher_scorecard"] == SCORECARD
    assert found["student_checkpoint"] == "runs/self_distill/second/checkpoints/student.pt"
    assert found["started_at"] < found["completed_at"]
    assert found["status"] == "succeeded"
    assert found["metrics"] == {"success_rate": 0.75}
    stages = found["stages"]
    assert [s["stage"] for s in stages] == ["llm_on", "relabel", "retrain", "llm_off"]
    assert {s["status"] for s in stages} == {"completed"}
    assert stages[0]["command"].startswith('echo "$GREETING" | tee "$ARTIFACT_DIR/planlets.txt" &&')
    assert "${RUN_ID:-none} {RUN_ID} $(basename" in stages[0]["command"]
    assert stages[1]["command"].count("\n") == 2
    for number, stage in enumerate(stages, start=1):
        log = f"runs/self_distill/second/logs/{number:02d}_{stage['stage']}.log"
        assert stage["log"] == log
        assert (finished.root / log).is_file()


def test_a_command_sees_what_was_written(finished: Project) -> None:
    log = (finished.run_dir("second") / "logs" / "01_llm_on.log").read_text()
    assert log == "it's a 'teacher'\nsecond second second\nteacher\n"
    student = (finished.run_dir("second") / "checkpoints" / "student.pt").read_text()
    assert student == "teacher\n1 second\n"


def test_relabel_tags_are_pending_until_the_downstream_job_has_looked(project: Project) -> None:
    assert project.script("--run-id", "r").code == 0
    path = "runs/self_distill/r/metadata/relabel_tags.json"
    tags = project.json(path)
    assert tags["planlet_tag_file"] == "runs/self_distill/r/artifacts/tags.jsonl"
    assert tags["teacher_scorecard"] == SCORECARD
    assert tags["teacher_checkpoint"] == TEACHER
    assert tags["status"] == "pending"
    assert project.launcher("tags", "validate", "r").code == 0
    assert project.json(path)["status"] == "validated"
    assert project.launcher("tags", "validate", "r", "--schema", "planlet-v0.1").code == 4
    assert project.json(path)["status"] == "rejected"
    assert project.launcher("replay", "--check").code == 0


def test_a_downstream_job_may_edit_the_status_itself(project: Project) -> None:
    assert project.script("--run-id", "r").code == 0
    path = project.root / "runs/self_distill/r/metadata/relabel_tags.json"
    path.write_text(path.read_text().replace('"pending"', '"validated"'))
    assert project.launcher("replay", "--check").code == 0
    assert project.script("--run-id", "next").code == 0
    assert json.loads(path.read_text())["status"] == "validated"
    assert project.launcher("audit").code == 0


def test_promotion_keeps_a_backup_and_says_how_to_go_back(finished: Project) -> None:
    record = finished.json("runs/self_distill/second/metadata/promotion.json")
    assert record["run_id"] == "second"
    assert record["promoted_from"] == "runs/self_distill/second/checkpoints/student.pt"
    assert record["promoted_to"] == TARGET
    assert record["backup"] == f"{TARGET}.bak.second"
    assert record["generation"] == 2
    assert record["rollback"] == f"launcher rollback {TARGET} --to 1"
    assert (finished.root / TARGET).read_text() == "teacher\n1 second\n"
    assert (finished.root / record["backup"]).read_text() == "teacher\n1 first\n"
    alert = (finished.run_dir("second") / "metadata" / "storage_alert.txt").read_text()
    assert bool(re.search(r"^Free: \d+ bytes", alert, re.M)) is not in_bucket()
    assert re.search(r"^  students +33 bytes", alert, re.M)


def test_rollback_puts_the_previous_checkpoint_back_and_the_reason_is_kept(
    project: Project,
) -> None:
    target = project.root / TARGET
    for run_id in ("a", "b"):
        assert project.script("--run-id", run_id, "--promotion-target", TARGET).code == 0
    done = project.launcher("rollback", TARGET, "--reason", "stuck in menus", "--yes")
    assert done.code == 0, done
    assert target.read_text() == "teacher\n1 a\n"
    held = project.script("--run-id", "c", "--promotion-target", TARGET)
    assert held.code == 3
    assert project.metadata("c")["status"] == "succeeded"
    assert target.read_text() == "teacher\n1 a\n"
    for to, holds in (("b", "b"), ("1", "a"), ("2", "b")):
        assert project.launcher("rollback", TARGET, "--to", to, "--yes").code == 0
        assert target.read_text() == f"teacher\n1 {holds}\n"
    assert project.launcher("release", TARGET).code == 0
    assert project.launcher("promote", "c", TARGET).code == 0
    assert target.read_text() == "teacher\n1 c\n"
    pointers = json.loads(project.launcher("pointers", TARGET, "--json").out)
    assert [g["reason"] for g in pointers["generations"]].count("stuck in menus") == 1
    assert project.launcher("audit").code == 0


def test_documents_go_where_they_are_asked_to_go(project: Project) -> None:
    done = project.script(
        *("--run-id", "r", "--output-root", "my runs", "--promotion-target", TARGET),
        *("--promotion-record", "out/record.json", "--storage-alert-file", "out/alert.txt"),
        *("--relabel-tag-file", "out/{RUN_ID} tags.jsonl"),
    )
    assert done.code == 0, done
    assert project.json("out/record.json")["run_id"] == "r"
    assert (project.root / "out/alert.txt").read_text().startswith("Storage at ")
    assert (project.root / "out/r tags.jsonl").read_text().count("\n") == 3
    assert project.json("my runs/r/metadata.json")["status"] == "succeeded"
    tags = project.json("my runs/r/metadata/relabel_tags.json")
    assert tags["planlet_tag_file"] == "out/r tags.jsonl"
    assert project.launcher("audit").code == 0


def test_a_failing_stage_ends_the_run_with_its_own_code(project: Project) -> None:
    config = with_line("RETRAIN_CMD", "RETRAIN_CMD='echo epoch 1; echo out of luck >&2; exit 7'\n")
    (project.root / CONFIG).write_text(config)
    done = project.script("--run-id", "r", "--promotion-target", TARGET)
    assert done.code == 7
    assert "out of luck" in done.out + done.err
    last = done.err.strip().splitlines()[-1]
    assert last.endswith("stage=retrain cause=application exit_code=7"), last
    found = project.metadata("r")
    assert found["status"] == "failed"
    assert [s["status"] for s in found["stages"]] == ["completed", "completed", "failed", "pending"]
    assert found["stages"][2]["exit_code"] == 7
    assert found["student_checkpoint"] is None
    assert found["completed_at"] is not None
    assert not (project.root / TARGET).exists()


def test_without_llm_off_cmd_the_evaluation_is_skipped(project: Project) -> None:
    (project.root / CONFIG).write_text(with_line("LLM_OFF_CMD", ""))
    done = project.script("--run-id", "r")
    assert done.code == 0
    assert "LLM_OFF_CMD" not in done.err
    stages = project.metadata("r")["stages"]
    assert [s["status"] for s in stages] == ["completed"] * 3 + ["skipped"]


def test_the_newest_checkpoint_is_the_student_and_a_glob_narrows_it(project: Project) -> None:
    commands = (
        'RETRAIN_CMD=\'cd "$CHECKPOINT_DIR"; echo 1 > best-1.ckpt; echo 2 > last.safetensors; '
        'touch -d "2 hours ago" best-1.ckpt; echo no > notes.txt\'\n'
    )
    (project.root / CONFIG).write_text(with_line("RETRAIN_CMD", commands).replace("grep -q", "#"))
    assert project.script("--run-id", "newest").code == 0
    student = project.metadata("newest")["student_checkpoint"]
    assert student == "runs/self_distill/newest/checkpoints/last.safetensors"
    narrowed = project.script("--run-id", "narrowed", "--set", "STUDENT_CHECKPOINT_GLOB=best-*")
    assert narrowed.code == 0
    student = project.metadata("narrowed")["student_checkpoint"]
    assert student == "runs/self_distill/narrowed/checkpoints/best-1.ckpt"


def test_the_loop_closes_with_the_promoted_student_as_teacher(project: Project) -> None:
    assert project.script("--run-id", "a", "--promotion-target", TARGET).code == 0
    given = ["--config", CONFIG, "--teacher-scorecard", SCORECARD, "--run-id", "b"]
    done = project.bare("bash", str(SCRIPT), *given, "--teacher-checkpoint", f"pointer:{TARGET}")
    assert done.code == 0, done
    log = (project.run_dir("b") / "logs" / "01_llm_on.log").read_text()
    assert log.endswith("teacher\n1 a\n")


def test_a_dry_run_shows_the_plan_and_leaves_nothing(project: Project) -> None:
    before = project.files()
    done = project.script("--run-id", "r", "--promotion-target", TARGET, "--dry-run")
    assert done.code == 0, done
    for shown in ("run r", TEACHER, TARGET, "$ARTIFACT_DIR/planlets.txt"):
        assert shown in done.out
    assert project.files() == before
    assert not (project.root / "runs").exists()


def test_help_names_every_option_of_the_contract(project: Project) -> None:
    done = project.bare("bash", str(SCRIPT), "--help")
    assert done.code == 0
    options = "config teacher-checkpoint teacher-scorecard promotion-target promotion-record"
    options += " storage-alert-file run-id output-root relabel-tag-file dry-run"
    for option in options.split():
        assert f"--{option}" in done.out


def test_the_script_finds_its_environment_from_a_link_in_any_folder(project: Project) -> None:
    link = project.root / "tools" / "distill"
    link.parent.mkdir()
    link.symlink_to(SCRIPT)
    project.environment = {"CDPATH": str(project.root), "PATH": "/usr/bin:/bin"}
    done = project.bare(
        "bash", "tools/distill", "--config", CONFIG, "--teacher-checkpoint", TEACHER
    )
    assert done.code == 0, done


def test_a_checkout_without_an_environment_says_what_to_type(tmp_path: Path) -> None:
    copy = tmp_path / "a clone" / "scripts" / "self_distill.sh"
    copy.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, copy)
    project = Project(tmp_path, {"PATH": "/usr/bin:/bin"})
    done = project.bare("bash", str(copy), "--help")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert re.search(r"make -C .*a\\ clone setup", done.err)


def test_the_template_is_filled_in_and_runs(project: Project) -> None:
    template = (REPOSITORY / "configs/self_distill/template.env").read_text()
    config = project.root / CONFIG
    config.write_text(template)
    unfilled = project.script("--run-id", "unfilled")
    assert unfilled.code == 2
    assert "no stage command at all" in unfilled.err
    filled = template.replace("LLM_ON_CMD=''", "LLM_ON_CMD='touch \"$ARTIFACT_DIR/planlets\"'")
    filled = filled.replace(
        "RELABEL_CMD=''",
        'RELABEL_CMD=\'echo "{\\"planlet_id\\": 1}" > "$RELABEL_TAG_FILE"\'',
    )
    config.write_text(
        filled.replace("RETRAIN_CMD=''", "RETRAIN_CMD='echo s > \"$CHECKPOINT_DIR/s.pt\"'")
    )
    done = project.script("--run-id", "filled")
    assert done.code == 0, done
    assert "warning" not in done.err


def test_every_commented_key_of_the_template_is_a_real_one(project: Project) -> None:
    template = (REPOSITORY / "configs/self_distill/template.env").read_text()
    config = re.sub(r"^# ([A-Z_]+=)", r"\1", template, flags=re.M).replace(
        "# artifacts/", "artifacts/"
    )
    config = config.replace("LLM_ON_CMD=''", "LLM_ON_CMD=true", 1)
    for path in ("prompts/a.txt", "roms/a.gb"):
        (project.root / path).parent.mkdir()
        (project.root / path).write_text("x")
    (project.root / CONFIG).write_text(config)
    done = project.script("--run-id", "r", "--dry-run")
    assert done.code == 0, done
    assert "looks like" not in done.err
